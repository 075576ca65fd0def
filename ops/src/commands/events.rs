//! `ops events`.

use serde::Serialize;

use super::filter_args::FilterArgs;
use super::{Accountable, actor};
use crate::filter::Filter;
use crate::output::{Output, exact, print_bytes, safe, table, time, time_or_dash};
use crate::page::Cursor;
use crate::redact::redact;
use crate::store::console::audit;
use crate::store::events::{self, Attempt, Event};
use crate::store::search;
use crate::timeline::{Moment, timeline};
use crate::{Database, OpsError};

/// What to do with events.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List events, newest first
    List {
        /// Only this state: received, processed, ignored, retrying, dead or discarded
        #[arg(long, alias = "status")]
        state: Option<String>,
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
    /// Show an event with its attempts
    Show {
        /// The event's id
        id: String,
        /// Print the exact bytes of its body instead. They hold personal data: who saw them, and why, is kept
        #[arg(long)]
        raw: bool,
        /// Print its body with personal data and secrets covered, as the console does
        #[arg(long, conflicts_with = "raw")]
        redacted: bool,
        /// Why all of it must be seen, for the audit log
        #[arg(long, requires = "raw", default_value = "no reason given")]
        reason: String,
        /// Who, for the audit log; else the variable OPS_ACTOR says it, or the login name
        #[arg(long, default_value_t = actor())]
        actor: String,
    },
    /// Show all that happened to an event: attempts, deaths, and what people did
    Timeline {
        /// The event's id
        id: String,
    },
    /// Try a dead event again, or one that waits for its next attempt at once
    Retry {
        /// The event's id
        id: String,
        /// Do it although it was replayed five times already
        #[arg(long)]
        force: bool,
        /// Who, and why.
        #[command(flatten)]
        accountable: Accountable,
    },
}

/// Runs the command.
pub async fn run(database: &Database, command: Command, output: Output) -> Result<(), OpsError> {
    match command {
        Command::List {
            state,
            filter,
            limit,
            cursor,
        } => {
            let filter = with_state(filter.read()?, state)?;
            let client = database.connect().await?;
            let found = search::list(&client, &filter, cursor.as_ref(), limit).await?;
            output.print_list("events", &found.events, found.next, list)
        }
        Command::Show {
            id,
            raw: true,
            reason,
            actor,
            ..
        } => show_raw(database, &id, &Accountable { reason, actor }).await,
        Command::Show {
            id, redacted: true, ..
        } => show_redacted(database, &id).await,
        Command::Show { id, .. } => show(database, &id, output).await,
        Command::Timeline { id } => show_timeline(database, &id, output).await,
        Command::Retry {
            id,
            force,
            accountable,
        } => retry(database, &id, force, &accountable, output).await,
    }
}

fn with_state(filter: Filter, state: Option<String>) -> Result<Filter, OpsError> {
    let states = Filter {
        states: state.into_iter().collect(),
        ..Filter::default()
    };
    Ok(filter.and(states)?)
}

fn list(found: &[Event]) -> String {
    table(
        [
            "event",
            "type",
            "state",
            "received",
            "deliveries",
            "attempts",
            "last error",
        ],
        found.iter().map(|event| {
            [
                safe(&event.id),
                safe(&event.event_type),
                event.state.clone(),
                time(event.received_at),
                event.deliveries.to_string(),
                event.attempts.to_string(),
                safe(event.last_error.as_deref().unwrap_or("-")),
            ]
        }),
    )
}

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    event: Event,
    attempt_log: Vec<Attempt>,
}

