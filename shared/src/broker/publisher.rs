//! Publishes with confirms over one connection that a supervisor rebuilds. Never waits for the broker to come back:
//! what cannot be published now stays in the outbox.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::maybe_done;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{BrokerError, BrokerSettings, Message, Topology, within};
use crate::backoff::Backoff;
use crate::health::{BrokerState, Health, PROBE_INTERVAL, PROBE_TIMEOUT};
use crate::lifecycle::sleep_unless;

/// How long a batch may take, from asking to its last confirm.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// After this many unanswered probes the connection is given up.
const MAX_MISSED_PROBES: u32 = 5;

/// Why a message was not confirmed. In each case it may still arrive: consumers must expect duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection now.
    #[error("no connection")]
    Disconnected,
    /// A memory or disk alarm: the broker takes no publishes.
    #[error("blocked by a broker alarm")]
    Blocked,
    /// No queue is bound for it.
    #[error("returned as unroutable")]
    Returned,
    /// The queue refused it.
    #[error("refused by the broker")]
    Refused,
    /// No confirm in time.
    #[error("no confirm in time")]
    TimedOut,
    /// The connection failed while it was under way.
    #[error("connection lost")]
    Lost,
}

/// The publishing connection. It has one user, so that a message that comes back is known to be of what is published now.
pub struct Publisher {
    session: watch::Receiver<Option<Arc<Session>>>,
}

/// One connection's life.
struct Session {
    connection: Connection,
    channel: Channel,
    topology: Topology,
    /// A message came back, or its confirm is missing. lapin may attach a return to any publish of the channel that has no
    /// confirm yet, so from then on this session publishes nothing.
    spent: CancellationToken,
}

impl Publisher {
    /// A publisher, and the supervisor that must be run for it.
    pub fn new(
        settings: BrokerSettings,
        name: &'static str,
        health: Health,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, session) = watch::channel(None);
        (
            Self { session },
            supervise(settings, name, health, sender, shutdown),
        )
    }

    /// Whether a publish has a chance now.
    pub fn is_connected(&self) -> bool {
        self.usable().is_ok()
    }

    /// Publishes persistently and `mandatory`, and waits for the broker's confirms: a result for each message, in order.
    /// All of them are under way at the same time, so that the caller's batch is the bound.
    pub async fn publish(&mut self, messages: &[&Message]) -> Vec<Result<(), PublishError>> {
        let usable = self.usable();
        match usable {
            Ok(session) => session.publish(messages).await,
            Err(why) => vec![Err(why); messages.len()],
        }
    }

    fn usable(&self) -> Result<Arc<Session>, PublishError> {
        match self.session.borrow().as_ref() {
            Some(session) if session.connection.status().blocked() => Err(PublishError::Blocked),
            Some(session) if !session.spent.is_cancelled() => Ok(session.clone()),
            _ => Err(PublishError::Disconnected),
        }
    }
}

impl Session {
    async fn open(settings: &BrokerSettings, name: &str) -> Result<Self, BrokerError> {
        let connection = settings.connect(name).await?;
        let topology = settings.topology();
        topology.declare(&connection).await?;
        let channel = within(OPEN_TIMEOUT, connection.create_channel()).await?;
        within(
            OPEN_TIMEOUT,
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        Ok(Self {
            connection,
            channel,
            topology,
            spent: CancellationToken::new(),
        })
    }

    /// Sends all, and then waits for their confirms, for the last one first: mostly the others are there by then, and wake
    /// nobody.
    async fn publish(&self, messages: &[&Message]) -> Vec<Result<(), PublishError>> {
        let spent_unless_clean = self.spent.clone().drop_guard();
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let sends = all_begun(messages.iter().map(|message| self.send(message)));
        let Ok(mut sent) = timeout_at(deadline, sends).await else {
            return vec![Err(PublishError::TimedOut); messages.len()];
        };
        // What is confirmed already is taken after the deadline, too.
        let mut results = Vec::with_capacity(messages.len());
        for sent in sent.iter_mut().rev() {
            results.push(match sent {
                Ok(confirm) => confirmed(confirm, deadline).await,
                Err(error) => Err(*error),
            });
        }
        results.reverse();
        // A return may be attached to one that was still missing when it was looked at, while the message that came back is
        // confirmed by now. What else comes so late counts as missing.
        for (sent, result) in sent.iter_mut().zip(&mut results) {
            if let (Ok(confirm), Err(PublishError::TimedOut)) = (sent, &result) {
                let late = confirmed(confirm, deadline).await;
                *result = late.and(Err(PublishError::TimedOut));
            }
        }
        if results.contains(&Err(PublishError::Returned)) {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(PublishError::Returned);
            }
        }
        let is_clean = |result: &Result<(), PublishError>| {
            matches!(result, Ok(()) | Err(PublishError::Refused))
        };
        if results.iter().all(is_clean) {
            spent_unless_clean.disarm();
        }
        results
    }

