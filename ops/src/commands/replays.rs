//! `ops replays`: what became of replays, and pause, resume and cancel.

use std::io::IsTerminal;
use std::time::Duration;

use deadpool_postgres::Object;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Accountable;
use crate::output::{Output, note, print_item, safe, table, time, time_or_dash};
use crate::store::replays::{self, Item, Replay, Step};
use crate::{Database, OpsError};

/// What to do with replays.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List replays, newest first
    List {
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Go on from here: the `next` of the page before
        #[arg(long)]
        cursor: Option<i64>,
    },
    /// Show a replay, and its events with an outcome
    Show {
        /// Its id
        id: i64,
        /// Which of its events: waiting, replayed, processed, dead_again or skipped
        #[arg(long, default_value = "dead_again", value_parser = OUTCOMES)]
        outcome: String,
        /// How many of them
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(0..=10_000))]
        limit: i64,
    },
    /// Put nothing back until it is resumed
    Pause(Change),
    /// Go on
    Resume(Change),
    /// End it; what was put back stays put back
    Cancel(Change),
    /// Show the progress until it is over or paused: a bar on a terminal, else lines of JSON
    Follow {
        /// Its id
        id: i64,
    },
}

/// A change of a replay.
#[derive(clap::Args)]
pub struct Change {
    /// Its id
    id: i64,
    #[command(flatten)]
    accountable: Accountable,
}

/// What can become of an event of a replay.
const OUTCOMES: [&str; 5] = ["waiting", "replayed", "processed", "dead_again", "skipped"];

/// How often a followed replay is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the command.
pub async fn run(database: &Database, command: Command, output: Output) -> Result<(), OpsError> {
    if let Command::Pause(change) | Command::Resume(change) | Command::Cancel(change) = &command {
        change.accountable.check()?;
    }
    let client = database.connect().await?;
    match command {
        Command::List { limit, cursor } => {
            let found = replays::list(&client, cursor, limit).await?;
            let next = found.last().map(|replay| replay.id.to_string());
            let next = next.filter(|_| i64::try_from(found.len()) == Ok(limit));
            output.print_list("replays", &found, next, list)
        }
        Command::Show { id, outcome, limit } => {
            let replay = get(&client, id).await?;
            let items = replays::items(&client, id, Some(&outcome), 0, limit).await?;
            output.print("replay", &Details { replay, items }, show)
        }
        Command::Pause(change) => take(&client, Step::Pause, &change, output).await,
        Command::Resume(change) => take(&client, Step::Resume, &change, output).await,
        Command::Cancel(change) => take(&client, Step::Cancel, &change, output).await,
        Command::Follow { id } => follow(&client, id, output).await,
    }
}

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    replay: Replay,
    items: Vec<Item>,
}

async fn get(client: &Object, id: i64) -> Result<Replay, OpsError> {
    let found = replays::find(client, id).await?;
    found.ok_or_else(|| OpsError::NotFound(format!("there is no replay {id}")))
}

async fn take(
    client: &Object,
    step: Step,
    change: &Change,
    output: Output,
) -> Result<(), OpsError> {
    let Accountable { actor, reason } = &change.accountable;
    let taken = replays::take(client, change.id, step, actor, reason).await?;
    let replay = get(client, change.id).await?;
    if !taken {
        return Err(OpsError::Conflict(format!(
            "replay {} is {}: it cannot become {}",
            replay.id,
            replay.state,
            step.state()
        )));
    }
    output.print("replay", &replay, summary)
}

/// One line.
pub fn summary(replay: &Replay) -> String {
    let Replay {
        id,
        state,
        planned,
        done,
        rate_per_s,
        in_flight,
        processed,
        dead_again,
        skipped,
        ..
    } = replay;
    let error = replay
        .error
        .as_deref()
        .map_or(String::new(), |error| format!(": {}", safe(error)));
    format!(
        "replay {id} is {state}{error}: {done} of {planned} done at {rate_per_s}/s, {processed} processed, \
         {dead_again} dead again, {skipped} skipped, {in_flight} under way"
    )
}

fn list(found: &[Replay]) -> String {
    table(
        [
            "id",
            "state",
            "planned",
            "done",
            "processed",
            "dead again",
            "skipped",
            "by",
            "reason",
            "created",
        ],
        found.iter().map(|replay| {
            [
                replay.id.to_string(),
                replay.state.clone(),
                replay.planned.to_string(),
                replay.done.to_string(),
                replay.processed.to_string(),
                replay.dead_again.to_string(),
                replay.skipped.to_string(),
                safe(&replay.created_by),
                safe(&replay.reason),
                time(replay.created_at),
            ]
        }),
    )
}

