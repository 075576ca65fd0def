//! The gateway: takes Stripe's webhooks over HTTP, verifies them, makes them durable, and answers within milliseconds.
//! It does not fulfill anything: the workers do.

mod body;
mod client_limit;
pub mod config;
mod dispatch;
mod intake;
mod metrics;
mod refusal;
mod rejections;
mod service;
mod store;
mod writer;

pub use shared::envelope;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use prometheus::Registry;
use shared::admin;
use shared::broker::Publisher;
use shared::database::{self, Durability, PoolSettings, StoreError, with_client};
use shared::health::{Health, PROBE_INTERVAL, PROBE_TIMEOUT, watch_database};
use shared::http::Limits;
use shared::lifecycle::{Background, sleep_unless};
use shared::migrations::{MigrationError, require_current};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::body::Bodies;
use crate::client_limit::ClientLimit;
use crate::config::{Config, SecretSource};
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;
use crate::rejections::{RejectionStore, Rejections};
use crate::service::{Rules, Service};
use crate::store::{EventStore, OutboxStore};
use crate::writer::Writers;

const APPLICATION: &str = "tollgate-gateway";
/// Connections that clear the outbox.
const OUTBOX_CONNECTIONS: usize = 1;
/// Files and sockets that are no connections of clients: database, broker, admin listener and its clients.
const OTHER_FILES: usize = 128;
/// How long requests in flight may take once the gateway stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How long publishes under way may take then: the relay has what is left.
const PUBLISH_DRAIN: Duration = Duration::from_secs(5);

/// Why the gateway cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The schema is not this version's.
    #[error(transparent)]
    Schema(#[from] MigrationError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Something that must run as long as the gateway ended.
    #[error("a background task ended by itself")]
    TaskEnded,
}

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    config: Config,
    metrics: Registry,
    listener: TcpListener,
    admin_listener: TcpListener,
    probe_pool: Pool,
}

impl Gateway {
    /// Checks the schema and binds both addresses. A database that is away does not keep the gateway from starting: it
    /// answers 503 until the database is there.
    pub async fn bind(config: Config, metrics: Registry) -> Result<Self, Fault> {
        let probe = PoolSettings {
            application_name: APPLICATION,
            size: 1,
            wait: PROBE_TIMEOUT,
            statement_timeout: PROBE_TIMEOUT,
            durability: Durability::Full,
            generic_plans: true,
        };
        let probe_pool = database::pool(&config.service.database, &probe);
        match check_schema(&probe_pool).await {
            Err(MigrationError::Store(error)) => {
                warn!(%error, "starting although the schema cannot be checked yet")
            }
            checked => checked?,
        }
        let listener = listen(config.listen)?;
        let admin_listener = listen(config.admin_listen)?;
        Ok(Self {
            config,
            metrics,
            listener,
            admin_listener,
            probe_pool,
        })
    }

    /// Where webhooks are taken.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    /// Where `/readyz` is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_listener
            .local_addr()
            .unwrap_or(self.config.admin_listen)
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Fault> {
        info!(address = %self.address(), paths = ?self.config.webhook_paths, "taking webhooks");
        info!(address = %self.admin_address(), "admin listener");
        let Self {
            config,
            metrics,
            listener,
            admin_listener,
            probe_pool,
        } = self;
        let (health, mut background) = (Health::default(), Background::default());
        let token = background.token();
        background.spawn(admin::serve(
            admin_listener,
            health.clone(),
            metrics,
            token.clone(),
        ));
        background.spawn(watch_database(
            probe_pool.clone(),
            health.clone(),
            token.clone(),
        ));
        let (limits, secrets) = (limits(&config), config.secrets.clone());
        let (service, writers, dispatcher) = start(config, &health, &mut background);
        background.spawn(reload_on_hangup(secrets, service.clone(), token.clone()));
        background.spawn(forget_calm_clients(service.clone(), token.clone()));

        let handle = {
            let service = service.clone();
            move |peer, request| service.clone().handle(peer, request)
        };
        let announce = announce_drain(health, shutdown.clone());
        let serve = shared::http::serve(listener, limits, shutdown, handle);
        let served = tokio::select! {
            (_, ()) = async { tokio::join!(announce, serve) } => Ok(()),
            () = background.one_ended() => Err(Fault::TaskEnded),
            fault = wrong_schema(probe_pool) => Err(fault.into()),
        };
        let drain = async {
            writers.drain().await;
            dispatcher.drain().await;
        };
        if timeout(PUBLISH_DRAIN, drain).await.is_err() {
            warn!("publishes were still under way: the relay will publish them");
        }
        background.stop(Duration::from_secs(3)).await;
        served
    }
}

