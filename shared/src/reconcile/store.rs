//! SQL of reconciliations. Every step names the run and needs it to run still.

use std::collections::HashSet;
use std::time::Duration;

use deadpool_postgres::{GenericClient, Object, Transaction};
use jiff::Timestamp;

use super::{GRACE, HORIZON, Tally, Window};
use crate::database::{StoreError, execute, query, query_opt};
use crate::envelope::Envelope;

/// A run that was not heard of for so long is over.
pub const LEASE: Duration = Duration::from_secs(30);
/// Stripe may show events late, so each scheduled window begins before the last one's end.
const OVERLAP: Duration = Duration::from_secs(86_400);
/// A scheduled run that failed is tried again after this time, or earlier where the schedule says so.
const AGAIN_AFTER: Duration = Duration::from_secs(300);

/// An event to be stored.
pub struct NewEvent<'a> {
    /// What was read of it.
    pub envelope: Envelope,
    /// Its exact text.
    pub body: &'a str,
}

/// A run that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Its row's id.
    pub id: i64,
    /// What it looks at.
    pub window: Window,
}

/// A run that is under way.
#[derive(Debug)]
pub struct Running {
    /// Who began it.
    pub started_by: String,
    /// When.
    pub started_at: Timestamp,
}

/// Lets one at a time begin a run, and gives up a run whose process is gone.
async fn enter(tx: &Transaction<'_>) -> Result<(), StoreError> {
    const LOCK: &str =
        "SELECT pg_advisory_xact_lock(hashtextextended('tollgate reconciliation', 0))";
    const GIVE_UP: &str = "
        UPDATE reconciliations SET state = 'failed', error = 'its process ended or was cut off', finished_at = now()
        WHERE state = 'running' AND beat_at < now() - make_interval(secs => $1)";
    query(tx, LOCK, &[]).await?;
    execute(tx, GIVE_UP, &[&LEASE.as_secs_f64()]).await?;
    Ok(())
}

/// Begins a run that looks back for `back`, unless another one is under way.
pub async fn begin(
    tx: &Transaction<'_>,
    started_by: &str,
    back: Duration,
    everything: bool,
) -> Result<Result<Run, Running>, StoreError> {
    const RUNNING: &str =
        "SELECT started_by, started_at FROM reconciliations WHERE state = 'running'";
    const BEGIN: &str = "
        INSERT INTO reconciliations (started_by, scheduled, everything, since)
        VALUES ($1, false, $2, now() - make_interval(secs => $3)) RETURNING id, since, started_at, everything";
    enter(tx).await?;
    if let Some(row) = query_opt(tx, RUNNING, &[]).await? {
        return Ok(Err(Running {
            started_by: row.get(0),
            started_at: row.get(1),
        }));
    }
    let back_s = back.min(HORIZON).as_secs_f64();
    let row = query_opt(tx, BEGIN, &[&started_by, &everything, &back_s]).await?;
    let row = row.ok_or(StoreError::Rejected("a run without a row"))?;
    Ok(Ok(run(&row)))
}

/// Begins a run of the schedule if one is due: from somewhat before the last one that reached its end began, or as far
/// back as Stripe goes.
pub async fn begin_scheduled(
    tx: &Transaction<'_>,
    started_by: &str,
    every: Duration,
) -> Result<Option<Run>, StoreError> {
    const BEGIN: &str = "
        INSERT INTO reconciliations (started_by, scheduled, since)
        SELECT $1, true, greatest(now() - make_interval(secs => $2), (
            SELECT max(started_at) FROM reconciliations WHERE scheduled AND state = 'finished'
        ) - make_interval(secs => $3))
        WHERE NOT EXISTS (SELECT FROM reconciliations WHERE state = 'running')
            AND NOT EXISTS (SELECT FROM reconciliations WHERE scheduled AND started_at > now() - make_interval(secs => $4)
                AND (state = 'finished' OR started_at > now() - make_interval(secs => $5)))
        RETURNING id, since, started_at, everything";
    enter(tx).await?;
    let [horizon, overlap] = [HORIZON, OVERLAP].map(|span| span.as_secs_f64());
    let [every, again] = [every, AGAIN_AFTER].map(|span| span.as_secs_f64());
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&started_by, &horizon, &overlap, &every, &again];
    let row = query_opt(tx, BEGIN, &parameters).await?;
    Ok(row.as_ref().map(run))
}

