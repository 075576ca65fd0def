//! Dead letters are given up: for the command line and the console alike.

use deadpool_postgres::Object;
use serde_json::json;

use crate::OpsError;
use crate::commands::Accountable;
use crate::filter::Filter;
use crate::store::{audit, dead_letters};

/// More at once needs `--force`.
pub const MOST: i64 = 10_000;
/// Ids named in one audit entry: more are named in further ones.
const MOST_IN_ENTRY: usize = 1_000;

/// More than [`MOST`] need `force`; more than `max` are never taken.
pub fn check_cap(count: i64, max: Option<i64>, force: bool) -> Result<(), OpsError> {
    if let Some(max) = max.filter(|max| count > *max) {
        let text = format!("{count} dead letters are more than --max {max}");
        return Err(OpsError::Refused(text));
    }
    if count > MOST && !force {
        let text = format!("{count} dead letters are more than {MOST}: say --force");
        return Err(OpsError::Refused(text));
    }
    Ok(())
}

/// Gives matching dead letters up for good, with their audit entry, and returns their ids. What somebody else is busy with
/// is left out; nothing is noted where nothing was done.
pub async fn discard(
    client: &mut Object,
    filter: &Filter,
    most: i64,
    accountable: &Accountable,
) -> Result<Vec<String>, OpsError> {
    let tx = client.transaction().await?;
    let discarded = dead_letters::discard(&tx, filter, most).await?;
    if discarded.is_empty() {
        return Ok(Vec::new());
    }
    let Accountable { actor, reason } = accountable;
    for named in discarded.chunks(MOST_IN_ENTRY) {
        let ids: Vec<String> = named.iter().map(|letter| letter.id.to_string()).collect();
        let events: Vec<&String> = named
            .iter()
            .filter_map(|letter| letter.event_id.as_ref())
            .collect();
        let details = json!({ "filter": filter, "matched": most, "done": discarded.len(), "ids": ids, "event_ids": events });
        audit::note(&tx, actor, "dead_letters.discard", reason, &details).await?;
    }
    tx.commit().await?;
    Ok(discarded
        .iter()
        .map(|letter| letter.id.to_string())
        .collect())
}
