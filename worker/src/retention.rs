//! Retention: removes what is final and old, in small batches. Never an event that is not final, nor one with an open
//! dead letter; a trigger holds that too.

use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::store::retention;

const BATCH: i64 = 500;
const INTERVAL: Duration = Duration::from_secs(60);
/// Between two full batches, so that live traffic goes first.
const BREATH: Duration = Duration::from_millis(200);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of clients are kept no longer than this.
const REJECTIONS_AGE: Duration = Duration::from_secs(30 * 86_400);
const NOTICES_AGE: Duration = Duration::from_secs(90 * 86_400);

/// How long what is final is kept; none means for ever.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Bodies.
    pub payloads: Option<Duration>,
    /// Events with everything that belongs to them.
    pub events: Option<Duration>,
}

/// Prunes.
pub struct Retention {
    pool: Pool,
    ages: Ages,
    metrics: Metrics,
}

impl Retention {
    /// Keeps things as long as `ages` says.
    pub fn new(pool: Pool, ages: Ages, metrics: Metrics) -> Self {
        Self {
            pool,
            ages,
            metrics,
        }
    }

    /// Prunes until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.run_once().await {
                Ok(true) => BREATH,
                Ok(false) => INTERVAL,
                Err(error) => {
                    warn!(%error, "retention waits");
                    INTERVAL
                }
            };
            if !sleep_unless(&shutdown, pause).await {
                return;
            }
        }
    }

    /// Prunes a batch of each kind. True when there may be more.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let Ages { payloads, events } = self.ages;
        let pruned = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            let mut pruned = vec![
                (
                    "rejections",
                    retention::prune_rejections(client, REJECTIONS_AGE, BATCH).await?,
                ),
                (
                    "alert_notices",
                    retention::prune_notices(client, NOTICES_AGE, BATCH).await?,
                ),
            ];
            if let Some(age) = payloads {
                let bodies = retention::prune_payloads(client, age, BATCH).await?;
                pruned.push(("event_payloads", bodies));
            }
            if let Some(age) = events {
                let whole = retention::prune_events(client, age, BATCH).await?;
                pruned.push(("webhook_events", whole));
            }
            Ok(pruned)
        })
        .await?;
        for (table, rows) in pruned.iter().filter(|(_, rows)| *rows > 0) {
            info!(table, rows, "pruned");
            self.metrics.pruned(table, *rows);
        }
        Ok(pruned.iter().any(|(_, rows)| *rows == BATCH.unsigned_abs()))
    }
}
