//! `ops dead-letters`.

use std::collections::BTreeSet;

use deadpool_postgres::Object;
use serde::Serialize;

use super::filter_args::FilterArgs;
use super::groups::{self, Change};
use super::{Accountable, confirm};
use crate::discard::{MOST, check_cap};
use crate::filter::Filter;
use crate::output::{Output, note, safe, table, time};
use crate::page::{Cursor, next_page};
use crate::store::dead_letters::{self, DeadLetter, Group};
use crate::{Database, OpsError};

/// What to do with dead letters.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List unresolved dead letters, oldest first
    List {
        /// Which.
        #[command(flatten)]
        filter: FilterArgs,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Go on behind this place: the `next` of the page before
        #[arg(long)]
        cursor: Option<Cursor>,
    },
    /// Group unresolved dead letters by cause
    Groups {
        /// Which.
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Show a dead letter
    Show {
        /// Its id, or its event's
        id: String,
    },
    /// Put events back to work, with a fresh budget of attempts: one at once, more as a replay at a rate
    Replay(super::replay::Args),
    /// Give dead letters up for good
    Discard(Discarding),
    /// Say that somebody looks after a group
    Acknowledge(Change),
    /// Say that the cause of a group is mended: it opens again when another event dies of it
    Resolve(Change),
    /// Say that a group is nobody's worry, whatever else dies of it
    Ignore(Change),
    /// Take any of these back
    Reopen(Change),
}

/// Which dead letters to give up: named ones, or those that match.
#[derive(clap::Args)]
pub struct Discarding {
    /// Dead letters' ids, or their events'
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every unresolved dead letter
    #[arg(long)]
    all: bool,
    /// Only say which ones it would be
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, although it may be many
    #[arg(long)]
    yes: bool,
    /// Refuse if it is more than that
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    max: Option<i64>,
    /// Do it although it is more than 10,000
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    accountable: Accountable,
}

/// Runs the command.
pub async fn run(database: &Database, command: Command, output: Output) -> Result<(), OpsError> {
    match command {
        Command::List {
            filter,
            limit,
            cursor,
        } => {
            let filter = filter.read()?;
            let client = database.connect().await?;
            let found = dead_letters::list(&client, &filter, cursor.as_ref(), limit).await?;
            let next = next_page(&found, limit, |letter| {
                (letter.died_at, letter.id.to_string())
            });
            output.print_list("dead_letters", &found, next, list)
        }
        Command::Groups { filter } => {
            let filter = filter.read()?;
            let found = dead_letters::groups(&database.connect().await?, &filter).await?;
            output.print_list("groups", &found, None::<Cursor>, group_table)
        }
        Command::Show { id } => {
            let found =
                dead_letters::find(&database.connect().await?, id.parse().ok(), &id).await?;
            let found = found.ok_or_else(|| not_found(&id))?;
            output.print("dead_letter", &found, show)
        }
        Command::Replay(args) => super::replay::run(database, args, output).await,
        Command::Discard(args) => discard(database, args, output).await,
        Command::Acknowledge(change) => groups::run(database, "acknowledged", change, output).await,
        Command::Resolve(change) => groups::run(database, "resolved", change, output).await,
        Command::Ignore(change) => groups::run(database, "ignored", change, output).await,
        Command::Reopen(change) => groups::run(database, "open", change, output).await,
    }
}

fn not_found(id: &str) -> OpsError {
    OpsError::NotFound(format!("there is no dead letter {id}"))
}

fn list(found: &[DeadLetter]) -> String {
    table(
        [
            "id", "event", "type", "reason", "error", "group", "died", "attempts",
        ],
        found.iter().map(|letter| {
            [
                letter.id.to_string(),
                safe(letter.event_id.as_deref().unwrap_or("-")),
                safe(letter.event_type.as_deref().unwrap_or("-")),
                letter.reason.clone(),
                safe(&letter.error),
                letter.fingerprint.clone(),
                time(letter.died_at),
                letter
                    .attempts
                    .map_or("-".to_owned(), |attempts| attempts.to_string()),
            ]
        }),
    )
}

fn group_table(found: &[Group]) -> String {
    table(
        ["group", "count", "reason", "error", "first", "last"],
        found.iter().map(|group| {
            [
                group.fingerprint.clone(),
                group.count.to_string(),
                group.reason.clone(),
                safe(&group.error),
                time(group.first_at),
                time(group.last_at),
            ]
        }),
    )
}

