//! The way back: state, resolution and outbox row of an event are one statement.

use deadpool_postgres::Transaction;

use crate::database::{StoreError, query};

/// Puts the events of these dead letters back to work, with a fresh budget of attempts, and returns the ids of those
/// that were dead until now. Locks the dead letters in the order of their ids, so that two at once never wait for each
/// other in a circle.
pub async fn put_back(
    tx: &Transaction<'_>,
    dead_letter_ids: &[i64],
) -> Result<Vec<String>, StoreError> {
    const LOCK: &str = "
        SELECT id FROM dead_letters WHERE id = ANY($1) AND resolved_at IS NULL AND event_id IS NOT NULL
        ORDER BY id FOR UPDATE";
    const PUT_BACK: &str = "
        WITH event AS (
            UPDATE webhook_events
            SET state = 'received', finished_at = NULL, budget_from = attempts, rescue_from = now(), rescues = 0
            FROM dead_letters letter
            WHERE letter.id = ANY($1) AND webhook_events.id = letter.event_id AND state = 'dead'
            RETURNING webhook_events.id
        ), message AS (
            INSERT INTO outbox (event_id) SELECT id FROM event
        )
        UPDATE dead_letters letter SET resolved_at = now(), resolution = 'replayed'
        FROM event WHERE letter.event_id = event.id AND letter.id = ANY($1)
        RETURNING letter.event_id";
    let open: Vec<i64> = query(tx, LOCK, &[&dead_letter_ids])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    Ok(query(tx, PUT_BACK, &[&open])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}
