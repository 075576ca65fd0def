//! How things stand now, and how the last hour went.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use shared::database::{StoreError, query, query_opt};
use tokio_postgres::Row;

/// What waits, and what will not go on by itself.
pub struct Backlog {
    /// Events that are not final, up to [`MOST_COUNTED`].
    pub events: i64,
    /// When the oldest of them came that was not replayed.
    pub oldest_at: Option<Timestamp>,
    /// Unresolved dead letters.
    pub dead_letters: i64,
}

/// Beyond this it says "more".
pub const MOST_COUNTED: i64 = 100_000;

/// Counts what waits.
pub async fn backlog(client: &impl GenericClient) -> Result<Backlog, StoreError> {
    // The order is that of an index of what waits alone: the oldest is among so many, however many came since.
    const BACKLOG: &str = "
        SELECT count(*), min(received_at) FILTER (WHERE budget_from = 0),
            (SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL)
        FROM (SELECT received_at, budget_from FROM webhook_events WHERE state IN ('received', 'retrying')
            ORDER BY rescue_from LIMIT 100001) AS waiting";
    let row = query_opt(client, BACKLOG, &[])
        .await?
        .ok_or(StoreError::Rejected("a count without a row"))?;
    Ok(Backlog {
        events: row.get(0),
        oldest_at: row.get(1),
        dead_letters: row.get(2),
    })
}

/// The events that came within one minute, and what became of them so far.
#[derive(Debug, Clone)]
pub struct Minute {
    /// Its beginning.
    pub at: Timestamp,
    /// All that came.
    pub received: i64,
    /// Those that are processed.
    pub processed: i64,
    /// Those that are dead.
    pub dead: i64,
    /// Seconds from coming to being processed, of the median.
    pub median_s: Option<f64>,
    /// The same, of the slowest twentieth.
    pub p95_s: Option<f64>,
    /// The same, of the slowest hundredth.
    pub p99_s: Option<f64>,
}

/// The minutes from a time on in which anything came, oldest first.
pub async fn minutes(
    client: &impl GenericClient,
    since: Timestamp,
) -> Result<Vec<Minute>, StoreError> {
    const MINUTES: &str = "
        SELECT date_trunc('minute', received_at) AS at, count(*) AS received,
            count(*) FILTER (WHERE state = 'processed') AS processed, count(*) FILTER (WHERE state = 'dead') AS dead,
            percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - received_at)::float8)
                FILTER (WHERE state = 'processed') AS seconds
        FROM webhook_events WHERE received_at >= $1 GROUP BY 1 ORDER BY 1";
    let rows = query(client, MINUTES, &[&since]).await?;
    Ok(rows.iter().map(minute).collect())
}

fn minute(row: &Row) -> Minute {
    let seconds: Option<Vec<f64>> = row.get("seconds");
    let [median_s, p95_s, p99_s] = [0, 1, 2].map(|nth| {
        seconds
            .as_ref()
            .and_then(|seconds| seconds.get(nth).copied())
    });
    Minute {
        at: row.get("at"),
        received: row.get("received"),
        processed: row.get("processed"),
        dead: row.get("dead"),
        median_s,
        p95_s,
        p99_s,
    }
}

/// An event that died.
pub struct Death {
    /// The event; none for a message that named no stored event.
    pub event_id: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// A fixed word for the cause.
    pub reason: String,
    /// For people.
    pub error: String,
    /// Its group.
    pub fingerprint: String,
    /// When.
    pub died_at: Timestamp,
}

/// The last unresolved deaths, newest first.
pub async fn recent_deaths(client: &impl GenericClient) -> Result<Vec<Death>, StoreError> {
    const DEATHS: &str = "
        SELECT letter.event_id, event.type, letter.reason, letter.error, letter.fingerprint, letter.died_at
        FROM dead_letters letter LEFT JOIN webhook_events event ON event.id = letter.event_id
        WHERE letter.resolved_at IS NULL ORDER BY letter.died_at DESC, letter.id DESC LIMIT 8";
    let rows = query(client, DEATHS, &[]).await?;
    let death = |row: &Row| Death {
        event_id: row.get("event_id"),
        event_type: row.get("type"),
        reason: row.get("reason"),
        error: row.get("error"),
        fingerprint: row.get("fingerprint"),
        died_at: row.get("died_at"),
    };
    Ok(rows.iter().map(death).collect())
}

/// A worker, by what it did last.
pub struct Worker {
    /// Its name in attempts.
    pub name: String,
    /// When it ended an attempt last.
    pub seen_at: Timestamp,
    /// Attempts that it made at the newest events.
    pub attempts: i64,
}

/// The newest events that [`workers`] looks at.
pub const NEWEST: i64 = 500;

/// Who worked on the newest events, the last one first.
pub async fn workers(client: &impl GenericClient) -> Result<Vec<Worker>, StoreError> {
    const WORKERS: &str = "
        SELECT attempt.worker, max(attempt.finished_at) AS seen_at, count(*) AS attempts
        FROM (SELECT id FROM webhook_events ORDER BY received_at DESC, id DESC LIMIT $1) newest
        JOIN event_attempts attempt ON attempt.event_id = newest.id
        GROUP BY attempt.worker ORDER BY seen_at DESC, attempt.worker LIMIT 20";
    let rows = query(client, WORKERS, &[&NEWEST]).await?;
    let worker = |row: &Row| Worker {
        name: row.get("worker"),
        seen_at: row.get("seen_at"),
        attempts: row.get("attempts"),
    };
    Ok(rows.iter().map(worker).collect())
}
