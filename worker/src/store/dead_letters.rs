//! Dead letters of messages that name no stored event.

use deadpool_postgres::GenericClient;
use shared::database::{StoreError, execute};

use crate::fingerprint::VERSION;

/// Keeps a message whole. The same message is kept once while it is unresolved: its delivery may be repeated.
pub async fn keep_message(
    client: &impl GenericClient,
    message: &[u8],
    reason: &str,
    error: &str,
    fingerprint: &str,
) -> Result<(), StoreError> {
    const KEEP: &str = "
        INSERT INTO dead_letters (reason, error, fingerprint, message, fingerprint_version)
        SELECT $1, $2, $3, $4, $5
        WHERE NOT EXISTS (
            SELECT FROM dead_letters WHERE event_id IS NULL AND resolved_at IS NULL AND fingerprint = $3 AND message = $4
        )";
    execute(
        client,
        KEEP,
        &[&reason, &error, &fingerprint, &message, &VERSION],
    )
    .await?;
    Ok(())
}
