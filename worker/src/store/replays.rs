//! Replays, as the workers run them. Each function works within the transaction that holds the replay's row.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use shared::database::{StoreError, execute, query, query_opt};
use shared::replay::store::put_back;
use tokio_postgres::Row;

/// A replay under this transaction's lock.
#[derive(Debug, Clone)]
pub struct LockedReplay {
    /// Its id.
    pub id: i64,
    /// Where it stands.
    pub state: String,
    /// How many events were planned.
    pub planned: i32,
    /// Events a second.
    pub rate_per_s: i32,
    /// Up to which item they were put back or skipped.
    pub cursor: i32,
    /// How many were put back and have no outcome yet.
    pub in_flight: i32,
    /// Until when the rate is used up.
    pub paced_at: Option<Timestamp>,
    /// What is put back from then on decides whether it pauses by itself.
    pub watched_from: Option<Timestamp>,
    /// The database's clock.
    pub now: Timestamp,
}

/// What the last attempted events of a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// How many were looked at.
    pub attempted: i64,
    /// How many of them died again.
    pub dead_again: i64,
    /// How many of them failed, and are retried.
    pub retried: i64,
}

/// What a batch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Put back to work.
    pub put_back: i32,
    /// Not dead any more.
    pub skipped: i32,
}

/// Replays that have something to do, oldest first.
pub async fn open(client: &impl GenericClient) -> Result<Vec<i64>, StoreError> {
    const OPEN: &str = "SELECT id FROM replays WHERE state IN ('planned', 'running', 'settling') OR in_flight > 0 ORDER BY id";
    Ok(query(client, OPEN, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// Locks a replay until the transaction ends. None while another worker has it, or when it has nothing to do any more.
pub async fn lock(tx: &Transaction<'_>, id: i64) -> Result<Option<LockedReplay>, StoreError> {
    const LOCK: &str = "
        SELECT id, state, planned_count, rate_per_s, cursor, in_flight, paced_at, watched_from, clock_timestamp() AS now
        FROM replays WHERE id = $1 AND (state IN ('planned', 'running', 'settling') OR in_flight > 0) FOR UPDATE SKIP LOCKED";
    let locked = |row: Row| LockedReplay {
        id: row.get("id"),
        state: row.get("state"),
        planned: row.get("planned_count"),
        rate_per_s: row.get("rate_per_s"),
        cursor: row.get("cursor"),
        in_flight: row.get("in_flight"),
        paced_at: row.get("paced_at"),
        watched_from: row.get("watched_from"),
        now: row.get("now"),
    };
    Ok(query_opt(tx, LOCK, &[&id]).await?.map(locked))
}

/// Begins a planned replay.
pub async fn begin(tx: &Transaction<'_>, id: i64, worker: &str) -> Result<(), StoreError> {
    const BEGIN: &str = "
        UPDATE replays SET state = 'running', started_at = now(), paced_at = now(), watched_from = now(),
            changed_by = $2, changed_why = reason, changed_at = now()
        WHERE id = $1 AND state = 'planned'";
    execute(tx, BEGIN, &[&id, &worker]).await?;
    Ok(())
}

/// Notes the outcome of every event that became final since. Returns how many did.
pub async fn settle(tx: &Transaction<'_>, id: i64) -> Result<i32, StoreError> {
    const SETTLE: &str = "
        WITH settled AS (
            UPDATE replay_items item
            SET outcome = CASE WHEN event.state IN ('processed', 'ignored') THEN 'processed' ELSE 'dead_again' END,
                finished_at = event.finished_at
            FROM webhook_events event
            WHERE item.replay_id = $1 AND item.outcome = 'replayed' AND event.id = item.event_id
                AND event.finished_at IS NOT NULL
            RETURNING outcome
        ), counted AS (
            SELECT count(*)::integer AS finished, count(*) FILTER (WHERE outcome = 'dead_again')::integer AS dead_again
            FROM settled
        )
        UPDATE replays SET in_flight = in_flight - counted.finished, dead_again = replays.dead_again + counted.dead_again,
            processed = processed + counted.finished - counted.dead_again
        FROM counted WHERE id = $1 AND counted.finished > 0
        RETURNING counted.finished";
    let row = query_opt(tx, SETTLE, &[&id]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// What the last events came to that were put back after `from` and were attempted at least once, noted or not. Of those
/// put back last at most a thousand are looked at.
pub async fn recent(
    tx: &Transaction<'_>,
    replay: &LockedReplay,
    most: i64,
) -> Result<Recent, StoreError> {
    const RECENT: &str = "
        SELECT count(*) AS attempted, count(*) FILTER (WHERE fate IN ('dead', 'dead_again')) AS dead_again,
            count(*) FILTER (WHERE fate = 'retrying') AS retried
        FROM (
            SELECT CASE outcome WHEN 'replayed' THEN event.state ELSE outcome END AS fate
            FROM replay_items item LEFT JOIN webhook_events event ON event.id = item.event_id
            WHERE replay_id = $1 AND position <= $2 AND position > $2 - 1000 AND replayed_at >= coalesce($3, replayed_at)
                AND (outcome IN ('processed', 'dead_again') OR (outcome = 'replayed' AND event.state <> 'received'))
            ORDER BY position DESC LIMIT $4
        ) AS last";
    let LockedReplay {
        id,
        cursor,
        watched_from,
        ..
    } = replay;
    let row = query_opt(tx, RECENT, &[id, cursor, watched_from, &most])
        .await?
        .ok_or(StoreError::Rejected("a count without a row"))?;
    Ok(Recent {
        attempted: row.get("attempted"),
        dead_again: row.get("dead_again"),
        retried: row.get("retried"),
    })
}

/// How many of a replay's events wait for their first attempt. Of those put back last at most a thousand are looked at:
/// what waits for longer has lost its message, and is the rescue's.
pub async fn waiting(tx: &Transaction<'_>, replay: &LockedReplay) -> Result<i64, StoreError> {
    const WAITING: &str = "
        SELECT count(*) FROM replay_items item JOIN webhook_events event ON event.id = item.event_id
        WHERE item.replay_id = $1 AND item.position <= $2 AND item.position > $2 - 1000 AND item.outcome = 'replayed'
            AND event.state = 'received'";
    let row = query_opt(tx, WAITING, &[&replay.id, &replay.cursor]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Whether new events wait for longer than they should. One that waits for very long has lost its message and is the
/// rescue's; ten of them are a backlog.
pub async fn live_traffic_waits(tx: &Transaction<'_>) -> Result<bool, StoreError> {
    const WAITS: &str = "
        SELECT EXISTS (
            SELECT FROM webhook_events WHERE state = 'received' AND budget_from = 0
                AND rescue_from BETWEEN now() - interval '10 seconds' AND now() - interval '100 milliseconds'
        ) OR 10 = (
            SELECT count(*) FROM (
                SELECT FROM webhook_events
                WHERE state = 'received' AND budget_from = 0 AND rescue_from < now() - interval '10 seconds' LIMIT 10
            ) AS late
        )";
    let row = query_opt(tx, WAITS, &[]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Puts the next events back to work; those that are not dead any more are skipped.
pub async fn put_back_next(
    tx: &Transaction<'_>,
    replay: &LockedReplay,
    most: i32,
    paced_at: Timestamp,
) -> Result<Moved, StoreError> {
    const NEXT: &str = "
        SELECT dead_letter_id FROM replay_items WHERE replay_id = $1 AND position > $2 AND position <= $2 + $3";
    const MARK: &str = "
        UPDATE replay_items
        SET outcome = CASE WHEN event_id = ANY($4) THEN 'replayed' ELSE 'skipped' END,
            replayed_at = CASE WHEN event_id = ANY($4) THEN now() END,
            finished_at = CASE WHEN event_id = ANY($4) THEN NULL ELSE now() END
        WHERE replay_id = $1 AND position > $2 AND position <= $2 + $3 AND outcome = 'waiting'";
    const ADVANCE: &str = "
        UPDATE replays SET cursor = cursor + $3 + $4, in_flight = in_flight + $3, skipped = skipped + $4, paced_at = $5
        WHERE id = $1 AND cursor = $2 AND state = 'running'";
    let LockedReplay { id, cursor, .. } = replay;
    let letters: Vec<i64> = query(tx, NEXT, &[id, cursor, &most])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let events = put_back(tx, &letters).await?;
    let marked = execute(tx, MARK, &[id, cursor, &most, &events]).await?;
    let put_back = i32::try_from(events.len()).unwrap_or(i32::MAX);
    let skipped = i32::try_from(marked).unwrap_or(i32::MAX) - put_back;
    let advanced = execute(tx, ADVANCE, &[id, cursor, &put_back, &skipped, &paced_at]).await?;
    if advanced == 1 {
        Ok(Moved { put_back, skipped })
    } else {
        Err(StoreError::Rejected("the replay is not where it was"))
    }
}

/// Pauses a replay that does more harm than good.
pub async fn pause(
    tx: &Transaction<'_>,
    id: i64,
    worker: &str,
    why: &str,
) -> Result<(), StoreError> {
    const PAUSE: &str = "
        UPDATE replays SET state = 'paused', error = $3, changed_by = $2, changed_why = $3, changed_at = now()
        WHERE id = $1 AND state = 'running'";
    execute(tx, PAUSE, &[&id, &worker, &why]).await?;
    Ok(())
}

/// Finishes a replay whose events all have an outcome. False when some have none yet.
pub async fn finish(tx: &Transaction<'_>, id: i64, worker: &str) -> Result<bool, StoreError> {
    const FINISH: &str = "
        UPDATE replays SET state = 'finished', finished_at = now(), changed_by = $2,
            changed_why = 'every event has an outcome', changed_at = now()
        WHERE id = $1 AND state IN ('running', 'settling') AND cursor = planned_count AND in_flight = 0";
    Ok(execute(tx, FINISH, &[&id, &worker]).await? == 1)
}

/// Makes room for the next replay, once everything was put back: some events are retried, which may take hours.
pub async fn let_settle(tx: &Transaction<'_>, id: i64, worker: &str) -> Result<(), StoreError> {
    const LET_SETTLE: &str = "
        UPDATE replays SET state = 'settling', changed_by = $2, changed_why = 'every event was put back', changed_at = now()
        WHERE id = $1 AND state = 'running' AND cursor = planned_count";
    execute(tx, LET_SETTLE, &[&id, &worker]).await?;
    Ok(())
}

/// Gives a replay up that the database refuses to run.
pub async fn fail(
    client: &impl GenericClient,
    id: i64,
    worker: &str,
    error: &str,
) -> Result<(), StoreError> {
    const FAIL: &str = "
        UPDATE replays SET state = 'failed', error = $3, finished_at = now(), changed_by = $2, changed_why = $3,
            changed_at = now()
        WHERE id = $1 AND state IN ('planned', 'running', 'paused', 'settling')";
    execute(client, FAIL, &[&id, &worker, &error]).await?;
    Ok(())
}
