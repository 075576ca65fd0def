//! Makes events durable. A few writers share the database's commits: each takes whatever waits, so that batches grow with
//! the load and a lone event is as fast as a plain insert. A request that is gone takes nothing with it.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Bytes;
use shared::broker::Message;
use shared::database::StoreError;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::dispatch::{Committed, Dispatcher};
use crate::envelope::Envelope;
use crate::intake::Intake;
use crate::refusal::Unavailable;
use crate::store::{EventStore, Row, Stored};

/// Events that may wait for a writer.
const MAX_WAITING: usize = 1_024;
/// Events in one transaction: more of them saves nothing any more.
const MAX_BATCH: usize = 64;

/// A verified event.
pub struct NewEvent {
    /// What was read of it.
    pub envelope: Envelope,
    /// Its exact bytes.
    pub body: Bytes,
    /// The trace that its processing belongs to, as W3C text.
    pub traceparent: String,
    /// When its request began.
    pub started: Instant,
}

/// An event that is durable.
pub struct Accepted {
    /// Its id.
    pub id: String,
    /// Whether it was stored before.
    pub duplicate: bool,
}

type Reply = oneshot::Sender<Result<Accepted, Unavailable>>;

/// Hands events to the writers; clones share them.
#[derive(Clone)]
pub struct Writers {
    intake: Intake<(NewEvent, Reply)>,
    tasks: TaskTracker,
}

impl Writers {
    /// Starts `count` writers.
    pub fn start(count: usize, store: &EventStore, dispatcher: &Dispatcher) -> Self {
        let (intake, tasks) = (Intake::new(MAX_WAITING), TaskTracker::new());
        for _ in 0..count {
            let writer = Writer {
                intake: intake.clone(),
                store: store.clone(),
                dispatcher: dispatcher.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { intake, tasks }
    }

    /// Makes an event durable. Once this was polled, the event is stored even if nobody waits for the answer.
    pub async fn persist(&self, event: NewEvent) -> Result<Accepted, Unavailable> {
        let (reply, answer) = oneshot::channel();
        if !self.intake.offer((event, reply)) {
            return Err(Unavailable::TooManyWaiting);
        }
        answer.await.unwrap_or(Err(Unavailable::Interrupted))
    }

    /// Takes no more events, and waits for those under way.
    pub async fn drain(&self) {
        self.intake.close();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Writer {
    intake: Intake<(NewEvent, Reply)>,
    store: EventStore,
    dispatcher: Dispatcher,
}

impl Writer {
    async fn run(self) {
        loop {
            let mut batch = self.intake.take(MAX_BATCH).await;
            if batch.is_empty() {
                return;
            }
            // All writers lock ids in one order; what came first stays first.
            batch.sort_by(|(a, _), (b, _)| a.envelope.id.cmp(&b.envelope.id));
            self.write(batch).await;
        }
    }

    async fn write(&self, batch: Vec<(NewEvent, Reply)>) {
        match self.store(&batch).await {
            Ok(stored) => self.tell(batch, stored),
            // One of them may be what the database refuses: it must not take the others with it.
            Err(error) if error.is_about_data() && batch.len() > 1 => {
                for one in batch {
                    let one = vec![one];
                    match self.store(&one).await {
                        Ok(stored) => self.tell(one, stored),
                        Err(error) => refuse(one, error),
                    }
                }
            }
            Err(error) => refuse(batch, error),
        }
    }

    async fn store(&self, batch: &[(NewEvent, Reply)]) -> Result<Vec<Stored>, StoreError> {
        let rows: Vec<Row> = batch
            .iter()
            .map(|(event, _)| Row {
                envelope: &event.envelope,
                body: &event.body,
                traceparent: &event.traceparent,
            })
            .collect();
        shared::failpoint!("gateway.before_insert");
        let stored = self.store.insert(&rows).await?;
        shared::failpoint!("gateway.after_commit");
        Ok(stored)
    }

    /// Answers first: the broker can wait.
    fn tell(&self, batch: Vec<(NewEvent, Reply)>, stored: Vec<Stored>) {
        for ((event, reply), stored) in batch.into_iter().zip(stored) {
            let envelope = event.envelope;
            let duplicate = stored == Stored::Duplicate;
            let id = envelope.id.clone();
            let _ = reply.send(Ok(Accepted { id, duplicate }));
            // Not for each event of a busy shop: the row says the same, and the worker tells what became of it.
            debug!(
                event_id = envelope.id,
                event_type = envelope.event_type,
                duplicate,
                traceparent = event.traceparent,
                took_us = event.started.elapsed().as_micros(),
                "webhook accepted"
            );
            if let Stored::New { outbox_id } = stored {
                let message = Message {
                    event_id: envelope.id,
                    event_type: envelope.event_type,
                    traceparent: Some(event.traceparent),
                };
                self.dispatcher.dispatch(Committed { message, outbox_id });
            }
        }
    }
}

fn refuse(batch: Vec<(NewEvent, Reply)>, error: StoreError) {
    let error = Arc::new(error);
    for (_, reply) in batch {
        let _ = reply.send(Err(Unavailable::Store(error.clone())));
    }
}
