//! `ops reconcile`: what Stripe's list of events holds and was never seen here is imported.

use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;
use shared::database::StoreError;
use shared::reconcile::{
    DEFAULT_RATE_PER_S, GRACE, HORIZON, ReconcileError, Reconciler, Run, Tally, Window, store,
};
use shared::settings::{Check, boolean, duration};
use shared::stripe::{ApiError, KeyError, StripeApi, StripeArgs};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Accountable;
use crate::output::{Output, note, safe, table, time};
use crate::store::audit;
use crate::{Database, OpsError};

/// What `ops reconcile` takes.
#[derive(clap::Args)]
pub struct Args {
    /// How far back to look, 30d at the most: Stripe lists no older events
    #[arg(long, default_value = "30d", value_parser = look_back)]
    since: Duration,
    /// Only count what would be imported
    #[arg(long)]
    dry_run: bool,
    /// Also look at events that Stripe counts as delivered, as after a database was restored from a backup
    #[arg(long)]
    all: bool,
    /// Events imported in a second, at the most
    #[arg(long, default_value_t = DEFAULT_RATE_PER_S, value_parser = clap::value_parser!(u32).range(1..=500))]
    rate: u32,
    #[command(flatten)]
    stripe: StripeArgs,
    /// Mode that this installation serves: a key of the other one is refused
    #[arg(long, env = "STRIPE_LIVEMODE", default_value = "false")]
    livemode: String,
    /// Why, for the audit log
    #[arg(long, default_value = "import what Stripe could not deliver")]
    reason: String,
    /// Who, for the audit log; else the variable OPS_ACTOR says it, or the login name
    #[arg(long, default_value_t = super::actor())]
    actor: String,
}

fn look_back(raw: &str) -> Result<Duration, String> {
    let back = duration(raw)?;
    if back > HORIZON {
        return Err("Stripe lists the events of the last 30 days only".to_owned());
    }
    Ok(back)
}

#[derive(Serialize)]
struct Report {
    /// None of a dry run.
    id: Option<i64>,
    dry_run: bool,
    since: Timestamp,
    #[serde(flatten)]
    tally: Tally,
}

/// Imports, or counts, and reports.
pub async fn run(database: &Database, args: &Args, output: Output) -> Result<(), OpsError> {
    let (livemode, api) = settings(args)?;
    // Says why where this user is refused.
    drop(database.connect().await?);
    // One connection imports, the other one tells that the run is alive.
    let reconciler = Reconciler {
        pool: database.pool(2)?,
        api,
        livemode,
        rate_per_s: args.rate,
    };
    let report = if args.dry_run {
        count(&reconciler, args).await?
    } else {
        import(&reconciler, args).await?
    };
    output.print("reconciliation", &report, text)?;
    match report.tally.unreadable {
        0 => Ok(()),
        unreadable => Err(OpsError::PartlyFailed(format!(
            "{unreadable} events have no id and type: they were left out"
        ))),
    }
}

fn settings(args: &Args) -> Result<(bool, StripeApi), OpsError> {
    let mut check = Check::default();
    let livemode = check.value("STRIPE_LIVEMODE", &args.livemode, boolean);
    let stripe = args.stripe.parse(&mut check);
    let (livemode, stripe) = check
        .finish(livemode.zip(stripe))
        .map_err(|problems| OpsError::Usage(problems.texts().join("; ")))?;
    let stripe = stripe.ok_or_else(|| {
        OpsError::Usage("neither STRIPE_SECRET_KEY nor STRIPE_SECRET_KEY_FILE is set".to_owned())
    })?;
    let api = stripe.api(livemode).map_err(|problem| {
        let text = format!("{} {problem}", stripe.key_name());
        match problem {
            KeyError::WrongMode { .. } => OpsError::Refused(text),
            _ => OpsError::Usage(text),
        }
    })?;
    Ok((livemode, api))
}

async fn count(reconciler: &Reconciler, args: &Args) -> Result<Report, OpsError> {
    let back = SignedDuration::try_from(args.since).unwrap_or(SignedDuration::MAX);
    let now = Timestamp::now();
    let since = now - back;
    let window = Window {
        since,
        until: now - GRACE,
        everything: args.all,
    };
    Ok(Report {
        id: None,
        dry_run: true,
        since,
        tally: reconciler.count(window).await?,
    })
}

async fn import(reconciler: &Reconciler, args: &Args) -> Result<Report, OpsError> {
    let run = begin(&reconciler.pool, args).await?;
    note(format_args!(
        "reconciliation {} looks at events since {}",
        run.id,
        time(run.window.since)
    ));
    let shutdown = CancellationToken::new();
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let walked = reconciler.run(run, &shutdown);
    tokio::pin!(walked);
    let tally = tokio::select! {
        tally = &mut walked => tally?,
        signal = either(&mut interrupt, &mut terminate) => {
            // The run notes that it was interrupted.
            shutdown.cancel();
            let _ = walked.await;
            let text = format!("reconciliation {} was interrupted: what it imported stays", run.id);
            return Err(OpsError::Interrupted(signal, text));
        }
    };
    Ok(Report {
        id: Some(run.id),
        dry_run: false,
        since: run.window.since,
        tally,
    })
}

/// The number of the first signal.
async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> u8 {
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    }
}

/// Begins a run, with its audit entry.
async fn begin(pool: &Pool, args: &Args) -> Result<Run, OpsError> {
    let accountable = Accountable {
        reason: args.reason.clone(),
        actor: args.actor.clone(),
    };
    accountable.check()?;
    let mut client = pool.get().await.map_err(StoreError::from)?;
    let tx = client.transaction().await?;
    let begun = store::begin(&tx, &args.actor, args.since, args.all).await?;
    let run = begun.map_err(|running| {
        let (who, since) = (running.started_by, time(running.started_at));
        OpsError::Conflict(format!("a reconciliation of {who} runs since {since}"))
    })?;
    let details = json!({ "reconciliation": run.id, "since": run.window.since, "all": args.all });
    audit::note(&tx, &args.actor, "reconcile", &args.reason, &details).await?;
    tx.commit().await?;
    Ok(run)
}

fn text(report: &Report) -> String {
    let Tally {
        listed,
        known,
        imported,
        ..
    } = report.tally;
    let verb = if report.dry_run { "would be" } else { "were" };
    let summary = format!(
        "{listed} events since {}: {known} were known, {imported} {verb} imported",
        time(report.since)
    );
    if imported == 0 {
        return summary;
    }
    let types = report.tally.types.iter();
    let types = types.map(|(name, count)| [safe(name), count.to_string()]);
    format!("{summary}\n{}", table(["type", "imported"], types))
}

impl From<ReconcileError> for OpsError {
    fn from(error: ReconcileError) -> Self {
        let text = error.to_string();
        match error {
            ReconcileError::Store(error) => error.into(),
            ReconcileError::Api(ApiError::Key { .. }) => Self::NotPermitted(text),
            ReconcileError::Api(ApiError::Refused { .. }) | ReconcileError::NoPlace => {
                Self::Unexpected(text)
            }
            ReconcileError::Api(_) => Self::Unavailable(text),
            ReconcileError::WrongMode { .. } | ReconcileError::TooMany(_) => Self::Refused(text),
            ReconcileError::Lost => Self::Conflict(text),
            ReconcileError::Interrupted => Self::Interrupted(2, text),
        }
    }
}
