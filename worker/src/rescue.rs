//! The rescue: publishes again what should have been final by now, because its message was lost: a queue purged or
//! deleted, a broker that lost its disk, a return that the client library attached to another publish.

use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::store::events;

const BATCH: i64 = 500;
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(15);

/// Looks for overdue events.
pub struct Rescue {
    pool: Pool,
    after: Duration,
    metrics: Metrics,
}

impl Rescue {
    /// A rescue of events that are not final `after` their message went out.
    pub fn new(pool: Pool, after: Duration, metrics: Metrics) -> Self {
        Self {
            pool,
            after,
            metrics,
        }
    }

    /// Looks every tenth of the time, for what has waited nine tenths of it: so a lost message is back within the time.
    pub async fn run(self, shutdown: CancellationToken) {
        let interval = (self.after / 10).min(LONGEST_INTERVAL);
        let mut pause = interval;
        while sleep_unless(&shutdown, pause).await {
            pause = match self.run_once().await {
                // A whole broker was lost: there is more.
                Ok(rescued) if rescued == BATCH.unsigned_abs() => Duration::ZERO,
                Ok(_) => interval,
                Err(error) => {
                    warn!(%error, "the rescue waits");
                    interval
                }
            };
        }
    }

    /// Rescues a batch, and returns how many events it was.
    pub async fn run_once(&self) -> Result<u64, StoreError> {
        let after = self.after.mul_f64(0.9);
        let backlog = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            events::backlog(client).await
        });
        // So many may wait that counting them takes too long: they are rescued all the same.
        match backlog.await {
            Ok(backlog) => self.metrics.backlog(&backlog),
            Err(error) => warn!(%error, "what waits is not counted"),
        }
        let rescued = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            events::rescue(client, after, BATCH).await
        })
        .await?;
        if rescued > 0 {
            warn!(
                events = rescued,
                "published again: their messages were lost or wait for very long"
            );
            self.metrics.rescued(rescued);
        }
        Ok(rescued)
    }
}
