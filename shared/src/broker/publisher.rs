//! Publishes with confirms over one connection that a supervisor rebuilds. Never waits for the broker to come back:
//! what cannot be published now stays in the outbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{BrokerError, BrokerSettings, Message, Topology, within};
use crate::backoff::Backoff;
use crate::health::{BrokerState, Health, PROBE_INTERVAL, PROBE_TIMEOUT};
use crate::lifecycle::sleep_unless;

/// Unconfirmed publishes at a time: more adds latency, not throughput.
const WINDOW: usize = 1_024;
/// How long a publish may take, from asking to its confirm.
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
    /// A message came back. lapin may attach a return to another publish of the channel, so from then on none of this
    /// session's confirms is trusted.
    returned: AtomicBool,
    failed: CancellationToken,
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
        self.session
            .borrow()
            .as_ref()
            .is_some_and(|session| !session.connection.status().blocked())
    }

    /// Publishes persistently and `mandatory`, and waits for the broker's confirms: a result for each message, in order.
    pub async fn publish(&mut self, messages: &[&Message]) -> Vec<Result<(), PublishError>> {
        let refused = |why| vec![Err(why); messages.len()];
        let Some(session) = self.session.borrow().clone() else {
            return refused(PublishError::Disconnected);
        };
        if session.connection.status().blocked() {
            return refused(PublishError::Blocked);
        }
        let mut results = Vec::with_capacity(messages.len());
        for window in messages.chunks(WINDOW) {
            results.extend(session.publish(window).await);
        }
        let is_fatal = |result: &Result<(), PublishError>| {
            matches!(result, Err(PublishError::Lost | PublishError::Returned))
        };
        if results.iter().any(is_fatal) {
            session.failed.cancel();
        }
        results
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
            returned: AtomicBool::new(false),
            failed: CancellationToken::new(),
        })
    }

    /// Sends all, and then waits for their confirms one after the other: those that are there already wake nobody.
    async fn publish(&self, messages: &[&Message]) -> Vec<Result<(), PublishError>> {
        let mut results = vec![Err(PublishError::TimedOut); messages.len()];
        let published = async {
            let sent = join_all(messages.iter().map(|message| self.send(message))).await;
            for (sent, result) in sent.into_iter().zip(&mut results) {
                *result = match sent {
                    Ok(confirm) => confirmed(confirm).await,
                    Err(error) => Err(error),
                };
            }
        };
        // Whatever has no confirm by then has timed out.
        let _ = tokio::time::timeout(PUBLISH_TIMEOUT, published).await;
        // Only now: the confirm that a return is attached to may be awaited after that of the message that came back.
        if results.contains(&Err(PublishError::Returned)) {
            self.returned.store(true, Ordering::Release);
        }
        if self.returned.load(Ordering::Acquire) {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(PublishError::Returned);
            }
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

    /// Returns when the session is of no more use.
    async fn watch(&self, health: &Health) {
        let mut missed = 0;
        while self.connection.status().connected() && missed < MAX_MISSED_PROBES {
            if self.connection.status().blocked() {
                health.set_broker(BrokerState::Blocked);
            } else if self.answers().await {
                missed = 0;
                health.set_broker(BrokerState::Up);
            } else if !self.connection.status().blocked() {
                missed += 1;
                health.set_broker(BrokerState::Down);
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = self.failed.cancelled() => return,
            }
        }
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

async fn confirmed(confirm: PublisherConfirm) -> Result<(), PublishError> {
    if crate::sabotaged!("confirm") {
        return Ok(());
    }
    match confirm.await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Returned),
        Ok(Confirmation::Nack(_)) => Err(PublishError::Refused),
        Ok(Confirmation::NotRequested) | Err(_) => Err(PublishError::Lost),
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
                health.set_broker(BrokerState::Up);
                sender.send_replace(Some(session.clone()));
                let opened_at = tokio::time::Instant::now();
                tokio::select! {
                    () = session.watch(&health) => {}
                    () = shutdown.cancelled() => {}
                }
                sender.send_replace(None);
                close(&session).await;
                if shutdown.is_cancelled() {
                    return;
                }
                // A session that fails at once must not be rebuilt in a tight loop.
                if opened_at.elapsed() > Duration::from_secs(10) {
                    backoff.reset();
                }
            }
            Err(error) => warn!(%error, connection = name, "cannot connect to the broker"),
        }
        health.set_broker(BrokerState::Down);
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
