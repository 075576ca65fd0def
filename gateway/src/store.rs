//! The gateway's SQL. It runs under a role that can insert events and outbox rows, and little else.

use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, execute, query_opt, with_client};

use crate::envelope::Envelope;

/// Event, body and outbox row in one statement, so that one round trip and one commit make the event durable. A known
/// id only counts as delivered once more: its count above one says so. `DO UPDATE` and not a second statement, because
/// only it sees a row that another connection has just committed.
const INSERT: &str = "
    WITH event AS (
        INSERT INTO webhook_events (id, type, livemode, api_version, account, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET deliveries = webhook_events.deliveries + 1
        RETURNING id, deliveries
    ), payload AS (
        INSERT INTO event_payloads (event_id, body) SELECT id, $7 FROM event WHERE deliveries = 1
    )
    INSERT INTO outbox (event_id, available_at, traceparent)
    SELECT id, now() + make_interval(secs => $8), $9 FROM event WHERE deliveries = 1
    RETURNING id";

/// Stores events.
#[derive(Clone)]
pub struct EventStore {
    pool: Pool,
    timeout: Duration,
    outbox_grace: Duration,
}

/// What became of a webhook's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new: its message waits in this outbox row.
    New {
        /// The row's id.
        outbox_id: i64,
    },
    /// It was stored before.
    Duplicate,
}

impl EventStore {
    /// A store on a pool; each wait is bounded by `timeout`.
    pub fn new(pool: Pool, timeout: Duration, outbox_grace: Duration) -> Self {
        Self {
            pool,
            timeout,
            outbox_grace,
        }
    }

    /// Stores the event with the exact bytes of its body. When this returns, the event is durable.
    pub async fn insert(
        &self,
        envelope: &Envelope,
        body: &[u8],
        traceparent: &str,
    ) -> Result<Stored, StoreError> {
        let grace = self.outbox_grace.as_secs_f64();
        let row = with_client(&self.pool, self.timeout, async |client| {
            query_opt(
                client,
                INSERT,
                &[
                    &envelope.id,
                    &envelope.event_type,
                    &envelope.livemode,
                    &envelope.api_version,
                    &envelope.account,
                    &envelope.created_at,
                    &body,
                    &grace,
                    &traceparent,
                ],
            )
            .await
        })
        .await?;
        Ok(row.map_or(Stored::Duplicate, |row| Stored::New {
            outbox_id: row.get(0),
        }))
    }

    /// Clears outbox rows whose messages the broker has confirmed.
    pub async fn clear_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        with_client(&self.pool, self.timeout, async |client| {
            execute(client, "DELETE FROM outbox WHERE id = ANY($1)", &[&ids]).await
        })
        .await?;
        Ok(())
    }
}
