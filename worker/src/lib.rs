//! The worker: fulfills events, once in effect. It consumes the queue and runs a handler per event in one transaction;
//! beside it run the relay, the rescue, the dead-letter recorder, the replayer, the reconciler and the mailer. Run as many
//! workers as wanted.

mod acks;
pub mod alerting;
pub mod config;
mod consumer;
pub mod decision;
pub mod event;
mod fingerprint;
pub mod handlers;
pub mod mail;
mod mailer;
mod metrics;
mod processor;
mod reconciler;
mod recorder;
mod relay;
mod replayer;
mod rescue;
mod retention;
mod seats;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use prometheus::Registry as MetricsRegistry;
use shared::admin;
use shared::broker::Publisher;
use shared::database::{self, Durability, PoolSettings, StoreError, with_client};
use shared::health::{Health, PROBE_INTERVAL, PROBE_TIMEOUT, watch_database};
use shared::lifecycle::{Background, sleep_unless};
use shared::migrations::{MigrationError, require_current};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::alerting::{Alerting, Sender};
use crate::config::Config;
use crate::consumer::ConsumerLoop;
use crate::handlers::Registry;
use crate::mailer::Mailer;
use crate::metrics::Metrics;
use crate::processor::Processor;
use crate::reconciler::ScheduledReconciler;
use crate::recorder::Recorder;
use crate::relay::Relay;
use crate::replayer::Replayer;
use crate::rescue::Rescue;
use crate::retention::Retention;
use crate::seats::Seats;

const APPLICATION: &str = "tollgate-worker";
/// Connections beside those of the handlers: relay, rescue, recorder, mailer, seats, replayer, retention, two of
/// alerting and two of its sender, and two of the reconciler.
const HELPER_CONNECTIONS: usize = 13;
const DATABASE_WAIT: Duration = Duration::from_secs(5);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(8);
/// Mails under way may take so long when the worker is stopped: longer than sending one may.
const MAILS_END: Duration = Duration::from_secs(18);

/// Why the worker cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The schema is not this version's.
    #[error(transparent)]
    Schema(#[from] MigrationError),
    /// The admin address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Something that must run as long as the worker ended.
    #[error("a background task ended by itself")]
    TaskEnded,
}

/// A worker that does not work yet.
pub struct Worker {
    config: Config,
    registry: Registry,
    metrics: MetricsRegistry,
    admin_listener: TcpListener,
}

impl Worker {
    /// Binds the admin address.
    pub async fn bind(
        config: Config,
        registry: Registry,
        metrics: MetricsRegistry,
    ) -> Result<Self, Fault> {
        let address = config.admin_listen;
        let admin_listener = TcpListener::bind(address)
            .await
            .map_err(|source| Fault::Listen { address, source })?;
        Ok(Self {
            config,
            registry,
            metrics,
            admin_listener,
        })
    }

    /// Where `/readyz` is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_listener
            .local_addr()
            .unwrap_or(self.config.admin_listen)
    }

    /// Works until `shutdown`, then drains. Waits for a database that is away; ends when the schema is too old.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Fault> {
        info!(address = %self.admin_address(), livemode = self.config.livemode, "admin listener");
        let Self {
            config,
            registry,
            metrics,
            admin_listener,
        } = self;
        let (health, mut background) = (Health::default(), Background::default());
        let (token, probe_pool) = (background.token(), pool(&config, 1, PROBE_TIMEOUT));
        health.set_consuming(false);
        background.spawn(admin::serve(
            admin_listener,
            health.clone(),
            metrics,
            token.clone(),
        ));
        background.spawn(watch_database(probe_pool.clone(), health.clone(), token));
        if !schema_is_current(&probe_pool, &shutdown).await? {
            return Ok(());
        }
        let mails_ended = CancellationToken::new();
        let consumer = start(
            config,
            registry,
            &health,
            &mut background,
            (&shutdown, &mails_ended),
        );
        let drained = async {
            shutdown.cancelled().await;
            health.set_draining();
            // What a slow mail server took without saying so yet would be sent again.
            let _ = tokio::time::timeout(MAILS_END, mails_ended.cancelled()).await;
        };
        let worked = tokio::select! {
            ((), ()) = async { tokio::join!(drained, consumer.run(shutdown.clone())) } => Ok(()),
            () = background.one_ended() => Err(Fault::TaskEnded),
        };
        // Relay, rescue and mailer end between two rounds; what they leave, another worker takes.
        background.stop(Duration::from_secs(5)).await;
        worked
    }
}