/// Starts writing and publishing, and makes the service that requests go to.
fn start(
    config: Config,
    health: &Health,
    background: &mut Background,
) -> (Arc<Service>, Writers, Dispatcher) {
    let broker = config.service.broker.clone();
    let (publisher, supervisor) =
        Publisher::new(broker, APPLICATION, health.clone(), background.token());
    background.spawn(supervisor);
    let outbox = outbox_store(&config);
    let dispatcher = Dispatcher::start(publisher, &outbox, &Metrics::new(), background);
    let (count, events) = (config.db_connections, event_store(&config));
    let writers = Writers::start(count, &events, &dispatcher, health, background);
    let rejections = Rejections::default();
    background.spawn(
        rejections
            .clone()
            .run(rejection_store(&config), background.token()),
    );
    let service = service(config, rejections, writers.clone());
    (service, writers, dispatcher)
}

async fn announce_drain(health: Health, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    health.set_draining();
}

fn service(config: Config, rejections: Rejections, writers: Writers) -> Arc<Service> {
    let rules = Rules {
        webhook_paths: config.webhook_paths,
        bodies: Bodies::new(config.max_body_bytes),
        request_timeout: config.request_timeout,
        signature_tolerance_s: config.signature_tolerance_s,
        invalid_signature_status: config.invalid_signature_status,
    };
    Service::new(
        rules,
        config.keys,
        ClientLimit::new(config.invalid_per_minute),
        rejections,
        writers,
    )
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_connections: max_connections(config.max_connections),
        header_timeout: config.request_timeout,
        drain: DRAIN,
    }
}

/// As many as the system lets this process have open, but for what else it needs.
fn max_connections(wanted: usize) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let possible = files.saturating_sub(OTHER_FILES).max(1);
    if possible < wanted {
        warn!(
            wanted,
            possible, "the limit of open files allows fewer connections"
        );
    }
    wanted.min(possible)
}

fn event_store(config: &Config) -> EventStore {
    let pool = pool(config, config.db_connections, Durability::Full);
    EventStore::new(pool, config.db_timeout, config.outbox_grace)
}

fn outbox_store(config: &Config) -> OutboxStore {
    let pool = pool(config, OUTBOX_CONNECTIONS, Durability::Deferred);
    OutboxStore::new(pool, config.db_timeout)
}

fn rejection_store(config: &Config) -> RejectionStore {
    let pool = pool(config, 1, Durability::Deferred);
    RejectionStore::new(pool, config.db_timeout)
}

fn pool(config: &Config, size: usize, durability: Durability) -> Pool {
    let settings = PoolSettings {
        application_name: APPLICATION,
        size,
        wait: config.db_timeout,
        statement_timeout: config.db_timeout,
        durability,
        generic_plans: true,
    };
    database::pool(&config.service.database, &settings)
}

fn listen(address: SocketAddr) -> Result<TcpListener, Fault> {
    shared::http::listen(address).map_err(|source| Fault::Listen { address, source })
}

async fn check_schema(pool: &Pool) -> Result<(), MigrationError> {
    let checked = with_client(pool, PROBE_TIMEOUT, async |client| {
        match require_current(&***client).await {
            Err(MigrationError::Store(error)) => Err(error),
            other => Ok(other),
        }
    });
    checked
        .await
        .map_err(|error: StoreError| MigrationError::Store(error))?
}

/// Returns only if the schema turns out to be too old once the database is there.
async fn wrong_schema(pool: Pool) -> MigrationError {
    loop {
        match check_schema(&pool).await {
            Ok(()) => return std::future::pending().await,
            Err(MigrationError::Store(_)) => sleep(PROBE_INTERVAL).await,
            Err(pending) => return pending,
        }
    }
}

async fn reload_on_hangup(
    secrets: SecretSource,
    service: Arc<Service>,
    background: CancellationToken,
) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return error!("cannot listen for SIGHUP");
    };
    while background
        .run_until_cancelled(hangup.recv())
        .await
        .flatten()
        .is_some()
    {
        match secrets.reload() {
            None => info!("SIGHUP: the secrets come from the environment and stay"),
            Some(Ok(keys)) => {
                info!(secrets = keys.len(), "SIGHUP: secrets read again");
                service.replace_keys(keys);
            }
            Some(Err(problem)) => error!(%problem, "SIGHUP: the old secrets stay"),
        }
    }
}

async fn forget_calm_clients(service: Arc<Service>, background: CancellationToken) {
    while sleep_unless(&background, Duration::from_secs(60)).await {
        service.forget_calm_clients();
    }
}