fn run(row: &tokio_postgres::Row) -> Run {
    Run {
        id: row.get("id"),
        window: Window {
            since: row.get("since"),
            until: row.get::<_, Timestamp>("started_at") - GRACE,
            everything: row.get("everything"),
        },
    }
}

/// Tells that a run is alive; false when it is over.
pub async fn beat(client: &impl GenericClient, run: i64) -> Result<bool, StoreError> {
    const BEAT: &str =
        "UPDATE reconciliations SET beat_at = now() WHERE id = $1 AND state = 'running'";
    Ok(execute(client, BEAT, &[&run]).await? == 1)
}

/// Ends a run, with an error or without; false when it was over already.
pub async fn finish(
    client: &impl GenericClient,
    run: i64,
    error: Option<&str>,
) -> Result<bool, StoreError> {
    const FINISH: &str = "
        UPDATE reconciliations SET state = CASE WHEN $2::text IS NULL THEN 'finished' ELSE 'failed' END,
            error = $2, finished_at = now()
        WHERE id = $1 AND state = 'running'";
    Ok(execute(client, FINISH, &[&run, &error]).await? == 1)
}

/// Stores what is new of a page, and counts the page, in one transaction. Returns the ids of what was new. Fails when the
/// run is over. Events must be sorted by id, each once.
pub async fn import(
    client: &mut Object,
    run: i64,
    events: &[NewEvent<'_>],
    seen: &Tally,
) -> Result<HashSet<String>, StoreError> {
    const COUNT: &str = "
        UPDATE reconciliations SET beat_at = now(), pages = pages + $2, listed = listed + $3, unreadable = unreadable + $4,
            imported = imported + $5, known = known + $3 - $4 - $5
        WHERE id = $1 AND state = 'running'";
    let tx = client.transaction().await?;
    let new = insert(&tx, run, events).await?;
    let imported = i32::try_from(new.len()).unwrap_or(i32::MAX);
    let Tally {
        pages,
        listed,
        unreadable,
        ..
    } = seen;
    if execute(&tx, COUNT, &[&run, pages, listed, unreadable, &imported]).await? != 1 {
        return Err(StoreError::Rejected("the run is over"));
    }
    tx.commit().await?;
    Ok(new)
}

async fn insert(
    tx: &Transaction<'_>,
    run: i64,
    events: &[NewEvent<'_>],
) -> Result<HashSet<String>, StoreError> {
    const IMPORT: &str = "SELECT reconcile_import($1, $2, $3, $4, $5, $6, $7, $8)";
    let column = |read: fn(&Envelope) -> Option<&str>| -> Vec<Option<&str>> {
        events.iter().map(|event| read(&event.envelope)).collect()
    };
    let livemodes: Vec<_> = events.iter().map(|event| event.envelope.livemode).collect();
    let created: Vec<_> = events
        .iter()
        .map(|event| event.envelope.created_at)
        .collect();
    let bodies: Vec<_> = events.iter().map(|event| event.body.as_bytes()).collect();
    let rows = query(
        tx,
        IMPORT,
        &[
            &run,
            &column(|envelope| Some(&envelope.id)),
            &column(|envelope| Some(&envelope.event_type)),
            &livemodes,
            &column(|envelope| envelope.api_version.as_deref()),
            &column(|envelope| envelope.account.as_deref()),
            &created,
            &bodies,
        ],
    )
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The ids of those events that are not stored.
pub async fn unknown(
    client: &Object,
    events: &[NewEvent<'_>],
) -> Result<HashSet<String>, StoreError> {
    const UNKNOWN: &str = "
        SELECT given.id FROM unnest($1::text[]) AS given (id)
        WHERE NOT EXISTS (SELECT FROM webhook_events WHERE webhook_events.id = given.id)";
    let ids: Vec<&str> = events
        .iter()
        .map(|event| event.envelope.id.as_str())
        .collect();
    let rows = query(client, UNKNOWN, &[&ids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