fn show(letter: &DeadLetter) -> String {
    let resolution = match (&letter.resolution, letter.resolved_at) {
        (Some(resolution), Some(at)) => format!("{resolution} at {}", time(at)),
        _ => "unresolved".to_owned(),
    };
    let fields = [
        ("dead letter", letter.id.to_string()),
        ("event", safe(letter.event_id.as_deref().unwrap_or("-"))),
        ("type", safe(letter.event_type.as_deref().unwrap_or("-"))),
        ("reason", letter.reason.clone()),
        ("error", safe(&letter.error)),
        ("group", letter.fingerprint.clone()),
        ("died", time(letter.died_at)),
        ("resolution", resolution),
        ("message", safe(letter.message.as_deref().unwrap_or("-"))),
    ];
    table(
        ["field", "value"],
        fields
            .into_iter()
            .map(|(name, value)| [name.to_owned(), value]),
    )
}

/// What was changed at once.
#[derive(Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// How many matched.
    pub matched: i64,
    /// How many were changed.
    pub done: usize,
    /// Which.
    pub ids: Vec<String>,
}

async fn discard(database: &Database, args: Discarding, output: Output) -> Result<(), OpsError> {
    args.accountable.check()?;
    let selection = Selection::new(args.ids, args.filter, args.all)?;
    let mut client = database.connect().await?;
    let matched = dead_letters::count(&client, &selection.filter).await?;
    if matched == 0 && selection.named.is_some() {
        return Err(none_open());
    }
    if args.dry_run {
        return preview(&client, &selection.filter, matched, output).await;
    }
    check_cap(matched, args.max, args.force)?;
    if selection.named.is_none() && !args.yes {
        agree(matched)?;
    }
    let unmatched = match selection.named {
        Some(_) => dead_letters::count_unmatched(&client, &selection.filter.ids).await?,
        None => 0,
    };
    let ids =
        crate::discard::discard(&mut client, &selection.filter, matched, &args.accountable).await?;
    let wanted = usize::try_from(matched + unmatched).unwrap_or(usize::MAX);
    let left = wanted.saturating_sub(ids.len());
    let report = Report {
        dry_run: false,
        matched,
        done: ids.len(),
        ids,
    };
    output.print("discarded", &report, |report| {
        format!("{} of {matched} discarded", report.done)
    })?;
    match left {
        0 => Ok(()),
        left => Err(OpsError::PartlyFailed(format!(
            "{left} could not be discarded: unknown, resolved or busy"
        ))),
    }
}

fn agree(matched: i64) -> Result<(), OpsError> {
    if confirm::can_ask() {
        return confirm::ask(matched, "discarded for good");
    }
    let text =
        format!("{matched} dead letters would be discarded: say --yes, or look with --dry-run");
    Err(OpsError::Refused(text))
}

/// Nothing that was named can be changed.
pub fn none_open() -> OpsError {
    OpsError::NotFound("none of these is an unresolved dead letter".to_owned())
}

async fn preview(
    client: &Object,
    filter: &Filter,
    matched: i64,
    output: Output,
) -> Result<(), OpsError> {
    let found = dead_letters::list(client, filter, None, MOST).await?;
    note(format_args!("{matched} dead letters would be discarded"));
    let name = |letter: &DeadLetter| {
        letter
            .event_id
            .clone()
            .unwrap_or_else(|| letter.id.to_string())
    };
    let report = Report {
        dry_run: true,
        matched,
        done: 0,
        ids: found.iter().map(name).collect(),
    };
    output.print("discarded", &report, |_| list(&found))
}

/// What was named or described.
pub struct Selection {
    /// How many ids were named; none where they were described.
    pub named: Option<usize>,
    /// Which.
    pub filter: Filter,
}

impl Selection {
    /// Ids, or else a filter or `--all`.
    pub fn new(ids: Vec<String>, filter: FilterArgs, all: bool) -> Result<Self, OpsError> {
        let filter = filter.read()?.and(Filter {
            all,
            ..Filter::default()
        })?;
        match (ids.is_empty(), filter.says_something()) {
            (true, false) => {
                let text = "say which: ids, --filter, --type, --since, --fingerprint or --all";
                Err(OpsError::Usage(text.to_owned()))
            }
            (false, true) => Err(OpsError::Usage("say either ids or a filter".to_owned())),
            (true, true) => Ok(Self {
                named: None,
                filter,
            }),
            (false, false) => {
                let unique: BTreeSet<String> = ids.into_iter().collect();
                Ok(Self {
                    named: Some(unique.len()),
                    filter: Filter {
                        ids: unique.into_iter().collect(),
                        ..Filter::default()
                    },
                })
            }
        }
    }
}