/// Starts everything that runs beside the consumer.
fn start(
    config: Config,
    registry: Registry,
    health: &Health,
    background: &mut Background,
    (shutdown, mails_ended): (&CancellationToken, &CancellationToken),
) -> ConsumerLoop {
    let (token, metrics) = (background.token(), Metrics::new());
    let pool = pool(
        &config,
        usize::from(config.concurrency) + HELPER_CONNECTIONS,
        DATABASE_WAIT,
    );
    start_upkeep(&config, &pool, &metrics, background);
    let broker = config.service.broker;
    let (publisher, supervisor) = Publisher::new(
        broker.clone(),
        "tollgate-worker-publish",
        health.clone(),
        token.clone(),
    );
    background.spawn(supervisor);
    let wake = Arc::new(Notify::new());
    let relay = Relay::new(pool.clone(), publisher, metrics.clone(), wake.clone());
    background.spawn(relay.run(token.clone()));
    background
        .spawn(Rescue::new(pool.clone(), config.rescue_after, metrics.clone()).run(token.clone()));
    // Mails under way end while the events in flight do; no more are begun.
    let mailer = Mailer::new(
        pool.clone(),
        config.outlet,
        config.mail_from,
        metrics.clone(),
    );
    let (stop_mails, mails_ended) = (shutdown.clone(), mails_ended.clone());
    background.spawn(async move {
        mailer.run(stop_mails).await;
        mails_ended.cancel();
        token.cancelled().await;
    });
    background.spawn(Replayer::new(pool.clone(), &worker_name(), wake).run(background.token()));
    let processor = Processor {
        pool: pool.clone(),
        registry,
        policy: config.policy,
        livemode: config.livemode,
        worker: worker_name(),
        health: health.clone(),
        metrics: metrics.clone(),
    };
    let processor = Arc::new(processor);
    let recorder = Arc::new(Recorder::new(pool, processor.clone()));
    ConsumerLoop {
        broker,
        concurrency: config.concurrency,
        processor,
        recorder,
        health: health.clone(),
    }
}

/// Starts what no event waits for.
fn start_upkeep(config: &Config, pool: &Pool, metrics: &Metrics, background: &mut Background) {
    let token = background.token();
    background.spawn(Seats::new(pool.clone(), config.seat_times).run(token.clone()));
    let retention = Retention::new(pool.clone(), config.ages, metrics.clone());
    background.spawn(retention.run(token.clone()));
    if let Some(schedule) = &config.reconcile {
        let reconciler = ScheduledReconciler {
            pool: pool.clone(),
            schedule: schedule.clone(),
            livemode: config.livemode,
            worker: worker_name(),
            metrics: metrics.clone(),
        };
        background.spawn(reconciler.run(token.clone()));
    }
    let alerts = &config.alerts;
    let alerting = Alerting::new(pool.clone(), alerts.clone());
    background.spawn(alerting.run(token.clone()));
    let mail = (config.outlet.clone(), config.mail_from.clone());
    let sender = Sender::new(pool.clone(), alerts.clone(), mail, metrics.clone());
    background.spawn(sender.run(token));
}

fn pool(config: &Config, size: usize, wait: Duration) -> Pool {
    let settings = PoolSettings {
        application_name: APPLICATION,
        size,
        wait,
        statement_timeout: STATEMENT_TIMEOUT,
        durability: Durability::Full,
        generic_plans: true,
    };
    database::pool(&config.service.database, &settings)
}

/// Waits for the database, then checks its schema; false when the worker is stopped meanwhile.
async fn schema_is_current(pool: &Pool, shutdown: &CancellationToken) -> Result<bool, Fault> {
    loop {
        let checked = with_client(pool, PROBE_TIMEOUT, async |client| {
            match require_current(&***client).await {
                Err(MigrationError::Store(error)) => Err(error),
                other => Ok(other),
            }
        });
        match checked
            .await
            .map_err(|error: StoreError| MigrationError::Store(error))
        {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(pending)) => return Err(pending.into()),
            Err(error) => warn!(%error, "waiting for the database"),
        }
        if !sleep_unless(shutdown, PROBE_INTERVAL).await {
            return Ok(false);
        }
    }
}

/// Tells workers apart in the table of attempts: host and process.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "{}:{}",
        if host.trim().is_empty() {
            "worker"
        } else {
            host.trim()
        },
        std::process::id()
    )
}
