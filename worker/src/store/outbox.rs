//! The outbox, as the relay sees it.

use deadpool_postgres::GenericClient;
use shared::broker::Message;
use shared::database::{StoreError, execute, query};

/// A message to publish.
pub struct OutboxRow {
    /// The row's id.
    pub id: i64,
    /// What to publish.
    pub message: Message,
    /// Whether its event still waits for it.
    pub wanted: bool,
}

/// Takes rows that are due, for ten seconds: a relay that dies meanwhile, or whose claim the database carries out after
/// the relay has given up on it, leaves them to the others. No transaction is
/// held while they are published.
pub async fn claim(client: &impl GenericClient, most: i64) -> Result<Vec<OutboxRow>, StoreError> {
    const CLAIM: &str = "
        WITH due AS (
            SELECT id, event_id FROM outbox WHERE available_at <= now() ORDER BY available_at LIMIT $1 FOR UPDATE SKIP LOCKED
        )
        UPDATE outbox SET available_at = now() + interval '10 seconds'
        FROM due LEFT JOIN webhook_events event ON event.id = due.event_id
        WHERE outbox.id = due.id
        RETURNING outbox.id, outbox.event_id, coalesce(event.type, '') AS type, outbox.traceparent,
            coalesce(event.state IN ('received', 'retrying'), false) AS wanted";
    let rows = query(client, CLAIM, &[&most]).await?;
    Ok(rows
        .iter()
        .map(|row| OutboxRow {
            id: row.get("id"),
            message: Message {
                event_id: row.get("event_id"),
                event_type: row.get("type"),
                traceparent: row.get("traceparent"),
            },
            wanted: row.get("wanted"),
        })
        .collect())
}

/// Clears published rows; from now on the rescue counts.
pub async fn clear(client: &impl GenericClient, ids: &[i64]) -> Result<(), StoreError> {
    const CLEAR: &str = "
        WITH cleared AS (
            DELETE FROM outbox WHERE id = ANY($1) RETURNING event_id
        ), waiting AS (
            -- In the order in which gateways lock them.
            SELECT id FROM webhook_events WHERE id IN (SELECT event_id FROM cleared)
                AND state IN ('received', 'retrying') AND rescue_from < now()
            ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE webhook_events event SET rescue_from = now() FROM waiting WHERE event.id = waiting.id";
    execute(client, CLEAR, &[&ids]).await?;
    Ok(())
}

/// Gives back rows that could not be published.
pub async fn release(client: &impl GenericClient, ids: &[i64]) -> Result<(), StoreError> {
    execute(
        client,
        "UPDATE outbox SET available_at = now() WHERE id = ANY($1)",
        &[&ids],
    )
    .await?;
    Ok(())
}
