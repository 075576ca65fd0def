//! Events and their attempts. Every update names the state and the attempt that it expects.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use shared::database::{StoreError, execute, query_opt};
use tokio_postgres::Row;

use crate::event::Event;
use crate::fingerprint::VERSION;

/// An event under this transaction's lock.
pub struct LockedEvent {
    /// What the handler sees.
    pub event: Event,
    /// Its mode, where it says so.
    pub livemode: Option<bool>,
    /// Whether an attempt is due: it is not final, and does not wait for a later time.
    pub due: bool,
    /// Attempts so far.
    pub attempts: i32,
    /// Attempts before the last replay.
    pub budget_from: i32,
    /// When its first webhook came.
    pub received_at: Timestamp,
    /// The database's clock.
    pub now: Timestamp,
}

impl LockedEvent {
    /// The number of the attempt to come, since the last replay.
    pub fn next_in_budget(&self) -> u32 {
        u32::try_from(self.attempts - self.budget_from + 1).unwrap_or(1)
    }
}

/// One run of a handler, as it is recorded.
pub struct Attempt<'a> {
    /// The event's id.
    pub event_id: &'a str,
    /// Attempts before this one: another number in the table means that someone else was faster.
    pub attempts_before: i32,
    /// When it began, by the database's clock.
    pub started_at: Timestamp,
    /// Which worker ran it.
    pub worker: &'a str,
    /// The trace it belongs to.
    pub trace_id: &'a str,
    /// The ids that the event's object bears; none from the second attempt on, when they are known.
    pub objects: &'a [String],
}

/// A failure, as it is recorded.
pub struct Error<'a> {
    /// `transient` or `permanent`.
    pub outcome: &'static str,
    /// A fixed word.
    pub kind: &'a str,
    /// For people.
    pub message: &'a str,
}

/// What is noted of an event that died.
pub struct Death {
    /// The group of its failure.
    pub fingerprint: String,
    /// Whether people are told of it by itself.
    pub about_money: bool,
}

/// What became of the wish to lock an event.
pub enum Lock {
    /// It is this transaction's.
    Taken(LockedEvent),
    /// Another worker has it.
    Busy,
    /// There is no such event.
    Unknown,
}

/// Locks an event until the transaction ends, and reads it. It may be read as it was just before another worker gave its
/// lock back: whoever records an attempt names the number that it expects, which tells.
///
/// An advisory lock, not the row's: a handler may take its time, and meanwhile the gateway must be able to count a
/// duplicate on the row without waiting.
pub async fn lock(tx: &Transaction<'_>, event_id: &str) -> Result<Lock, StoreError> {
    const LOCK: &str = "
        SELECT event.type, event.livemode, event.account, event.attempts, event.budget_from, event.received_at,
            coalesce(event.created_at, event.received_at) AS created_at, clock_timestamp() AS now,
            event.state IN ('received', 'retrying') AND coalesce(event.due_at <= clock_timestamp(), true) AS due,
            payload.body, pg_try_advisory_xact_lock(hashtextextended(event.id, 0)) AS locked
        FROM webhook_events event LEFT JOIN event_payloads payload ON payload.event_id = event.id
        WHERE event.id = $1";
    Ok(match query_opt(tx, LOCK, &[&event_id]).await? {
        Some(row) if row.get("locked") => Lock::Taken(locked_event(event_id, &row)),
        Some(_) => Lock::Busy,
        None => Lock::Unknown,
    })
}

fn locked_event(event_id: &str, row: &Row) -> LockedEvent {
    LockedEvent {
        event: Event {
            id: event_id.to_owned(),
            event_type: row.get("type"),
            account: row.get("account"),
            created_at: row.get("created_at"),
            body: row.get::<_, Option<Vec<u8>>>("body").unwrap_or_default(),
        },
        livemode: row.get("livemode"),
        due: row.get("due"),
        attempts: row.get("attempts"),
        budget_from: row.get("budget_from"),
        received_at: row.get("received_at"),
        now: row.get("now"),
    }
}

