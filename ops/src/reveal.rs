//! A payload is seen as it is: for the command line and the console alike.

use deadpool_postgres::Object;
use serde_json::json;

use crate::OpsError;
use crate::commands::Accountable;
use crate::store::{audit, events};

/// Notes who sees the payload of an event and why. To be called before it is shown.
pub async fn note(
    client: &mut Object,
    id: &str,
    accountable: &Accountable,
) -> Result<(), OpsError> {
    let tx = client.transaction().await?;
    events::find(&tx, id)
        .await?
        .ok_or_else(|| OpsError::NotFound(format!("there is no event {id}")))?;
    let details = json!({ "event_ids": [id] });
    let Accountable { actor, reason } = accountable;
    audit::note(&tx, actor, "event.reveal", reason, &details).await?;
    tx.commit().await?;
    Ok(())
}