    async fn send(&self, message: &Message) -> Result<PublisherConfirm, PublishError> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let (exchange, key) = (
            self.topology.events.clone(),
            message.event_type.as_str().into(),
        );
        let (body, properties) = (message.body(), message.properties());
        self.channel
            .basic_publish(exchange, key, options, &body, properties)
            .await
            .map_err(|_| PublishError::Lost)
    }

    /// Returns when the session is of no more use. Under an alarm one that is spent is kept: a new one would not know of the
    /// alarm until it publishes.
    async fn watch(&self, health: &Health) {
        let is_blocked = || self.connection.status().blocked();
        let mut missed = 0;
        while self.connection.status().connected() && (is_blocked() || missed < MAX_MISSED_PROBES) {
            let spent = self.spent.is_cancelled();
            let answers = !is_blocked()
                && tokio::select! {
                    answers = self.answers() => answers,
                    () = self.spent.cancelled(), if !spent => continue,
                };
            if answers {
                missed = 0;
                health.set_broker(BrokerState::Up);
            } else if is_blocked() {
                health.set_broker(BrokerState::Blocked);
            } else {
                missed += 1;
                health.set_broker(BrokerState::Down);
            }
            if spent && !is_blocked() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = self.spent.cancelled(), if !spent => {}
            }
        }
        health.set_broker(BrokerState::Down);
    }

    /// Asks the broker for the queue, on a channel of its own: where it is gone, the topology is declared anew. Then
    /// publishes to nobody: under an alarm the broker blocks a connection only once it publishes.
    async fn answers(&self) -> bool {
        let asked = async {
            let channel = within(PROBE_TIMEOUT, self.connection.create_channel()).await?;
            within(PROBE_TIMEOUT, channel.confirm_select(Default::default())).await?;
            let passive = QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let queue = channel.queue_declare(
                self.topology.fulfillment.clone(),
                passive,
                FieldTable::default(),
            );
            within(PROBE_TIMEOUT, queue).await?;
            let (to, nobody) = ("".into(), self.topology.nobody.clone());
            let publish =
                channel.basic_publish(to, nobody, Default::default(), b"", Default::default());
            within(PROBE_TIMEOUT, async { publish.await?.await }).await?;
            within(PROBE_TIMEOUT, channel.close(200, "asked".into())).await
        };
        matches!(tokio::time::timeout(PROBE_TIMEOUT, asked).await, Ok(Ok(())))
    }
}

/// Begins all futures in order, and then waits for them, for the last one first. Unlike `join_all` it is woken by none but
/// the one that it waits for.
async fn all_begun<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut begun: Vec<_> = futures.map(|future| Box::pin(maybe_done(future))).collect();
    for future in &mut begun {
        let _ = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
    for future in begun.iter_mut().rev() {
        future.as_mut().await;
    }
    let outputs = begun
        .iter_mut()
        .filter_map(|future| future.as_mut().take_output());
    outputs.collect()
}

async fn confirmed(confirm: &mut PublisherConfirm, deadline: Instant) -> Result<(), PublishError> {
    if crate::sabotaged!("confirm") {
        return Ok(());
    }
    match timeout_at(deadline, confirm).await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(()),
        Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))) => {
            Err(PublishError::Returned)
        }
        Ok(Ok(Confirmation::Nack(None))) => Err(PublishError::Refused),
        Ok(Ok(Confirmation::NotRequested) | Err(_)) => Err(PublishError::Lost),
        Err(_) => Err(PublishError::TimedOut),
    }
}

async fn supervise(
    settings: BrokerSettings,
    name: &'static str,
    health: Health,
    sender: watch::Sender<Option<Arc<Session>>>,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::reconnect();
    loop {
        let opened = tokio::select! {
            opened = Session::open(&settings, name) => opened,
            () = shutdown.cancelled() => return,
        };
        match opened {
            Ok(session) => {
                let session = Arc::new(session);
                sender.send_replace(Some(session.clone()));
                let opened_at = Instant::now();
                tokio::select! {
                    () = session.watch(&health) => {}
                    () = shutdown.cancelled() => {}
                }
                sender.send_replace(None);
                close(&session).await;
                if shutdown.is_cancelled() {
                    return;
                }
                // A session that fails at once must not be rebuilt in a tight loop. One that waited for a confirm did not.
                if opened_at.elapsed() >= PUBLISH_TIMEOUT {
                    backoff.reset();
                }
            }
            Err(error) => {
                warn!(%error, connection = name, "cannot connect to the broker");
                health.set_broker(BrokerState::Down);
            }
        }
        if !sleep_unless(&shutdown, backoff.next_delay()).await {
            return;
        }
    }
}

async fn close(session: &Session) {
    // Best effort: the broker may be gone.
    let _ = within(
        Duration::from_secs(1),
        session.connection.close(200, "bye".into()),
    )
    .await;
}
