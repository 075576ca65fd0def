//! Retention: removes what is final and old, in small batches. Never an event that is not final, nor one with an open
//! dead letter; a trigger holds that too.

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::store::retention::{self, Looked, Place};

const BATCH: i64 = 500;
const INTERVAL: Duration = Duration::from_secs(60);
/// Between two full batches, so that live traffic goes first.
const BREATH: Duration = Duration::from_millis(200);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that were not final when they were looked at are looked at again.
const BODIES_AGAIN_AFTER: Duration = Duration::from_secs(86_400);

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
    bodies: Bodies,
}

/// How far the bodies were looked at: events whose bodies are gone stay, and are not looked at each time.
struct Bodies {
    from: Place,
    began_at: Instant,
}

impl Bodies {
    fn begin() -> Self {
        Self {
            from: Place::first(),
            began_at: Instant::now(),
        }
    }

    /// Goes on behind the last one; at the end from the beginning, after a while. True when there is more.
    fn go_on(&mut self, looked: Looked) -> bool {
        let more = looked.seen == BATCH;
        if !more && self.began_at.elapsed() >= BODIES_AGAIN_AFTER {
            *self = Self::begin();
        } else if let Some(last) = looked.last {
            self.from = last;
        }
        more
    }
}

impl Retention {
    /// Keeps things as long as `ages` says.
    pub fn new(pool: Pool, ages: Ages, metrics: Metrics) -> Self {
        Self {
            pool,
            ages,
            metrics,
            bodies: Bodies::begin(),
        }
    }

    /// Prunes until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
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
    pub async fn run_once(&mut self) -> Result<bool, StoreError> {
        let Ages { payloads, events } = self.ages;
        let bodies = &mut self.bodies;
        let (pruned, more) = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
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
            let mut more = false;
            if let Some(age) = payloads {
                let looked = retention::prune_payloads(client, age, &bodies.from, BATCH).await?;
                pruned.push(("event_payloads", looked.removed));
                more = bodies.go_on(looked);
            }
            if let Some(age) = events {
                let whole = retention::prune_events(client, age, BATCH).await?;
                pruned.push(("webhook_events", whole));
            }
            Ok((pruned, more))
        })
        .await?;
        for (table, rows) in pruned.iter().filter(|(_, rows)| *rows > 0) {
            info!(table, rows, "pruned");
            self.metrics.pruned(table, *rows);
        }
        let full = pruned.iter().any(|(_, rows)| *rows == BATCH.unsigned_abs());
        Ok(more || full)
    }
}
