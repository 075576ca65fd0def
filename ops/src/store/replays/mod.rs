//! Replays: as they stand, and the operator's part in their lives.

mod plan;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;

pub use plan::{BUDGET_PER_EVENT, NewReplay, Plan, Share, create, plan};

/// A replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// Its id.
    pub id: i64,
    /// `planned`, `running`, `paused`, `settling`, `finished`, `cancelled` or `failed`.
    pub state: String,
    /// Who planned it.
    pub created_by: String,
    /// Why.
    pub reason: String,
    /// What was asked for.
    pub filter: Value,
    /// The set that was planned.
    pub plan_hash: String,
    /// How many events that is.
    pub planned: i32,
    /// Events a second.
    pub rate_per_s: i32,
    /// How many of them were put back or skipped.
    pub done: i32,
    /// Put back and not final yet.
    pub in_flight: i32,
    /// Processed (or ignored) after it put them back.
    pub processed: i32,
    /// Dead again after it put them back.
    pub dead_again: i32,
    /// Not dead any more when their turn came.
    pub skipped: i32,
    /// Why it paused by itself, or failed.
    pub error: Option<String>,
    /// Who moved it into its state.
    pub changed_by: String,
    /// And why.
    pub changed_why: String,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When a worker began.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
}

impl Replay {
    /// Whether it will not put anything back any more.
    pub fn is_over(&self) -> bool {
        self.finished_at.is_some()
    }

    /// How many have an outcome.
    pub fn finished_items(&self) -> i32 {
        self.processed + self.dead_again + self.skipped
    }
}

/// One event of a replay.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Its place in the order.
    pub position: i32,
    /// The event.
    pub event_id: String,
    /// The dead letter that it is about.
    pub dead_letter_id: i64,
    /// `waiting`, `replayed`, `processed`, `dead_again` or `skipped`.
    pub outcome: String,
    /// When it was put back.
    pub replayed_at: Option<Timestamp>,
    /// When it was final.
    pub finished_at: Option<Timestamp>,
}

/// What an operator does with a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing is put back until it is resumed.
    Pause,
    /// Goes on.
    Resume,
    /// Ends it; what was put back stays put back.
    Cancel,
}

impl Step {
    /// The state afterwards.
    pub fn state(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "running",
            Self::Cancel => "cancelled",
        }
    }
}

const COLUMNS: &str = "id, state, created_by, reason, filter, plan_hash, planned_count, rate_per_s, cursor, in_flight,
    processed, dead_again, skipped, error, changed_by, changed_why, created_at, started_at, finished_at";

/// Finds a replay.
pub async fn find(client: &impl GenericClient, id: i64) -> Result<Option<Replay>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM replays WHERE id = $1");
    Ok(query_opt(client, &sql, &[&id])
        .await?
        .map(|row| replay(&row)))
}

/// Finds the one that puts events back, or is about to.
pub async fn find_active(client: &impl GenericClient) -> Result<Option<Replay>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM replays WHERE state IN ('planned', 'running', 'paused') LIMIT 1"
    );
    Ok(query_opt(client, &sql, &[]).await?.map(|row| replay(&row)))
}

/// Lists replays, newest first, from below an id on.
pub async fn list(
    client: &impl GenericClient,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Replay>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM replays WHERE id < $1 ORDER BY id DESC LIMIT $2");
    let rows = query(client, &sql, &[&below.unwrap_or(i64::MAX), &limit]).await?;
    Ok(rows.iter().map(replay).collect())
}

/// A replay's items in order, from above a position on; only those with an outcome, if one is given.
pub async fn items(
    client: &impl GenericClient,
    id: i64,
    outcome: Option<&str>,
    above: i32,
    limit: i64,
) -> Result<Vec<Item>, StoreError> {
    const ITEMS: &str = "
        SELECT position, event_id, dead_letter_id, outcome, replayed_at, finished_at FROM replay_items
        WHERE replay_id = $1 AND position > $3 AND ($2::text IS NULL OR outcome = $2) ORDER BY position LIMIT $4";
    let rows = query(client, ITEMS, &[&id, &outcome, &above, &limit]).await?;
    let item = |row: &Row| Item {
        position: row.get("position"),
        event_id: row.get("event_id"),
        dead_letter_id: row.get("dead_letter_id"),
        outcome: row.get("outcome"),
        replayed_at: row.get("replayed_at"),
        finished_at: row.get("finished_at"),
    };
    Ok(rows.iter().map(item).collect())
}

/// Pauses, resumes or cancels. False when the replay is not in a state for it. The table's trigger writes the audit
/// entry.
pub async fn take(
    client: &impl GenericClient,
    id: i64,
    step: Step,
    actor: &str,
    reason: &str,
) -> Result<bool, StoreError> {
    const PAUSE: &str = "
        UPDATE replays SET state = 'paused', error = NULL, changed_by = $2, changed_why = $3, changed_at = now()
        WHERE id = $1 AND state = 'running' AND cursor < planned_count";
    const RESUME: &str = "
        UPDATE replays SET state = 'running', error = NULL, paced_at = now(), watched_from = now(),
            changed_by = $2, changed_why = $3, changed_at = now()
        WHERE id = $1 AND state = 'paused'";
    const CANCEL: &str = "
        UPDATE replays SET state = 'cancelled', finished_at = now(), changed_by = $2, changed_why = $3, changed_at = now()
        WHERE id = $1 AND state IN ('planned', 'running', 'paused')";
    let sql = match step {
        Step::Pause => PAUSE,
        Step::Resume => RESUME,
        Step::Cancel => CANCEL,
    };
    Ok(execute(client, sql, &[&id, &actor, &reason]).await? == 1)
}

fn replay(row: &Row) -> Replay {
    Replay {
        id: row.get("id"),
        state: row.get("state"),
        created_by: row.get("created_by"),
        reason: row.get("reason"),
        filter: row.get("filter"),
        plan_hash: row.get("plan_hash"),
        planned: row.get("planned_count"),
        rate_per_s: row.get("rate_per_s"),
        done: row.get("cursor"),
        in_flight: row.get("in_flight"),
        processed: row.get("processed"),
        dead_again: row.get("dead_again"),
        skipped: row.get("skipped"),
        error: row.get("error"),
        changed_by: row.get("changed_by"),
        changed_why: row.get("changed_why"),
        created_at: row.get("created_at"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
    }
}
