//! The audit log: written in the transaction of what it tells, where there is one.

use deadpool_postgres::GenericClient;
use serde_json::Value;
use shared::database::{StoreError, execute};

/// Notes who did what, to what, and why.
pub async fn note(
    client: &impl GenericClient,
    actor: &str,
    action: &str,
    reason: &str,
    details: &Value,
) -> Result<(), StoreError> {
    const NOTE: &str =
        "INSERT INTO audit_log (actor, action, reason, details) VALUES ($1, $2, $3, $4)";
    execute(client, NOTE, &[&actor, &action, &reason, details]).await?;
    Ok(())
}
