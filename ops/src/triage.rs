//! What operators make of a group of dead letters: for the command line and the console alike.

use deadpool_postgres::Object;
use serde_json::json;

use crate::OpsError;
use crate::store::audit;
use crate::store::console::groups::{self, Group};

/// Every state of a group.
pub const STATES: [&str; 4] = ["open", "acknowledged", "resolved", "ignored"];
/// The longest note.
const MAX_NOTE: usize = 4_000;

/// Puts a group into a state, with a note and an audit entry. Whoever calls a group done with says why.
pub async fn change(
    client: &mut Object,
    fingerprint: &str,
    state: &'static str,
    note: &str,
    actor: &str,
) -> Result<Group, OpsError> {
    check(state, note)?;
    let not_found = || OpsError::NotFound(format!("there is no group {fingerprint}"));
    let tx = client.transaction().await?;
    let before = groups::find(&tx, fingerprint)
        .await?
        .ok_or_else(not_found)?;
    groups::change(&tx, fingerprint, state, note, actor).await?;
    let details = json!({ "fingerprint": fingerprint, "state": state, "state_before": before.state, "note": note });
    let reason = if note.is_empty() { "no note" } else { note };
    audit::note(&tx, actor, "group.change", reason, &details).await?;
    let group = groups::find(&tx, fingerprint)
        .await?
        .ok_or_else(not_found)?;
    tx.commit().await?;
    Ok(group)
}

/// What a note must be, before anything is asked for.
pub fn check(state: &str, note: &str) -> Result<(), OpsError> {
    if note.chars().count() > MAX_NOTE {
        let text = format!("the note is longer than {MAX_NOTE} characters");
        return Err(OpsError::Usage(text));
    }
    if ["resolved", "ignored"].contains(&state) && note.trim().is_empty() {
        let text = format!("a group that is {state} takes a note: what was done, or why not");
        return Err(OpsError::Usage(text));
    }
    Ok(())
}
