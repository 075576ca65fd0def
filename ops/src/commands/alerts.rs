//! `ops alerts`.

use crate::output::{Output, safe, table, time};
use crate::page::Cursor;
use crate::store::alerts::{self, Alert};
use crate::{Database, OpsError};

/// What to do with alerts.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List alerts that fire, newest first
    List {
        /// Those that are resolved too
        #[arg(long)]
        all: bool,
        /// How many
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
    },
}

/// Runs the command.
pub async fn run(database: &Database, command: Command, output: Output) -> Result<(), OpsError> {
    let Command::List { all, limit } = command;
    let found = alerts::list(&database.connect().await?, all, limit).await?;
    output.print_list("alerts", &found, None::<Cursor>, list)
}

fn list(found: &[Alert]) -> String {
    table(
        ["state", "rule", "about", "message", "since", "told"],
        found.iter().map(|alert| {
            [
                alert.state.clone(),
                alert.rule.clone(),
                safe(&alert.key),
                safe(&alert.message),
                time(alert.since),
                time(alert.told_at),
            ]
        }),
    )
}
