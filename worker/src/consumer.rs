//! Consumes both queues over one connection of its own, and rebuilds it for ever. A message is acknowledged after the
//! commit of what came of it, never before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use shared::backoff::Backoff;
use shared::broker::{BrokerError, BrokerSettings, Message, within};
use shared::database::StoreError;
use shared::health::{Health, PROBE_INTERVAL, PROBE_TIMEOUT};
use shared::lifecycle::sleep_unless;
use shared::trace_context::TraceContext;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info_span, warn};

use crate::acks::{Settled, acknowledge};
use crate::processor::{Handled, Processor};
use crate::recorder::Recorder;

const CONNECTION_NAME: &str = "tollgate-worker-consume";
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// So many in a row end the connection, some 9 s.
const MAX_MISSED_PROBES: u32 = 3;
/// How long events in flight may take to end once the worker stops.
const DRAIN: Duration = Duration::from_secs(15);
/// Messages handed over in advance for each place: a place that is free has its next event at once.
const PREFETCH_PER_PLACE: u16 = 2;

/// An event that loses the connection, or does not get its locks, this often while the database is up does it by itself:
/// the recorder counts that as a failed attempt.
const MAX_STRIKES: u32 = 20;

/// Hands messages to the processor and to the recorder.
pub struct ConsumerLoop {
    /// Where to consume.
    pub broker: BrokerSettings,
    /// Events handled at a time.
    pub concurrency: u16,
    /// For the work queue.
    pub processor: Arc<Processor>,
    /// For the dead-letter queue.
    pub recorder: Arc<Recorder>,
    /// Told whether the queue is being consumed.
    pub health: Health,
}

/// Events in work, of this connection and of earlier ones.
struct InFlight {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// What a message is about.
enum Task {
    /// An event, with the place that its work takes, and where to say that it is settled.
    Event {
        _place: Option<OwnedSemaphorePermit>,
        settled: mpsc::Sender<Settled>,
    },
    /// A message that the broker put aside.
    DeadLetter,
}

/// What to tell the broker about a message.
enum Verdict {
    /// It is dealt with.
    Ack,
    /// The dead-letter queue keeps it.
    DeadLetter,
    /// Nothing: it goes to another worker when this one's connection ends.
    Keep,
}

impl ConsumerLoop {
    /// Consumes until `shutdown`, then lets the events in flight end.
    pub async fn run(self, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let in_flight = InFlight {
            places: Arc::new(Semaphore::new(this.concurrency.into())),
            tasks: TaskTracker::new(),
        };
        let mut backoff = Backoff::reconnect();
        while !shutdown.is_cancelled() {
            this.health.set_consuming(false);
            let opened = tokio::select! {
                opened = this.open(&in_flight.tasks) => opened,
                () = shutdown.cancelled() => break,
            };
            match opened {
                Ok((connection, mut queues)) => {
                    this.health.set_consuming(true);
                    let opened_at = Instant::now();
                    let probe = queues.probe.clone();
                    tokio::select! {
                        () = this.consume(&mut queues, &in_flight, &shutdown) => {}
                        () = this.watch(&probe) => warn!("consuming ended: the broker does not answer"),
                    }
                    if shutdown.is_cancelled() {
                        queues.work.cancel().await;
                        queues.dead.cancel().await;
                        this.drain(queues, &in_flight, &shutdown).await;
                    }
                    let close = connection.close(200, "bye".into());
                    let _ = within(Duration::from_secs(1), close).await;
                    // A queue that ends at once must not be opened in a tight loop.
                    if opened_at.elapsed() > Duration::from_secs(10) {
                        backoff.reset();
                    }
                }
                Err(error) => warn!(%error, "cannot consume"),
            }
            if !shutdown.is_cancelled() {
                sleep_unless(&shutdown, backoff.next_delay()).await;
            }
        }
        // Of an earlier connection, if the broker was away when the worker was stopped.
        drain(&in_flight.tasks).await;
    }

    async fn open(&self, tasks: &TaskTracker) -> Result<(Connection, Queues), BrokerError> {
        let connection = self.broker.connect(CONNECTION_NAME).await?;
        let topology = self.broker.topology();
        topology.declare(&connection).await?;
        let prefetch = self.concurrency.saturating_mul(PREFETCH_PER_PLACE);
        let work = Subscription::open(&connection, topology.fulfillment, prefetch).await?;
        let dead = Subscription::open(&connection, topology.dead, 1).await?;
        let probe = within(OPEN_TIMEOUT, connection.create_channel()).await?;
        let (settled, to_acknowledge) = mpsc::channel(usize::from(prefetch));
        tasks.spawn(acknowledge(work.channel.clone(), to_acknowledge));
        Ok((
            connection,
            Queues {
                work,
                dead,
                settled,
                probe,
            },
        ))
    }

