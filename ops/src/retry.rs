//! One event is tried again: for the command line and the console alike.

use deadpool_postgres::Object;
use serde_json::json;

use crate::OpsError;
use crate::commands::Accountable;
use crate::commands::replay::check_budget;
use crate::filter::Filter;
use crate::store::{audit, dead_letters, events};

/// Puts a dead event back to work, or makes the next attempt of one that waits for it due now; with its audit entry.
/// `force` takes one that was replayed too often already.
pub async fn retry(
    client: &mut Object,
    id: &str,
    force: bool,
    accountable: &Accountable,
) -> Result<(), OpsError> {
    let tx = client.transaction().await?;
    let event = events::find(&tx, id)
        .await?
        .ok_or_else(|| OpsError::NotFound(format!("there is no event {id}")))?;
    let retried = match event.state.as_str() {
        "dead" => {
            let filter = Filter {
                ids: vec![id.to_owned()],
                ..Filter::default()
            };
            check_budget(&tx, &filter, force).await?;
            dead_letters::replay(&tx, &filter, 1).await?.len() == 1
        }
        "retrying" => events::hurry(&tx, id).await?,
        "received" => {
            return Err(OpsError::Refused(format!(
                "{id} is received: its first attempt is on its way"
            )));
        }
        state => {
            return Err(OpsError::Refused(format!(
                "{id} is {state}, which is final: there is nothing to retry"
            )));
        }
    };
    if !retried {
        return Err(OpsError::Conflict(format!(
            "{id} changed meanwhile: look at it again"
        )));
    }
    let details = json!({ "event_ids": [id], "state_before": event.state, "force": force });
    let Accountable { actor, reason } = accountable;
    audit::note(&tx, actor, "event.retry", reason, &details).await?;
    tx.commit().await?;
    Ok(())
}
