//! `ops rejections`.

use jiff::Timestamp;

use crate::filter::Filter;
use crate::output::{Output, safe, table, time};
use crate::page::{Cursor, next_page};
use crate::store::rejections::{self, Rejection};
use crate::{Database, OpsError};

/// What to do with rejections.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List refused webhooks, newest first: a line for each cause of some seconds, with the first of them as a sample
    List {
        /// Only this cause, e.g. signature_mismatch
        #[arg(long)]
        cause: Option<String>,
        /// Only from then on: 2h, 30m, 7d or an RFC 3339 time
        #[arg(long)]
        since: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Go on behind this place: the `next` of the page before
        #[arg(long)]
        cursor: Option<Cursor>,
    },
}

/// Runs the command.
pub async fn run(database: &Database, command: Command, output: Output) -> Result<(), OpsError> {
    let Command::List {
        cause,
        since,
        limit,
        cursor,
    } = command;
    let since = match since {
        Some(since) => Filter::parse(&format!("since:\"{since}\""), Timestamp::now())?.since,
        None => None,
    };
    let client = database.connect().await?;
    let which = (cause.as_deref(), since);
    let found = rejections::list(&client, which, cursor.as_ref(), limit).await?;
    let next = next_page(&found, limit, |row| (row.at, row.id.clone()));
    output.print_list("rejections", &found, next, list)
}

fn list(found: &[Rejection]) -> String {
    table(
        [
            "stored",
            "cause",
            "count",
            "client",
            "bytes",
            "sha256 of the body",
        ],
        found.iter().map(|row| {
            [
                time(row.at),
                safe(&row.cause),
                row.count.to_string(),
                row.client.to_string(),
                row.body_bytes
                    .map_or("-".to_owned(), |bytes| bytes.to_string()),
                row.body_sha256.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    )
}
