//! `ops dead-letters replay`: shows the plan, puts one event back at once, or makes a replay of many for the workers.

use deadpool_postgres::Object;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::IsolationLevel;
use tokio_postgres::error::SqlState;

use super::dead_letters::{Report, Selection, none_open};
use super::filter_args::FilterArgs;
use super::replays::{follow, summary};
use super::{Accountable, actor, confirm};
use crate::discard::check_cap;
use crate::filter::Filter;
use crate::output::{Output, note, safe, table};
use crate::store::replays::{self, BUDGET_PER_EVENT, NewReplay, Plan, Replay, Share};
use crate::store::{audit, dead_letters};
use crate::{Database, OpsError};
use shared::database::StoreError;

/// Events a second unless said otherwise.
const USUAL_RATE: i32 = 20;
/// Characters of the reason that a replay of many takes, as the table has it too.
const REASON_LENGTH: std::ops::RangeInclusive<usize> = 8..=1_000;

/// Which dead letters to replay, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Dead letters' ids, or their events'. A single one is put back at once
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every unresolved dead letter that has an event
    #[arg(long)]
    all: bool,
    /// Only show the plan: how many, of what, and the hash of the set
    #[arg(long)]
    dry_run: bool,
    /// Only if the set still has this hash, which --dry-run showed
    #[arg(long)]
    plan_hash: Option<String>,
    /// Events a second
    #[arg(long, default_value_t = USUAL_RATE, value_parser = clap::value_parser!(i32).range(1..=500))]
    rate: i32,
    /// Do not ask, although it may be many
    #[arg(long)]
    yes: bool,
    /// Refuse if they are more than that
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    max: Option<i64>,
    /// Do it although they are more than 10,000, and take events that were replayed five times already
    #[arg(long)]
    force: bool,
    /// Show the progress until it is over: a bar on a terminal, else lines of JSON
    #[arg(long)]
    follow: bool,
    /// Why, for the audit log
    #[arg(long, required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Who, for the audit log; else the variable OPS_ACTOR says it, or the login name
    #[arg(long, default_value_t = actor())]
    actor: String,
}

/// Runs the command.
pub async fn run(database: &Database, args: Args, output: Output) -> Result<(), OpsError> {
    let selection = Selection::new(args.ids, args.filter, args.all)?;
    let accountable = Accountable {
        reason: args.reason.unwrap_or_default(),
        actor: args.actor,
    };
    if !args.dry_run {
        accountable.check()?;
    }
    let mut client = database.connect().await?;
    if args.dry_run {
        let plan = replays::plan(&client, &selection.filter, args.force).await?;
        check_hash(&plan, args.plan_hash.as_deref())?;
        return output.print("plan", &plan, |plan| plan_text(plan, args.rate));
    }
    if selection.named == Some(1) && args.plan_hash.is_none() && !args.follow {
        return put_back_one(
            &mut client,
            &selection.filter,
            args.force,
            &accountable,
            output,
        )
        .await;
    }
    let new = NewReplay {
        filter: &selection.filter,
        created_by: &accountable.actor,
        reason: &accountable.reason,
        rate_per_s: args.rate,
        force: args.force,
    };
    let mut consent = Consent {
        given: args.yes || selection.named.is_some(),
        plan_hash: args.plan_hash,
        max: args.max,
    };
    if !consent.given && confirm::can_ask() {
        consent.ask(&client, &new).await?;
    }
    let started = start(&mut client, &new, &consent).await?;
    let left_out = warn_of_left_out(&started, selection.named.is_some());
    match started.replay {
        None if selection.named.is_some() => return Err(none_open()),
        Some(replay) if args.follow => {
            note(summary(&replay));
            follow(&client, replay.id, output).await?;
        }
        replay => output.print("replay", &replay, |replay| match replay {
            Some(replay) => summary(replay),
            None => "nothing to replay".to_owned(),
        })?,
    }
    match left_out {
        0 => Ok(()),
        left_out => Err(OpsError::PartlyFailed(format!(
            "{left_out} of those named are not replayed"
        ))),
    }
}

/// What was agreed to.
pub struct Consent {
    /// Whether a number of events was agreed to that is not known beforehand.
    pub given: bool,
    /// The set that was agreed to.
    pub plan_hash: Option<String>,
    /// The most events that were agreed to.
    pub max: Option<i64>,
}

impl Consent {
    /// Shows the plan and asks whether it is the one that is meant.
    async fn ask(&mut self, client: &Object, new: &NewReplay<'_>) -> Result<(), OpsError> {
        let plan = replays::plan(client, new.filter, new.force).await?;
        check_hash(&plan, self.plan_hash.as_deref())?;
        note(plan_text(&plan, new.rate_per_s));
        check_cap(plan.count, self.max, new.force)?;
        if plan.count > 0 {
            confirm::ask(plan.count, "replayed")?;
        }
        self.given = true;
        self.plan_hash = Some(plan.plan_hash);
        Ok(())
    }
}

/// A plan, and the replay that was made of it unless it was empty.
#[derive(Debug, Serialize)]
pub struct Started {
    /// What was planned.
    pub plan: Plan,
    /// Ids of the filter that are no unresolved dead letter's.
    pub unmatched: i64,
    /// The job.
    pub replay: Option<Replay>,
}

