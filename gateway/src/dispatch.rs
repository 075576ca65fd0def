//! Publishes what was just committed, beside the requests: nobody waits for the broker. What fails here, or does not fit,
//! stays in the outbox for the workers' relay.

use futures_util::future::join_all;
use shared::broker::{Message, Publisher};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::store::OutboxStore;

/// Messages that may wait to be published; beyond it the relay takes over.
const MAX_WAITING: usize = 4_096;
/// Messages published at once, and outbox rows cleared by one statement.
const MAX_BATCH: usize = 128;
/// Batches under way: while one is being confirmed, the next is published.
const LANES: usize = 1;

/// A committed event's message, and the outbox row that keeps it until the broker has it.
pub struct Committed {
    /// What to publish.
    pub message: Message,
    /// The row to clear then.
    pub outbox_id: i64,
}

/// Takes messages to publish; clones share it.
#[derive(Clone)]
pub struct Dispatcher {
    intake: Intake<Committed>,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl Dispatcher {
    /// Starts publishing.
    pub fn start(publisher: &Publisher, outbox: &OutboxStore, metrics: &Metrics) -> Self {
        let (intake, tasks) = (Intake::new(MAX_WAITING), TaskTracker::new());
        for _ in 0..LANES {
            let lane = Lane {
                intake: intake.clone(),
                publisher: publisher.clone(),
                outbox: outbox.clone(),
                metrics: metrics.clone(),
            };
            tasks.spawn(lane.run());
        }
        Self {
            intake,
            tasks,
            metrics: metrics.clone(),
        }
    }

    /// Has a committed event's message published in the background.
    pub fn dispatch(&self, committed: Committed) {
        if !self.intake.offer(committed) {
            self.metrics.published("skipped", 1);
        }
    }

    /// Takes no more messages, and waits for the publishes under way.
    pub async fn drain(&self) {
        self.intake.close();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Publishes one batch after the other.
struct Lane {
    intake: Intake<Committed>,
    publisher: Publisher,
    outbox: OutboxStore,
    metrics: Metrics,
}

impl Lane {
    async fn run(self) {
        loop {
            let batch = self.intake.take(MAX_BATCH).await;
            if batch.is_empty() {
                return;
            }
            self.publish(&batch).await;
        }
    }

    async fn publish(&self, batch: &[Committed]) {
        shared::failpoint!("gateway.before_publish");
        let publishes = batch.iter().map(|row| self.publisher.publish(&row.message));
        let results = join_all(publishes).await;
        let mut confirmed = Vec::with_capacity(batch.len());
        for (row, result) in batch.iter().zip(results) {
            match result {
                Ok(()) => confirmed.push(row.outbox_id),
                Err(error) => debug!(event_id = row.message.event_id, %error, "left to the relay"),
            }
        }
        if !confirmed.is_empty() {
            shared::failpoint!("gateway.after_confirm");
        }
        self.metrics.published("confirmed", confirmed.len());
        self.metrics
            .published("failed", batch.len() - confirmed.len());
        if confirmed.is_empty() {
            return;
        }
        if let Err(error) = self.outbox.clear(&confirmed).await {
            warn!(%error, rows = confirmed.len(), "outbox rows not cleared: the relay will publish them again");
        }
    }
}