async fn show(database: &Database, id: &str, output: Output) -> Result<(), OpsError> {
    let client = database.connect().await?;
    let event = events::find(&client, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    let details = Details {
        event,
        attempt_log: events::attempts(&client, id).await?,
    };
    output.print("event", &details, |Details { event, attempt_log }| {
        let text = |value: &Option<String>| safe(value.as_deref().unwrap_or("-"));
        let fields = [
            ("event", safe(&event.id)),
            ("type", safe(&event.event_type)),
            ("state", event.state.clone()),
            (
                "livemode",
                event
                    .livemode
                    .map_or("-".to_owned(), |livemode| livemode.to_string()),
            ),
            ("api version", text(&event.api_version)),
            ("account", text(&event.account)),
            ("created", time_or_dash(event.created_at)),
            ("received", time(event.received_at)),
            ("deliveries", event.deliveries.to_string()),
            ("due", time_or_dash(event.due_at)),
            ("finished", time_or_dash(event.finished_at)),
            ("last error", text(&event.last_error)),
        ];
        let fields = table(
            ["field", "value"],
            fields
                .into_iter()
                .map(|(name, value)| [name.to_owned(), value]),
        );
        format!("{fields}\n{}", attempts(attempt_log))
    })
}

fn attempts(log: &[Attempt]) -> String {
    table(
        ["attempt", "started", "ms", "outcome", "error", "worker"],
        log.iter().map(|attempt| {
            let took = attempt.finished_at.duration_since(attempt.started_at);
            let error = [attempt.error_kind.as_deref(), attempt.error.as_deref()];
            [
                attempt.number.to_string(),
                time(attempt.started_at),
                format!("{:.1}", took.as_secs_f64() * 1_000.0),
                attempt.outcome.clone(),
                safe(&error.into_iter().flatten().collect::<Vec<_>>().join(": ")),
                safe(&attempt.worker),
            ]
        }),
    )
}

async fn show_raw(
    database: &Database,
    id: &str,
    accountable: &Accountable,
) -> Result<(), OpsError> {
    accountable.check()?;
    let mut client = database.connect().await?;
    let body = events::body(&client, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    crate::reveal::note(&mut client, id, accountable).await?;
    print_bytes(&body)
}

async fn show_redacted(database: &Database, id: &str) -> Result<(), OpsError> {
    let body = events::body(&database.connect().await?, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    match redact(&body) {
        Some(shown) => print_bytes(shown.as_bytes()),
        None => {
            let text = "its body is not JSON: nothing of it can be shown covered";
            Err(OpsError::Refused(text.to_owned()))
        }
    }
}

/// More than anybody did to one event.
const MOST_AUDIT: i64 = 1_000;

async fn show_timeline(database: &Database, id: &str, output: Output) -> Result<(), OpsError> {
    let client = database.connect().await?;
    let event = events::find(&client, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    let attempts = events::attempts(&client, id).await?;
    let deaths = events::deaths(&client, id).await?;
    let named = audit::Filter {
        event_id: Some(id),
        ..audit::Filter::default()
    };
    let audit = audit::list(&client, &named, MOST_AUDIT).await?;
    let unpublished = events::unpublished_since(&client, id).await?;
    let moments = timeline(&event, &attempts, &deaths, &audit, unpublished);
    output.print_list("timeline", &moments, None::<Cursor>, |moments| {
        table(["at", "what", "details"], moments.iter().map(moment_row))
    })
}

fn moment_row(moment: &Moment) -> [String; 3] {
    let took = moment.took_ms.map(|ms| format!("took {ms:.1} ms"));
    let who = moment.actor.as_ref().map(|actor| format!("by {actor}"));
    let details = [
        &moment.kind,
        &moment.error,
        &who,
        &moment.reason,
        &took,
        &moment.worker,
    ];
    let details: Vec<&str> = details.into_iter().flatten().map(String::as_str).collect();
    [
        exact(moment.at),
        safe(&moment.title()),
        safe(&details.join("; ")),
    ]
}

fn not_found(id: &str) -> OpsError {
    OpsError::NotFound(format!("there is no event {id}"))
}

async fn retry(
    database: &Database,
    id: &str,
    force: bool,
    accountable: &Accountable,
    output: Output,
) -> Result<(), OpsError> {
    accountable.check()?;
    let mut client = database.connect().await?;
    crate::retry::retry(&mut client, id, force, accountable).await?;
    output.print("retried", &id, |id| {
        format!("{id} will be attempted again now")
    })
}
