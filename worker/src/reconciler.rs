//! The schedule of reconciliations: however many workers look, one of them runs it when it is due.

use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use shared::reconcile::{DEFAULT_RATE_PER_S, ReconcileError, Reconciler, Run, Tally, store};
use shared::stripe::{KeyError, StripeSettings};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// How often it is looked whether a run is due, at the least.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// When Stripe's list is looked at.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Stripe's API.
    pub stripe: StripeSettings,
    /// From the beginning of a run to the beginning of the next.
    pub every: Duration,
}

/// Reconciles when it is due.
pub struct ScheduledReconciler {
    /// Where events are stored.
    pub pool: Pool,
    /// When.
    pub schedule: Schedule,
    /// The mode that is served.
    pub livemode: bool,
    /// This worker.
    pub worker: String,
    /// Counts runs.
    pub metrics: Metrics,
}

/// Why a due run did not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Run(#[from] ReconcileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the key {0}")]
    Key(#[from] KeyError),
}

impl ScheduledReconciler {
    /// Looks until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        while sleep_unless(&shutdown, self.schedule.every.min(LOOK_EVERY)).await {
            match self.run_once(&shutdown).await {
                Ok(None) => {}
                Ok(Some(tally)) => self.tell(&tally),
                Err(Failure::Run(ReconcileError::Interrupted)) => {}
                Err(error) => {
                    warn!(%error, "reconciliation failed");
                    self.metrics.reconciled("failed");
                }
            }
        }
    }

    fn tell(&self, tally: &Tally) {
        let Tally {
            listed,
            known,
            imported,
            unreadable,
            ..
        } = *tally;
        if imported + unreadable > 0 {
            warn!(
                listed,
                known, imported, unreadable, "events were missed: imported from Stripe's list"
            );
        } else {
            info!(listed, known, "reconciled: nothing was missed");
        }
        self.metrics.reconciled("finished");
        self.metrics.imported(imported.unsigned_abs());
    }

    /// Reconciles if it is due and nobody does; none otherwise.
    async fn run_once(&self, shutdown: &CancellationToken) -> Result<Option<Tally>, Failure> {
        let begun = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            let tx = client.transaction().await?;
            let run = store::begin_scheduled(&tx, &self.worker, self.schedule.every).await?;
            tx.commit().await?;
            Ok(run)
        });
        match begun.await? {
            Some(run) => Ok(Some(self.carry_out(run, shutdown).await?)),
            None => Ok(None),
        }
    }

    async fn carry_out(&self, run: Run, shutdown: &CancellationToken) -> Result<Tally, Failure> {
        let api = match self.schedule.stripe.api(self.livemode) {
            Ok(api) => api,
            Err(error) => return Err(self.give_up(run, error).await),
        };
        let reconciler = Reconciler {
            pool: self.pool.clone(),
            api,
            livemode: self.livemode,
            rate_per_s: DEFAULT_RATE_PER_S,
        };
        Ok(reconciler.run(run, shutdown).await?)
    }

    /// The key's file may have changed since the start.
    async fn give_up(&self, run: Run, error: KeyError) -> Failure {
        let text = format!("the key {error}");
        let noted = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            store::finish(client, run.id, Some(&text)).await
        });
        noted
            .await
            .err()
            .map_or(Failure::Key(error), Failure::Store)
    }
}