fn show(details: &Details) -> String {
    let replay = &details.replay;
    let left = f64::from(replay.planned - replay.done) / f64::from(replay.rate_per_s);
    let fields = [
        ("replay", replay.id.to_string()),
        ("state", replay.state.clone()),
        ("changed by", safe(&replay.changed_by)),
        ("because", safe(&replay.changed_why)),
        ("error", safe(replay.error.as_deref().unwrap_or("-"))),
        ("planned by", safe(&replay.created_by)),
        ("reason", safe(&replay.reason)),
        ("filter", safe(&replay.filter.to_string())),
        ("plan hash", replay.plan_hash.clone()),
        ("events", format!("{} of {}", replay.done, replay.planned)),
        ("rate", format!("{}/s, {left:.0} s left", replay.rate_per_s)),
        ("under way", replay.in_flight.to_string()),
        ("processed", replay.processed.to_string()),
        ("dead again", replay.dead_again.to_string()),
        ("skipped", replay.skipped.to_string()),
        ("created", time(replay.created_at)),
        ("started", time_or_dash(replay.started_at)),
        ("finished", time_or_dash(replay.finished_at)),
    ];
    let fields = table(
        ["field", "value"],
        fields
            .into_iter()
            .map(|(name, value)| [name.to_owned(), value]),
    );
    let items = details.items.iter().map(|item| {
        [
            item.position.to_string(),
            safe(&item.event_id),
            item.outcome.clone(),
            time_or_dash(item.replayed_at),
            time_or_dash(item.finished_at),
        ]
    });
    let items = table(["", "event", "outcome", "put back", "final"], items);
    format!("{fields}\n{items}")
}

/// Shows the progress until the replay is over or paused. A signal ends the showing, not the replay.
pub async fn follow(client: &Object, id: i64, output: Output) -> Result<(), OpsError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = |signal| {
        let text = format!("replay {id} goes on: `ops replays cancel {id}` ends it");
        OpsError::Interrupted(signal, text)
    };
    tokio::select! {
        ended = watch(client, id, output) => ended,
        _ = interrupt.recv() => Err(told(2)),
        _ = terminate.recv() => Err(told(15)),
    }
}

async fn watch(client: &Object, id: i64, output: Output) -> Result<(), OpsError> {
    let mut replay = get(client, id).await?;
    let bar = progress_bar(&replay, output);
    let lines = bar.is_none() && output != Output::Json;
    loop {
        if let Some(bar) = &bar {
            bar.set_position(u64::try_from(replay.finished_items()).unwrap_or(0));
            bar.set_message(format!("{} dead again", replay.dead_again));
        }
        if lines {
            print_item(&replay)?;
        }
        if replay.state == "paused" || (replay.is_over() && replay.in_flight == 0) {
            break;
        }
        let settles = replay.state == "settling";
        replay = changed(client, &replay).await?;
        if replay.state == "settling" && !settles {
            let left = replay.in_flight;
            note(format_args!(
                "everything was put back; {left} are retried, and another replay may start"
            ));
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if !lines {
        output.print("replay", &replay, summary)?;
    }
    verdict(&replay)
}

/// Waits until a replay is not as it was.
async fn changed(client: &Object, last: &Replay) -> Result<Replay, OpsError> {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = get(client, last.id).await?;
        if now != *last {
            return Ok(now);
        }
    }
}

fn progress_bar(replay: &Replay, output: Output) -> Option<ProgressBar> {
    let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    if !terminal || output == Output::Ndjson {
        return None;
    }
    let style =
        ProgressStyle::with_template("{wide_bar} {pos}/{len} {per_sec} {eta} {msg}").ok()?;
    let planned = u64::try_from(replay.planned).unwrap_or(0);
    Some(ProgressBar::new(planned).with_style(style))
}

fn verdict(replay: &Replay) -> Result<(), OpsError> {
    match replay.state.as_str() {
        "finished" if replay.dead_again == 0 => Ok(()),
        "failed" => Err(OpsError::Unexpected(summary(replay))),
        _ => Err(OpsError::PartlyFailed(summary(replay))),
    }
}
