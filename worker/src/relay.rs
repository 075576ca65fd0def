//! The relay: publishes what is due in the outbox, which is every retry and replay, and whatever a gateway could not
//! publish itself. Any number of workers relay at once.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use shared::broker::{Message, Publisher};
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::store::outbox::{self, OutboxRow};

const BATCH: usize = 64;
const IDLE: Duration = Duration::from_millis(250);
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Moves messages from the outbox to the broker.
pub struct Relay {
    pool: Pool,
    publisher: Publisher,
    metrics: Metrics,
    wake: Arc<Notify>,
}

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Rows that were due.
    pub claimed: usize,
    /// Of them, rows whose message could not be published.
    pub failed: usize,
}

impl Relay {
    /// A relay; `wake` tells it that this worker has just written to the outbox.
    pub fn new(pool: Pool, publisher: Publisher, metrics: Metrics, wake: Arc<Notify>) -> Self {
        Self {
            pool,
            publisher,
            metrics,
            wake,
        }
    }

    /// Relays until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let pause = match self.run_once().await {
                Ok(Relayed { failed, .. }) if failed > 0 => AFTER_FAILURE,
                Ok(Relayed { claimed: BATCH, .. }) => Duration::ZERO,
                Ok(_) => IDLE,
                Err(error) => {
                    debug!(%error, "the relay waits");
                    AFTER_FAILURE
                }
            };
            let goes_on = tokio::select! {
                slept = sleep_unless(&shutdown, pause) => slept,
                () = self.wake.notified(), if pause == IDLE => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Publishes one batch. While the broker takes nothing, nothing is claimed.
    pub async fn run_once(&mut self) -> Result<Relayed, StoreError> {
        if !self.publisher.is_connected() || shared::sabotaged!("relay") {
            return Ok(Relayed {
                claimed: 0,
                failed: 0,
            });
        }
        let rows = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            outbox::claim(client, BATCH as i64).await
        })
        .await?;
        if rows.is_empty() {
            return Ok(Relayed {
                claimed: 0,
                failed: 0,
            });
        }
        shared::failpoint!("relay.after_claim");
        let (done, failed) = self.publish(&rows).await;
        shared::failpoint!("relay.after_publish");
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            outbox::clear(client, &done).await?;
            outbox::release(client, &failed).await
        })
        .await?;
        self.metrics.relayed("confirmed", done.len());
        self.metrics.relayed("failed", failed.len());
        Ok(Relayed {
            claimed: rows.len(),
            failed: failed.len(),
        })
    }

    /// The ids of rows that are done with, published or about events that are final anyway, and of the others.
    async fn publish(&mut self, rows: &[OutboxRow]) -> (Vec<i64>, Vec<i64>) {
        let (wanted, over): (Vec<&OutboxRow>, Vec<&OutboxRow>) =
            rows.iter().partition(|row| row.wanted);
        let mut done: Vec<i64> = over.iter().map(|row| row.id).collect();
        let mut failed = Vec::new();
        let messages: Vec<&Message> = wanted.iter().map(|row| &row.message).collect();
        for (row, published) in wanted.iter().zip(self.publisher.publish(&messages).await) {
            match published {
                Ok(()) => done.push(row.id),
                Err(error) => {
                    warn!(event_id = row.message.event_id, %error, "not relayed, will be tried again");
                    failed.push(row.id);
                }
            }
        }
        (done, failed)
    }
}