    /// Returns when the connection gave no answer several times. A flow that somebody between forgot looks like an empty
    /// queue, and heartbeats tell only after 20 s.
    async fn watch(&self, probe: &Channel) {
        let mut missed = 0;
        while missed < MAX_MISSED_PROBES {
            tokio::time::sleep(PROBE_INTERVAL).await;
            // Anything that the broker answers does; nothing is consumed on this channel.
            let asked = probe.basic_qos(1, BasicQosOptions::default());
            let answers = within(PROBE_TIMEOUT, asked).await.is_ok();
            self.health.set_consuming(answers);
            missed = if answers { 0 } else { missed + 1 };
        }
    }

    /// Returns when the connection, a queue or the worker ends.
    async fn consume(
        self: &Arc<Self>,
        queues: &mut Queues,
        in_flight: &InFlight,
        shutdown: &CancellationToken,
    ) {
        let mut place = None;
        loop {
            // What is in hand has a place already: a message taken and then not begun would have to come again. Messages
            // of an earlier connection may still be in work: together they stay within the concurrency. Dead letters come
            // one at a time, and must not keep the work waiting.
            let (delivery, is_work) = tokio::select! {
                delivery = queues.work.messages.next(), if place.is_some() => (delivery, true),
                delivery = queues.dead.messages.next() => (delivery, false),
                free = in_flight.places.clone().acquire_owned(), if place.is_none() => {
                    place = free.ok();
                    continue;
                }
                () = shutdown.cancelled() => return,
            };
            let delivery = match delivery {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return warn!(%error, "consuming ended"),
                None => return warn!("consuming ended: the queue is gone or the broker cancelled"),
            };
            let task = match is_work {
                true => Task::Event {
                    _place: place.take(),
                    settled: queues.settled.clone(),
                },
                false => Task::DeadLetter,
            };
            if shared::sabotaged!("own_connection") {
                publish_to_nobody(&queues.work.channel).await;
            }
            self.begin(delivery, task, in_flight, shutdown);
        }
    }

    fn begin(
        self: &Arc<Self>,
        delivery: Delivery,
        task: Task,
        in_flight: &InFlight,
        shutdown: &CancellationToken,
    ) {
        let (this, shutdown) = (self.clone(), shutdown.clone());
        in_flight
            .tasks
            .spawn(async move { this.handle(delivery, task, &shutdown).await });
    }

    /// Lets what is in work end, with the messages that were handed over in advance: a message that goes back to the
    /// broker counts as returned.
    async fn drain(
        self: &Arc<Self>,
        mut queues: Queues,
        in_flight: &InFlight,
        shutdown: &CancellationToken,
    ) {
        let rest = async {
            while let Some(Ok(delivery)) = queues.work.messages.next().await {
                let task = Task::Event {
                    _place: in_flight.places.clone().acquire_owned().await.ok(),
                    settled: queues.settled.clone(),
                };
                self.begin(delivery, task, in_flight, shutdown);
            }
        };
        if tokio::time::timeout(DRAIN / 2, rest).await.is_err() {
            warn!("not all that was handed over could be begun: other workers will take it");
        }
        let Queues {
            work,
            dead,
            settled,
            ..
        } = queues;
        // Acknowledging ends with the last one who may still settle a message.
        drop(settled);
        drain(&in_flight.tasks).await;
        drop((work, dead));
    }

    async fn handle(&self, delivery: Delivery, task: Task, shutdown: &CancellationToken) {
        let trace = Message::read_trace(&delivery.properties);
        let message_id = delivery
            .properties
            .message_id()
            .as_ref()
            .map(ShortString::as_str);
        let span = info_span!("process", message_id);
        trace.adopt(&span);
        if shared::sabotaged!("late_ack") {
            let _ = delivery.ack(BasicAckOptions::default()).await;
        }
        let verdict = async {
            let (trace, is_work) = (trace.continued(), matches!(task, Task::Event { .. }));
            self.until_recorded(&delivery, is_work, &trace, shutdown)
                .await
        }
        .instrument(span)
        .await;
        if !shared::sabotaged!("late_ack")
            && let Err(error) = tell(verdict, &delivery, &task).await
        {
            debug!(%error, "the message will come again");
        }
    }