/// Plans again, checks what was agreed to, and makes the replay: all in one snapshot.
pub async fn start(
    client: &mut Object,
    new: &NewReplay<'_>,
    consent: &Consent,
) -> Result<Started, OpsError> {
    let tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .await?;
    let plan = replays::plan(&tx, new.filter, new.force).await?;
    if !consent.given {
        let count = plan.count;
        let text = format!("{count} events would be replayed: say --yes, or look with --dry-run");
        return Err(OpsError::Refused(text));
    }
    check_hash(&plan, consent.plan_hash.as_deref())?;
    if plan.count == 0 && plan.exhausted > 0 {
        return Err(exhausted(plan.exhausted));
    }
    let unmatched = dead_letters::count_unmatched(&tx, &new.filter.ids).await?;
    if plan.count == 0 {
        return Ok(Started {
            plan,
            unmatched,
            replay: None,
        });
    }
    check_cap(plan.count, consent.max, new.force)?;
    if !REASON_LENGTH.contains(&new.reason.trim().chars().count()) {
        let (least, most) = REASON_LENGTH.into_inner();
        let text = format!("a reason for many takes {least} to {most} characters");
        return Err(OpsError::Usage(text));
    }
    if let Some(active) = replays::find_active(&tx).await? {
        return Err(another_active(Some(active.id)));
    }
    let id = match replays::create(&tx, new, &plan).await {
        Err(StoreError::Query(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            return Err(another_active(None));
        }
        created => created?,
    };
    if new.force {
        let details = json!({ "replay": id, "planned": plan.count });
        audit::note(&tx, new.created_by, "replay.forced", new.reason, &details).await?;
    }
    let replay = replays::find(&tx, id).await?;
    tx.commit().await?;
    Ok(Started {
        plan,
        unmatched,
        replay,
    })
}

fn check_hash(plan: &Plan, agreed: Option<&str>) -> Result<(), OpsError> {
    match agreed {
        Some(hash) if hash != plan.plan_hash => Err(OpsError::Conflict(format!(
            "the set changed: it is {} events with hash {} now",
            plan.count, plan.plan_hash
        ))),
        _ => Ok(()),
    }
}

fn exhausted(count: i64) -> OpsError {
    OpsError::Refused(format!(
        "{count} were replayed {BUDGET_PER_EVENT} times already: say --force"
    ))
}

fn another_active(id: Option<i64>) -> OpsError {
    let name = id.map_or("another replay".to_owned(), |id| format!("replay {id}"));
    OpsError::Conflict(format!(
        "{name} is active: wait for it, or cancel it (ops replays list)"
    ))
}

/// Says what is left out, and gives how many of those that were named are.
fn warn_of_left_out(started: &Started, named: bool) -> i64 {
    let Started {
        plan, unmatched, ..
    } = started;
    if plan.exhausted > 0 {
        note(format_args!(
            "{} were replayed {BUDGET_PER_EVENT} times already and are left out: --force takes them",
            plan.exhausted
        ));
    }
    if plan.without_event > 0 {
        note(format_args!(
            "{} dead letters have no event and are left out",
            plan.without_event
        ));
    }
    if !named {
        return 0;
    }
    if *unmatched > 0 && plan.count > 0 {
        note(format_args!(
            "{unmatched} of those named are no unresolved dead letter"
        ));
    }
    unmatched + plan.exhausted + plan.without_event
}

/// One event, at once and audited in the same transaction.
async fn put_back_one(
    client: &mut Object,
    filter: &Filter,
    force: bool,
    accountable: &Accountable,
    output: Output,
) -> Result<(), OpsError> {
    let tx = client.transaction().await?;
    let matched = dead_letters::count(&tx, filter).await?;
    if matched == 0 {
        return Err(none_open());
    }
    check_budget(&tx, filter, force).await?;
    let ids = dead_letters::replay(&tx, filter, matched).await?;
    if ids.is_empty() {
        let text = "it could not be replayed: busy, or without an event";
        return Err(OpsError::PartlyFailed(text.to_owned()));
    }
    let details = json!({
        "filter": filter, "matched": matched, "done": ids.len(), "ids": ids, "force": force
    });
    let Accountable { actor, reason } = accountable;
    audit::note(&tx, actor, "dead_letters.replay", reason, &details).await?;
    tx.commit().await?;
    let report = Report {
        dry_run: false,
        matched,
        done: ids.len(),
        ids,
    };
    output.print("replayed", &report, |report| {
        format!("{} will be attempted again now", report.ids.join(", "))
    })
}

/// Refuses what was replayed too often, unless forced.
pub async fn check_budget(
    client: &impl deadpool_postgres::GenericClient,
    filter: &Filter,
    force: bool,
) -> Result<(), OpsError> {
    match dead_letters::count_exhausted(client, filter, BUDGET_PER_EVENT).await? {
        count if count > 0 && !force => Err(exhausted(count)),
        _ => Ok(()),
    }
}

fn plan_text(plan: &Plan, rate: i32) -> String {
    let seconds = plan.count as f64 / f64::from(rate);
    let head = format!(
        "{} events would be replayed, in {seconds:.0} s at {rate}/s; plan hash {}\n{} processed meanwhile, {} replayed \
         too often, {} without an event\n",
        plan.count, plan.plan_hash, plan.already_processed, plan.exhausted, plan.without_event
    );
    let shares = [
        ("type", &plan.by_type),
        ("died", &plan.by_age),
        ("group", &plan.by_fingerprint),
    ];
    let rows = shares
        .iter()
        .flat_map(|(by, shares)| shares.iter().map(move |share| share_row(by, share)));
    if plan.count == 0 {
        return head;
    }
    head + &table(["by", "", "events"], rows)
}

fn share_row(by: &str, share: &Share) -> [String; 3] {
    let name = match &share.reason {
        Some(reason) => format!("{} ({reason})", share.name),
        None => share.name.clone(),
    };
    [by.to_owned(), safe(&name), share.count.to_string()]
}
