//! Publishes what was just committed, beside the requests: nobody waits for the broker. What fails here, or does not fit,
//! stays in the outbox for the workers' relay.

use std::time::{Duration, Instant};

use shared::broker::{Message, Publisher};
use shared::lifecycle::Background;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::store::OutboxStore;

/// Messages that may wait to be published; beyond it the relay takes over.
const MAX_WAITING: usize = 32_768;
/// Messages published at once: more adds latency, not throughput.
const MAX_BATCH: usize = 1_024;
/// Rest after a batch: what comes meanwhile shares the next one's round trip and the broker's sync. A message that comes
/// alone waits for nothing.
const PUBLISH_PAUSE: Duration = Duration::from_millis(10);
/// The same per message of the batch: above some 8,000 events a second rests grow to the longest one, since the processors
/// are then better spent on accepting events.
const PUBLISH_PAUSE_PER_MESSAGE: Duration = Duration::from_micros(125);
const LONGEST_PUBLISH_PAUSE: Duration = Duration::from_millis(50);
/// Outbox rows that may wait to be cleared; beyond it the relay publishes them once more.
const MAX_CONFIRMED: usize = 16_384;
/// Outbox rows cleared by one statement.
const MAX_CLEARED: usize = 2_048;
/// Rest after clearing: far below the head start that rows have before the relay takes them.
const CLEAR_PAUSE: Duration = Duration::from_millis(100);

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
    pub fn start(
        publisher: Publisher,
        outbox: &OutboxStore,
        metrics: &Metrics,
        background: &mut Background,
    ) -> Self {
        let (intake, tasks) = (Intake::new(MAX_WAITING), TaskTracker::new());
        let confirmed = Intake::new(MAX_CONFIRMED);
        let lane = Lane {
            intake: intake.clone(),
            publisher,
            confirmed: confirmed.clone(),
            metrics: metrics.clone(),
        };
        background.spawn(tasks.track_future(lane.run()));
        background.spawn(tasks.track_future(clear(confirmed, outbox.clone())));
        Self {
            intake,
            tasks,
            metrics: metrics.clone(),
        }
    }

    /// Has a committed event's message published in the background.
    pub fn dispatch(&self, committed: Committed) {
        if !self.intake.offer(committed) {
            self.metrics.skipped();
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
    confirmed: Intake<i64>,
    metrics: Metrics,
}

impl Lane {
    async fn run(mut self) {
        loop {
            let batch = self.intake.take(MAX_BATCH).await;
            if batch.is_empty() {
                return self.confirmed.close();
            }
            self.publish(&batch).await;
            sleep(publish_pause(batch.len())).await;
        }
    }

    async fn publish(&mut self, batch: &[Committed]) {
        shared::failpoint!("gateway.before_publish");
        let started = Instant::now();
        let messages: Vec<&Message> = batch.iter().map(|row| &row.message).collect();
        let results = self.publisher.publish(&messages).await;
        let mut confirmed = 0;
        for (row, result) in batch.iter().zip(results) {
            match result {
                Ok(()) => {
                    confirmed += 1;
                    self.confirmed.offer(row.outbox_id);
                }
                Err(error) => debug!(event_id = row.message.event_id, %error, "left to the relay"),
            }
        }
        let failed = batch.len() - confirmed;
        self.metrics.published(confirmed, failed, started.elapsed());
    }
}

/// Clears the outbox of what was confirmed.
async fn clear(confirmed: Intake<i64>, outbox: OutboxStore) {
    loop {
        let rows = confirmed.take(MAX_CLEARED).await;
        if rows.is_empty() {
            return;
        }
        shared::failpoint!("gateway.after_confirm");
        if let Err(error) = outbox.clear(&rows).await {
            warn!(%error, rows = rows.len(), "outbox rows not cleared: the relay will publish them again");
        }
        if rows.len() < MAX_CLEARED {
            sleep(CLEAR_PAUSE).await;
        }
    }
}

/// A full batch has others waiting behind it.
fn publish_pause(published: usize) -> Duration {
    if published == MAX_BATCH {
        return Duration::ZERO;
    }
    let messages = u32::try_from(published).unwrap_or(u32::MAX);
    PUBLISH_PAUSE_PER_MESSAGE
        .saturating_mul(messages)
        .clamp(PUBLISH_PAUSE, LONGEST_PUBLISH_PAUSE)
}