    /// Holds the message while the database is away: no attempt is burnt, and nothing more is taken from the queue.
    async fn until_recorded(
        &self,
        delivery: &Delivery,
        is_work: bool,
        trace: &TraceContext,
        shutdown: &CancellationToken,
    ) -> Verdict {
        let mut backoff = Backoff::reconnect();
        let (mut strikes, mut told) = (0, false);
        loop {
            let handled = if is_work {
                match Message::read_event_id(&delivery.data) {
                    Ok(event_id) => self.processor.process(&event_id, trace).await,
                    Err(_) => return Verdict::DeadLetter,
                }
            } else {
                shared::failpoint!("recorder.before_record");
                let recorded = self.recorder.record(&delivery.data, trace).await;
                shared::failpoint!("recorder.after_record");
                recorded
            };
            match handled {
                Ok(Handled::Attempted | Handled::NotDue) => return Verdict::Ack,
                Ok(Handled::UnknownEvent) => return Verdict::DeadLetter,
                Ok(Handled::Busy) => {}
                // No event is at fault, however long it lasts.
                Err(error @ StoreError::Exhausted(_)) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, "holding a message until the database takes writes");
                    }
                }
                // Away, or a lock that took too long: the event waits, it did not fail.
                Err(error) if error.is_unavailable() || error.is_conflict() => {
                    debug!(%error, "holding a message");
                    strikes = if self.health.database_is_up() {
                        strikes + 1
                    } else {
                        0
                    };
                    if is_work && strikes >= MAX_STRIKES {
                        warn!(%error, "the database is up, but not for this event");
                        return Verdict::DeadLetter;
                    }
                }
                Err(error) if is_work => {
                    warn!(%error, "the attempt could not be recorded");
                    return Verdict::DeadLetter;
                }
                Err(error) => warn!(%error, "the dead letter could not be recorded, trying again"),
            }
            if !sleep_unless(shutdown, backoff.next_delay()).await {
                return Verdict::Keep;
            }
        }
    }
}

/// What a broker under an alarm blocks a connection for, with the acknowledgements that it carries.
async fn publish_to_nobody(channel: &Channel) {
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish("".into(), "".into(), options, b"", Default::default());
    let _ = publish.await;
}

/// An answer that does not reach the broker only means that the message comes again, to no effect.
async fn tell(verdict: Verdict, delivery: &Delivery, task: &Task) -> lapin::Result<()> {
    let tag = delivery.delivery_tag;
    let dealt_with = match (verdict, task) {
        (Verdict::Ack, Task::DeadLetter) => {
            delivery.ack(BasicAckOptions::default()).await?;
            return Ok(());
        }
        (Verdict::Ack, Task::Event { .. }) => Settled::Done(tag),
        (Verdict::DeadLetter, _) => {
            let options = BasicRejectOptions { requeue: false };
            delivery.reject(options).await?;
            Settled::Rejected(tag)
        }
        (Verdict::Keep, _) => return Ok(()),
    };
    if let Task::Event { settled, .. } = task {
        // Where nobody acknowledges any more, the channel is gone.
        let _ = settled.send(dealt_with).await;
    }
    Ok(())
}

/// Both queues of one connection.
struct Queues {
    work: Subscription,
    dead: Subscription,
    /// For messages of the work queue that are dealt with.
    settled: mpsc::Sender<Settled>,
    /// Asked whether the connection still leads anywhere.
    probe: Channel,
}

/// A queue being consumed. Its channel closes when this is dropped: acknowledgements need it until the end.
struct Subscription {
    channel: Channel,
    messages: Consumer,
}

impl Subscription {
    async fn open(
        connection: &Connection,
        queue: ShortString,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let channel = within(OPEN_TIMEOUT, connection.create_channel()).await?;
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        within(OPEN_TIMEOUT, qos).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume = channel.basic_consume(queue, "".into(), options, arguments);
        let messages = within(OPEN_TIMEOUT, consume).await?;
        Ok(Self { channel, messages })
    }

    /// Asks for no more messages; those in work can still be acknowledged.
    async fn cancel(&self) {
        let cancel = self
            .channel
            .basic_cancel(self.messages.tag(), BasicCancelOptions::default());
        if let Err(error) = within(Duration::from_secs(1), cancel).await {
            debug!(%error, "consumer not cancelled");
        }
    }
}

async fn drain(in_flight: &TaskTracker) {
    in_flight.close();
    if tokio::time::timeout(DRAIN, in_flight.wait()).await.is_err() {
        warn!("events were still in work: other workers will take them");
    }
}
