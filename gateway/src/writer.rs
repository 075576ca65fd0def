//! Makes events durable. A few writers share the database's commits: each takes whatever waits, so that batches grow with
//! the load and a lone event is as fast as a plain insert. A request that is gone takes nothing with it.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Bytes;
use shared::broker::Message;
use shared::database::StoreError;
use shared::health::Health;
use shared::lifecycle::Background;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
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
/// Their bodies together, but for the last one: large ones must not take longer than a statement may.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A verified event.
pub struct NewEvent {
    /// What was read of it.
    pub envelope: Envelope,
    /// Its exact bytes.
    pub body: Bytes,
    /// The body's share of the memory, held until it is stored.
    pub _share: Option<OwnedSemaphorePermit>,
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

/// An event, and who waits for it.
type Waiting = (NewEvent, Reply);

/// Hands events to the writers; clones share them.
#[derive(Clone)]
pub struct Writers {
    intake: Intake<Waiting>,
    health: Health,
    tasks: TaskTracker,
}

impl Writers {
    /// Starts `count` writers.
    pub fn start(
        count: usize,
        store: &EventStore,
        dispatcher: &Dispatcher,
        health: &Health,
        background: &mut Background,
    ) -> Self {
        let (intake, tasks) = (Intake::new(MAX_WAITING), TaskTracker::new());
        for _ in 0..count {
            let writer = Writer {
                intake: intake.clone(),
                store: store.clone(),
                dispatcher: dispatcher.clone(),
                health: health.clone(),
            };
            background.spawn(tasks.track_future(writer.run()));
        }
        let health = health.clone();
        Self {
            intake,
            health,
            tasks,
        }
    }

    /// Makes an event durable. Once this was polled, the event is stored even if nobody waits for the answer.
    pub async fn persist(&self, event: NewEvent) -> Result<Accepted, Unavailable> {
        if self.health.database_is_lost() {
            return Err(Unavailable::DatabaseLost);
        }
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
    intake: Intake<Waiting>,
    store: EventStore,
    dispatcher: Dispatcher,
    health: Health,
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
            while !batch.is_empty() {
                let rest = batch.split_off(within_bytes(&batch));
                self.write(batch).await;
                batch = rest;
            }
        }
    }

    async fn write(&self, batch: Vec<Waiting>) {
        // It was lost while these waited: each of them would wait as long as the ones before.
        if self.health.database_is_lost() {
            return refuse(batch, || Unavailable::DatabaseLost);
        }
        match self.store(&batch).await {
            Ok(stored) => self.tell(batch, stored),
            Err(error) if batch.len() == 1 => refuse_for(batch, error),
            // One of them may be what the database refuses: it must not take the others with it.
            Err(error) if error.is_about_data() => {
                for one in batch {
                    self.write_alone(one).await;
                }
            }
            Err(StoreError::Conflict(_)) => self.write_new_first(batch).await,
            Err(error) => refuse_for(batch, error),
        }
    }

    async fn write_alone(&self, one: Waiting) -> bool {
        let one = vec![one];
        match self.store(&one).await {
            Ok(stored) => {
                self.tell(one, stored);
                true
            }
            Err(error) => {
                refuse_for(one, error);
                false
            }
        }
    }

    /// Somebody holds the row of an event that is stored already, and only counting it once more has to wait: the others
    /// go first.
    async fn write_new_first(&self, batch: Vec<Waiting>) {
        let ids: Vec<&str> = batch
            .iter()
            .map(|(event, _)| event.envelope.id.as_str())
            .collect();
        let known = match self.store.find_known(&ids).await {
            Ok(known) => known,
            Err(error) => return refuse_for(batch, error),
        };
        let is_known = |waiting: &Waiting| known.contains(&waiting.0.envelope.id);
        let (known, new): (Vec<Waiting>, Vec<Waiting>) = batch.into_iter().partition(is_known);
        if !new.is_empty() {
            match self.store(&new).await {
                Ok(stored) => self.tell(new, stored),
                // Somebody else stores one of them at this moment, and does not come to an end.
                Err(StoreError::Conflict(_)) => self.write_each(new).await,
                Err(error) => refuse_for(new, error),
            }
        }
        self.write_each(known).await;
    }

    /// One wait is enough: who is behind it comes again.
    async fn write_each(&self, batch: Vec<Waiting>) {
        let mut batch = batch.into_iter();
        while let Some(one) = batch.next() {
            if !self.write_alone(one).await {
                return refuse(batch.collect(), || Unavailable::Interrupted);
            }
        }
    }

    async fn store(&self, batch: &[Waiting]) -> Result<Vec<Stored>, StoreError> {
        let rows: Vec<Row> = batch
            .iter()
            .map(|(event, _)| Row {
                envelope: &event.envelope,
                body: &event.body,
                traceparent: &event.traceparent,
            })
            .collect();
        shared::failpoint!("gateway.before_insert");
        let stored = self.store.insert(&rows).await;
        self.health.note_write(stored.as_ref().err());
        if stored.is_ok() {
            shared::failpoint!("gateway.after_commit");
        }
        stored
    }

    /// Answers first: the broker can wait.
    fn tell(&self, batch: Vec<Waiting>, stored: Vec<Stored>) {
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

/// How many of a batch, one at the least, are within the bytes that a transaction takes.
fn within_bytes(batch: &[Waiting]) -> usize {
    let mut bytes = 0;
    let fitting = batch.iter().take_while(|(event, _)| {
        let fits = bytes < MAX_BATCH_BYTES;
        bytes += event.body.len();
        fits
    });
    fitting.count()
}

fn refuse_for(batch: Vec<Waiting>, error: StoreError) {
    let error = Arc::new(error);
    refuse(batch, || Unavailable::Store(error.clone()));
}

fn refuse(batch: Vec<Waiting>, why: impl Fn() -> Unavailable) {
    for (_, reply) in batch {
        let _ = reply.send(Err(why()));
    }
}
