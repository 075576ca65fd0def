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

    /// Prunes a batch of bodies and one of events. True when there may be more.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let Ages { payloads, events } = self.ages;
        let (mut bodies, mut whole) = (0, 0);
        if let Some(age) = payloads {
            bodies = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
                retention::prune_payloads(client, age, BATCH).await
            })
            .await?;
        }
        if let Some(age) = events {
            whole = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
                retention::prune_events(client, age, BATCH).await
            })
            .await?;
        }
        if bodies + whole > 0 {
            info!(bodies, events = whole, "pruned");
            self.metrics.pruned("event_payloads", bodies);
            self.metrics.pruned("webhook_events", whole);
        }
        Ok(bodies.max(whole) == BATCH.unsigned_abs())
    }
}
