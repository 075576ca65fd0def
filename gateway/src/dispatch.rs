//! Publishes what was just committed, beside the request: nobody waits for the broker. What fails here, or does not fit,
//! stays in the outbox for the workers' relay.

use std::sync::Arc;

use shared::broker::{Message, Publisher};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::store::EventStore;

/// Publishes under way at a time; beyond it the relay takes over.
const MAX_UNDER_WAY: usize = 1_024;
/// Outbox rows cleared by one statement.
const CLEAR_BATCH: usize = 256;

/// Takes messages to publish.
#[derive(Clone)]
pub struct Dispatcher {
    publisher: Publisher,
    places: Arc<Semaphore>,
    confirmed: mpsc::Sender<i64>,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl Dispatcher {
    /// A dispatcher, and the task that clears outbox rows; the latter ends when the last dispatcher is gone.
    pub fn new(
        publisher: Publisher,
        store: EventStore,
        metrics: Metrics,
    ) -> (Self, impl Future<Output = ()>) {
        let (confirmed, receiver) = mpsc::channel(4 * MAX_UNDER_WAY);
        let places = Arc::new(Semaphore::new(MAX_UNDER_WAY));
        (
            Self {
                publisher,
                places,
                confirmed,
                tasks: TaskTracker::new(),
                metrics,
            },
            clear(store, receiver),
        )
    }

    /// Publishes a committed event's message in the background.
    pub fn dispatch(&self, message: Message, outbox_id: i64) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.metrics.published("skipped");
            return;
        };
        let this = self.clone();
        self.tasks.spawn(async move {
            shared::failpoint!("gateway.before_publish");
            match this.publisher.publish(&message).await {
                Ok(()) => {
                    shared::failpoint!("gateway.after_confirm");
                    this.metrics.published("confirmed");
                    // A full channel only means that the relay publishes once more.
                    let _ = this.confirmed.try_send(outbox_id);
                }
                Err(error) => {
                    this.metrics.published("failed");
                    debug!(event_id = message.event_id, %error, "left to the relay");
                }
            }
            drop(place);
        });
    }

    /// Waits for the publishes under way.
    pub async fn drain(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn clear(store: EventStore, mut confirmed: mpsc::Receiver<i64>) {
    let mut ids = Vec::with_capacity(CLEAR_BATCH);
    while confirmed.recv_many(&mut ids, CLEAR_BATCH).await > 0 {
        if let Err(error) = store.clear_outbox(&ids).await {
            warn!(%error, rows = ids.len(), "outbox rows not cleared: the relay will publish them again");
        }
        ids.clear();
    }
}