/// Makes an event final. `note` says why it was ignored. False when another worker was faster: then nothing of this
/// transaction may be kept.
pub async fn finish(
    client: &impl GenericClient,
    attempt: &Attempt<'_>,
    state: &str,
    note: Option<&str>,
) -> Result<bool, StoreError> {
    const FINISH: &str = "
        WITH event AS (
            UPDATE webhook_events
            SET state = $3, attempts = attempts + 1, due_at = NULL, last_error = NULL, finished_at = clock_timestamp()
            WHERE id = $1 AND attempts = $2 AND state IN ('received', 'retrying')
            RETURNING id, attempts
        ), object AS (
            INSERT INTO event_objects (event_id, object_id) SELECT id, unnest($8::text[]) FROM event
            ON CONFLICT DO NOTHING
        )
        INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, worker, trace_id)
        SELECT id, attempts, $4, $3, $5, $6, $7 FROM event";
    let Attempt {
        event_id,
        attempts_before,
        started_at,
        worker,
        trace_id,
        objects,
    } = attempt;
    let rows = execute(
        client,
        FINISH,
        &[
            event_id,
            attempts_before,
            &state,
            started_at,
            &note,
            worker,
            trace_id,
            objects,
        ],
    )
    .await?;
    Ok(rows == 1)
}

/// Records a failed attempt and plans the next one, whose message is an outbox row that becomes available then.
pub async fn retry_later(
    client: &impl GenericClient,
    attempt: &Attempt<'_>,
    error: &Error<'_>,
    after: Duration,
    traceparent: &str,
) -> Result<bool, StoreError> {
    const RETRY: &str = "
        WITH event AS (
            UPDATE webhook_events
            SET state = 'retrying', attempts = attempts + 1, last_error = $6, rescues = 0,
                due_at = clock_timestamp() + make_interval(secs => $9),
                rescue_from = clock_timestamp() + make_interval(secs => $9)
            WHERE id = $1 AND attempts = $2 AND state IN ('received', 'retrying')
            RETURNING id, attempts, due_at
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, error, worker, trace_id)
            SELECT id, attempts, $3, $4, $5, $6, $7, $8 FROM event
        ), object AS (
            INSERT INTO event_objects (event_id, object_id) SELECT id, unnest($11::text[]) FROM event
            ON CONFLICT DO NOTHING
        )
        INSERT INTO outbox (event_id, available_at, traceparent) SELECT id, due_at, $10 FROM event";
    let Attempt {
        event_id,
        attempts_before,
        started_at,
        worker,
        trace_id,
        objects,
    } = attempt;
    let Error {
        outcome,
        kind,
        message,
    } = error;
    let after = after.as_secs_f64();
    let rows = execute(
        client,
        RETRY,
        &[
            event_id,
            attempts_before,
            started_at,
            outcome,
            kind,
            message,
            worker,
            trace_id,
            &after,
            &traceparent,
            objects,
        ],
    )
    .await?;
    Ok(rows == 1)
}

/// Records a failed attempt after which the event is dead, with its dead letter.
pub async fn bury(
    client: &impl GenericClient,
    attempt: &Attempt<'_>,
    error: &Error<'_>,
    death: &Death,
) -> Result<bool, StoreError> {
    const BURY: &str = "
        WITH event AS (
            UPDATE webhook_events
            SET state = 'dead', attempts = attempts + 1, due_at = NULL, last_error = $6, finished_at = clock_timestamp()
            WHERE id = $1 AND attempts = $2 AND state IN ('received', 'retrying')
            RETURNING id, attempts
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, error, worker, trace_id)
            SELECT id, attempts, $3, $4, $5, $6, $7, $8 FROM event
        ), object AS (
            INSERT INTO event_objects (event_id, object_id) SELECT id, unnest($10::text[]) FROM event
            ON CONFLICT DO NOTHING
        ), alert AS (
            INSERT INTO alerts (kind, key, message)
            SELECT $5, id, $6 FROM event WHERE $5 IN ('amount_mismatch', 'currency_mismatch')
            ON CONFLICT ON CONSTRAINT alerts_once DO NOTHING RETURNING raised_at
        )
        INSERT INTO dead_letters (event_id, reason, error, fingerprint, about_money, told_at, fingerprint_version)
        SELECT id, $5, $6, $9, $11, (SELECT raised_at FROM alert), $12 FROM event";
    let Attempt {
        event_id,
        attempts_before,
        started_at,
        worker,
        trace_id,
        objects,
    } = attempt;
    let Error {
        outcome,
        kind,
        message,
    } = error;
    let rows = execute(
        client,
        BURY,
        &[
            event_id,
            attempts_before,
            started_at,
            outcome,
            kind,
            message,
            worker,
            trace_id,
            &death.fingerprint,
            objects,
            &death.about_money,
            &VERSION,
        ],
    )
    .await?;
    Ok(rows == 1)
}

