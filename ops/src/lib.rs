//! Operates Tollgate from the command line: migrate, seed, check, trigger, inspect, replay, reconcile. Data goes to stdout,
//! everything else to stderr; it asks at a terminal only, and only before many dead letters are touched.

pub mod commands;
pub mod console;
mod discard;
mod error;
pub mod events;
pub mod filter;
mod lifecycles;
mod output;
pub mod page;
mod redact;
mod retry;
mod reveal;
pub mod store;
mod timeline;
mod triage;

use clap::{Parser, Subcommand};
use deadpool_postgres::{Object, Pool, PoolError};
use shared::database::{self, Durability, PoolSettings};
use shared::settings::database_url;
use std::process::ExitCode;
use std::time::Duration;
use tokio_postgres::error::SqlState;

pub use error::OpsError;
use output::Output;
pub use output::note;

/// Operates Tollgate: applies migrations, loads orders, shows what failed and why, replays it.
///
/// Exit codes: 0 ok, 1 unexpected, 2 usage, 3 not found, 4 refused, 5 not permitted, 6 conflict, 7 unavailable,
/// 8 finished with some items failed.
#[derive(Parser)]
#[command(name = "ops", version)]
pub struct Cli {
    /// PostgreSQL connection string
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<String>,
    /// Print JSON
    #[arg(long, global = true, conflicts_with = "ndjson")]
    json: bool,
    /// Print a line of JSON for each item
    #[arg(long, global = true)]
    ndjson: bool,
    /// Print tables, as without any of these
    #[arg(long, global = true, conflicts_with_all = ["json", "ndjson"])]
    table: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Apply pending migrations, roles and grants
    Migrate,
    /// Load products and orders from a JSON file: all or nothing, and again without effect
    Seed(commands::seed::Args),
    /// Check every dependency, setting and privilege, and say how to mend what is wrong
    Doctor(commands::doctor::Args),
    /// Look at the settings of all programs
    #[command(subcommand)]
    Config(commands::config::Command),
    /// Import events that Stripe could not deliver, from its list of events
    Reconcile(Box<commands::reconcile::Args>),
    /// Build, sign and post a realistic event
    Trigger(commands::trigger::Args),
    /// Look at events, or retry one
    #[command(subcommand)]
    Events(commands::events::Command),
    /// Show how database, broker, gateways and workers are, and what waits; exits with 7 when one of them is down
    Health(commands::health::Args),
    /// Print the completion script of a shell, e.g. for /etc/bash_completion.d/ops
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Look at replays of many dead letters; pause, resume or cancel one
    #[command(subcommand)]
    Replays(commands::replays::Command),
    /// Look at dead letters, replay or discard them
    #[command(subcommand)]
    DeadLetters(commands::dead_letters::Command),
    /// Look at alerts that fire
    #[command(subcommand)]
    Alerts(commands::alerts::Command),
    /// Look at webhooks that gateways refused
    #[command(subcommand)]
    Rejections(commands::rejections::Command),
    /// Serve pages for the people on call
    Console(Box<console::Args>),
}

/// Runs the program: a service of its own for the console, one command otherwise.
pub fn main(cli: Cli) -> ExitCode {
    if let Command::Console(args) = &cli.command {
        return console::start(cli.database_url.as_deref(), args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(OpsError::Unexpected(error.to_string())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.code() != 0 {
                note(format_args!("error: {error}"));
            }
            ExitCode::from(error.code())
        }
    }
}

/// Runs one command.
async fn run(cli: Cli) -> Result<(), OpsError> {
    let output = match (cli.json, cli.ndjson) {
        (true, _) => Output::Json,
        (_, true) => Output::Ndjson,
        _ => Output::Text,
    };
    let database = Database(cli.database_url);
    match cli.command {
        Command::Migrate => commands::migrate::run(&database, output).await,
        Command::Seed(args) => commands::seed::run(&database, &args, output).await,
        Command::Doctor(args) => commands::doctor::run(&database, &args, output).await,
        Command::Config(command) => commands::config::run(&database, command, output).await,
        Command::Reconcile(args) => commands::reconcile::run(&database, &args, output).await,
        Command::Trigger(args) => commands::trigger::run(&database, &args, output).await,
        Command::Events(command) => commands::events::run(&database, command, output).await,
        Command::Health(args) => commands::health::run(&database, args, output).await,
        Command::Completions { shell } => commands::completions::run(shell),
        Command::Replays(command) => commands::replays::run(&database, command, output).await,
        Command::DeadLetters(command) => {
            commands::dead_letters::run(&database, command, output).await
        }
        Command::Alerts(command) => commands::alerts::run(&database, command, output).await,
        Command::Rejections(command) => commands::rejections::run(&database, command, output).await,
        Command::Console(_) => unreachable!("it is started before"),
    }
}

/// Where the database is, if that was said.
pub struct Database(Option<String>);

impl Database {
    /// A connection.
    pub async fn connect(&self) -> Result<Object, OpsError> {
        self.pool(1)?.get().await.map_err(refused_or_away)
    }

    /// So many connections.
    pub fn pool(&self, size: usize) -> Result<Pool, OpsError> {
        let raw = self
            .url()
            .ok_or_else(|| OpsError::Usage("DATABASE_URL is not set".to_owned()))?;
        let config = database_url(raw)
            .map_err(|problem| OpsError::Usage(format!("DATABASE_URL {problem}")))?;
        let settings = PoolSettings {
            application_name: "tollgate-ops",
            size,
            wait: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(60),
            durability: Durability::Full,
            generic_plans: false,
        };
        Ok(database::pool(&config, &settings))
    }

    /// Whether it was said where the database is.
    pub fn is_known(&self) -> bool {
        self.url().is_some()
    }

    /// What was said of where the database is.
    fn url(&self) -> Option<&str> {
        let raw = self.0.as_deref().map(str::trim);
        raw.filter(|raw| !raw.is_empty())
    }
}

/// A server that refuses this user answers: another try would not help.
fn refused_or_away(error: PoolError) -> OpsError {
    let code = match &error {
        PoolError::Backend(cause) => cause.code().map(SqlState::code),
        _ => None,
    };
    let refused = code.is_some_and(|code| {
        code.starts_with("28") || code == SqlState::INSUFFICIENT_PRIVILEGE.code()
    });
    let text = database::StoreError::from(error);
    match refused {
        true => OpsError::NotPermitted(text.to_string()),
        false => text.into(),
    }
}
