//! `ops console`: pages for the people on call, on a listener of its own. It reads through the stores of `ops`, and
//! changes only what the command line can change too.

mod answers;
mod app;
mod assets;
mod auth;
pub mod config;
mod guard;
pub(crate) mod lights;
mod live;
mod pages;
mod passwords;
pub(crate) mod probes;
mod reply;
mod shown;
mod sign_ins;
mod stream;
mod view;
mod visit;

use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{self, Durability, PoolSettings, StoreError, with_client};
use shared::http::Limits;
use shared::lifecycle::{Background, run_until_signal};
use shared::migrations::{MigrationError, require_current};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use app::App;
pub use config::{Args, Config};
use live::{Live, Sources};
use probes::Prober;

/// What `ops console` does beside serving.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Read a password from standard input and print its hash, for a line of CONSOLE_USERS_FILE
    HashPassword,
}

const LIMITS: Limits = Limits {
    max_connections: 256,
    header_timeout: Duration::from_secs(10),
    drain: Duration::from_secs(5),
};
/// How long one statement may run.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 8;

/// Why the console ended.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The schema is not the one that it knows.
    #[error(transparent)]
    Schema(#[from] MigrationError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Something that must run as long as the console ended.
    #[error("a background task ended by itself")]
    TaskEnded,
}

/// Runs the command until it is told to stop.
pub fn start(database: Option<&str>, args: &Args) -> ExitCode {
    if let Some(Command::HashPassword) = args.command {
        return print_hash();
    }
    let config = match Config::from_args(database, args) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    let telemetry = match shared::telemetry::start("console", config.log_format) {
        Ok(telemetry) => telemetry,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let shutdown = CancellationToken::new();
    let code = runtime.block_on(run_until_signal(shutdown.clone(), async {
        Console::bind(config).await?.run(shutdown).await
    }));
    runtime.shutdown_background();
    telemetry.stop();
    code
}

fn print_hash() -> ExitCode {
    let mut password = String::new();
    let read = std::io::stdin().take(4_096).read_to_string(&mut password);
    let password = password.trim_end_matches(['\r', '\n']);
    let hash = match read {
        Ok(_) if password.chars().count() < 8 => Err("a password has 8 characters or more".into()),
        Ok(_) => passwords::hash(password),
        Err(error) => Err(error.to_string()),
    };
    match hash {
        Ok(hash) => {
            println!("{hash}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

/// A console that listens but does not serve yet.
pub struct Console {
    config: Config,
    pool: Pool,
    listener: TcpListener,
}

impl Console {
    /// Checks the schema and binds the address. A database that is away does not keep the console from starting: its
    /// overview says so.
    pub async fn bind(config: Config) -> Result<Self, Fault> {
        let settings = PoolSettings {
            application_name: "tollgate-console",
            size: CONNECTIONS,
            wait: Duration::from_secs(3),
            statement_timeout: STATEMENT_TIMEOUT,
            durability: Durability::Full,
            generic_plans: false,
        };
        let pool = database::pool(&config.database, &settings);
        match check_schema(&pool).await {
            Err(MigrationError::Store(error)) => {
                warn!(%error, "starting although the schema cannot be checked yet")
            }
            checked => checked?,
        }
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Fault::Listen { address, source })?;
        Ok(Self {
            config,
            pool,
            listener,
        })
    }

    /// Where the pages are.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Fault> {
        info!("console on http://{}", self.address());
        let Self {
            config,
            pool,
            listener,
        } = self;
        let mut background = Background::default();
        let sources = Sources {
            pool: pool.clone(),
            prober: Prober::new(),
            gateways: config.gateways.clone(),
            workers: config.workers.clone(),
        };
        let (live, polling) = Live::start(sources, background.token(), shutdown.clone()).await;
        let app = App::new(config, pool, live);
        background.spawn(polling);
        let handle = move |peer, request| app.clone().handle(peer, request);
        let served = tokio::select! {
            () = shared::http::serve(listener, LIMITS, shutdown, handle) => Ok(()),
            () = background.one_ended() => Err(Fault::TaskEnded),
        };
        background.stop(Duration::from_secs(1)).await;
        served
    }
}

async fn check_schema(pool: &Pool) -> Result<(), MigrationError> {
    let checked = with_client(
        pool,
        STATEMENT_TIMEOUT,
        async |client| match require_current(&***client).await {
            Err(MigrationError::Store(error)) => Err(error),
            other => Ok(other),
        },
    );
    checked
        .await
        .map_err(|error: StoreError| MigrationError::Store(error))?
}