/// Puts the messages of events that are overdue back into the outbox: they are lost, or wait in a very long queue, so
/// each further rescue of an event waits twice as long from the third one on. Returns how many.
pub async fn rescue(
    client: &impl GenericClient,
    after: Duration,
    most: i64,
) -> Result<u64, StoreError> {
    // The outbox has no index by event, which would cost every event. Its rows are few, unless the broker takes no messages
    // or did not until now: then some are old, and the relay has enough to do. A relay that tries makes rows due anew.
    const RESCUE: &str = "
        WITH queued AS MATERIALIZED (
            SELECT event_id, available_at FROM outbox WHERE available_at < now() + interval '15 seconds'
            ORDER BY available_at LIMIT 10000
        ), overdue AS (
            SELECT id FROM webhook_events event
            WHERE state IN ('received', 'retrying') AND rescue_from < now() - make_interval(secs => $1)
                AND (SELECT count(*) FROM queued WHERE available_at < now() - interval '30 seconds') < 5000
                AND NOT EXISTS (SELECT FROM queued WHERE queued.event_id = event.id)
            ORDER BY rescue_from LIMIT $2 FOR UPDATE SKIP LOCKED
        ), rescued AS (
            UPDATE webhook_events event
            SET rescues = rescues + 1,
                rescue_from = now() + make_interval(secs => $1 * (2 ^ least(greatest(rescues - 1, 0), 2) - 1))
            FROM overdue WHERE event.id = overdue.id
            RETURNING event.id
        )
        INSERT INTO outbox (event_id) SELECT id FROM rescued";
    execute(client, RESCUE, &[&after.as_secs_f64(), &most]).await
}

/// How much waits.
pub struct Backlog {
    /// Events that are not final.
    pub events: i64,
    /// Age of the oldest of them that was not replayed, in seconds.
    pub oldest_s: f64,
    /// Messages that should have been published and were not.
    pub unpublished: i64,
    /// Dead letters that nobody has replayed or discarded.
    pub dead_letters: i64,
    /// Events that replays have yet to put back.
    pub to_replay: i64,
}

/// Counts what waits.
pub async fn backlog(client: &impl GenericClient) -> Result<Backlog, StoreError> {
    const BACKLOG: &str = "
        SELECT count(*) AS events,
            greatest(extract(epoch FROM now() - min(received_at) FILTER (WHERE budget_from = 0)), 0)::float8 AS oldest_s,
            (SELECT count(*) FROM outbox WHERE available_at <= now()) AS unpublished,
            (SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL) AS dead_letters,
            (SELECT coalesce(sum(planned_count - cursor), 0) FROM replays WHERE finished_at IS NULL) AS to_replay
        FROM webhook_events WHERE state IN ('received', 'retrying')";
    let row = query_opt(client, BACKLOG, &[])
        .await?
        .ok_or(StoreError::Rejected("a count without a row"))?;
    Ok(Backlog {
        events: row.get("events"),
        oldest_s: row.get("oldest_s"),
        unpublished: row.get("unpublished"),
        dead_letters: row.get("dead_letters"),
        to_replay: row.get("to_replay"),
    })
}
