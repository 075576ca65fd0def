//! The real services, in this process, each in a runtime of its own that can be killed.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use gateway::Gateway;
use prometheus::Registry as Metrics;
use shared::orders::store::SeatTimes;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::Worker;
use worker::config::Config;
use worker::handlers::Registry;

use crate::bed::amqp_url;
use crate::stripe::SECRET;
use crate::{TestBed, eventually, stripe};

/// How long seats wait in tests that start handlers themselves.
pub const SEAT_TIMES: SeatTimes = SeatTimes {
    hold: Duration::from_secs(1_800),
    offer: Duration::from_secs(86_400),
};

struct Service {
    runtime: Option<Runtime>,
    ended: Option<JoinHandle<Result<(), String>>>,
    shutdown: CancellationToken,
}

impl Service {
    /// Asks for a drain and waits for it.
    async fn stop(mut self) -> Result<(), String> {
        self.shutdown.cancel();
        self.ended.take().unwrap().await.unwrap()
    }
}

impl Drop for Service {
    /// As a killed process: nothing that is under way goes on.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A gateway; dropping it kills it.
pub struct RunningGateway {
    /// Public address.
    pub address: SocketAddr,
    /// Admin address.
    pub admin_address: SocketAddr,
    service: Service,
}

impl RunningGateway {
    /// Starts under the gateway's role. `args` come after the usual ones and win.
    pub async fn start(bed: &TestBed, args: &[&str]) -> Self {
        Self::try_start(bed, args).await.unwrap()
    }

    /// Starts, or says why not.
    pub async fn try_start(bed: &TestBed, args: &[&str]) -> Result<Self, String> {
        let usual = [
            "gateway".to_owned(),
            format!("--database-url={}", bed.gateway_url()),
            format!("--amqp-url={}", amqp_url()),
            format!("--amqp-prefix={}", bed.prefix()),
            format!("--webhook-secret={SECRET}"),
            "--listen=127.0.0.1:0".to_owned(),
            "--admin-listen=127.0.0.1:0".to_owned(),
        ];
        let args = gateway::config::Args::try_parse_from(merge(usual, args))
            .map_err(|error| error.to_string())?;
        let config =
            gateway::config::Config::from_args(&args).map_err(|problems| problems.to_string())?;
        let (runtime, shutdown) = (Runtime::new().unwrap(), CancellationToken::new());
        let bound = runtime
            .spawn(Gateway::bind(config, Metrics::new()))
            .await
            .unwrap();
        let mut service = Service {
            runtime: Some(runtime),
            ended: None,
            shutdown: shutdown.clone(),
        };
        let gateway = bound.map_err(|fault| fault.to_string())?;
        let (address, admin_address) = (gateway.address(), gateway.admin_address());
        let running = async move {
            gateway
                .run(shutdown)
                .await
                .map_err(|fault| fault.to_string())
        };
        service.ended = service
            .runtime
            .as_ref()
            .map(|runtime| runtime.spawn(running));
        Ok(Self {
            address,
            admin_address,
            service,
        })
    }

    /// Waits until the gateway reports ready.
    pub async fn until_ready(&self) {
        until_ready(self.admin_address).await;
    }

    /// Asks for a drain and waits for it.
    pub async fn stop(self) -> Result<(), String> {
        self.service.stop().await
    }
}

/// A worker; dropping it kills it.
pub struct RunningWorker {
    /// Admin address.
    pub admin_address: SocketAddr,
    service: Service,
}

impl RunningWorker {
    /// Starts under the worker's role with the real handlers, and waits until it is ready.
    pub async fn start(bed: &TestBed, args: &[&str]) -> Self {
        let config = Self::config(bed, args);
        let registry = worker::handlers::registry(config.seat_times);
        let worker = Self::start_configured(config, registry).await;
        worker.until_ready().await;
        worker
    }

    /// Starts with other handlers.
    pub async fn start_with(bed: &TestBed, registry: Registry, args: &[&str]) -> Self {
        Self::start_configured(Self::config(bed, args), registry).await
    }

    fn config(bed: &TestBed, args: &[&str]) -> Config {
        let usual = [
            "worker".to_owned(),
            format!("--database-url={}", bed.worker_url()),
            format!("--amqp-url={}", amqp_url()),
            format!("--amqp-prefix={}", bed.prefix()),
            format!("--mail-dir={}", bed.mail_dir().display()),
            "--livemode=false".to_owned(),
            "--admin-listen=127.0.0.1:0".to_owned(),
            "--backoff-base=20ms".to_owned(),
            "--backoff-max=100ms".to_owned(),
            "--max-attempts=3".to_owned(),
        ];
        let args = worker::config::Args::try_parse_from(merge(usual, args)).unwrap();
        Config::from_args(&args)
            .map_err(|problems| problems.to_string())
            .unwrap()
    }

    async fn start_configured(config: Config, registry: Registry) -> Self {
        let (runtime, shutdown) = (Runtime::new().unwrap(), CancellationToken::new());
        let worker = runtime
            .spawn(Worker::bind(config, registry, Metrics::new()))
            .await
            .unwrap()
            .unwrap();
        let admin_address = worker.admin_address();
        let stop = shutdown.clone();
        let ended =
            runtime.spawn(async move { worker.run(stop).await.map_err(|fault| fault.to_string()) });
        Self {
            admin_address,
            service: Service {
                runtime: Some(runtime),
                ended: Some(ended),
                shutdown,
            },
        }
    }

    /// Waits until the worker reports ready.
    pub async fn until_ready(&self) {
        until_ready(self.admin_address).await;
    }

    /// Asks for a drain and waits for it.
    pub async fn stop(self) -> Result<(), String> {
        self.service.stop().await
    }

    /// Waits until the worker ends by itself.
    pub async fn ended(mut self) -> Result<(), String> {
        self.service.ended.take().unwrap().await.unwrap()
    }
}

/// Replaces the usual arguments that `args` give too: clap takes each once.
fn merge<const N: usize>(usual: [String; N], args: &[&str]) -> Vec<String> {
    let name = |arg: &str| arg.split('=').next().unwrap_or_default().to_owned();
    let given: Vec<String> = args.iter().map(|arg| name(arg)).collect();
    let kept = usual.into_iter().filter(|arg| !given.contains(&name(arg)));
    kept.chain(args.iter().map(|arg| (*arg).to_owned()))
        .filter(|arg| !arg.ends_with("=-"))
        .collect()
}

async fn until_ready(admin_address: SocketAddr) {
    eventually("the service is ready", async || {
        (stripe::get(admin_address, "/readyz").await.status == 200).then_some(())
    })
    .await;
}
