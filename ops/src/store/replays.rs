//! Replays: what one would do, the plan made into a job for the workers, and the operator's part in its life.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::conditions::Conditions;
use super::dead_letters::REPLAYED_BEFORE;
use crate::filter::Filter;

/// Replays of one event; one more needs `--force`.
pub const BUDGET_PER_EVENT: i64 = 5;

/// What a replay would do now.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// How many events it would put back.
    pub count: i64,
    /// The set of them: another set has another hash.
    pub plan_hash: String,
    /// By event type.
    pub by_type: Vec<Share>,
    /// By time since they died.
    pub by_age: Vec<Share>,
    /// By group, with the group's reason.
    pub by_fingerprint: Vec<Share>,
    /// Matching events that died once and are processed meanwhile: nothing is done with them.
    pub already_processed: i64,
    /// Matching dead events that were replayed too often already: left out unless forced.
    pub exhausted: i64,
    /// Matching dead letters that have no event: nothing can be done with them.
    pub without_event: i64,
}

/// A part of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    /// What these have in common.
    pub name: String,
    /// The reason of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many they are.
    pub count: i64,
}

/// A replay to be planned.
pub struct NewReplay<'a> {
    /// Which open dead letters.
    pub filter: &'a Filter,
    /// Who plans it.
    pub created_by: &'a str,
    /// Why; eight characters at the least.
    pub reason: &'a str,
    /// Events a second.
    pub rate_per_s: i32,
    /// Whether events that were replayed too often are taken too.
    pub force: bool,
}

/// A replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// Its id.
    pub id: i64,
    /// `planned`, `running`, `paused`, `finished`, `cancelled` or `failed`.
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

/// The open dead letters of a filter whose events can be put back, as the table `chosen`.
struct Choice {
    conditions: Conditions,
    sql: String,
}

fn choice(filter: &Filter, force: bool) -> Choice {
    let mut conditions = Conditions::of_letters(filter);
    let budget = conditions.bind(if force { i64::MAX } else { BUDGET_PER_EVENT });
    let sql = format!(
        "WITH open AS MATERIALIZED (
            SELECT letter.id, letter.event_id, letter.fingerprint, letter.reason, event.type, letter.died_at,
                {REPLAYED_BEFORE} < {budget} AS affordable
            FROM dead_letters letter JOIN webhook_events event ON event.id = letter.event_id
            WHERE letter.resolved_at IS NULL AND event.state = 'dead' AND {}
        ), chosen AS (SELECT * FROM open WHERE affordable)",
        conditions.sql()
    );
    Choice { conditions, sql }
}

/// What a replay of these would do. Exact where the transaction is a snapshot.
pub async fn plan(
    client: &impl GenericClient,
    filter: &Filter,
    force: bool,
) -> Result<Plan, StoreError> {
    let Choice { conditions, sql } = choice(filter, force);
    let totals = format!(
        "{sql} SELECT (SELECT count(*) FROM chosen), (SELECT count(*) FROM open WHERE NOT affordable),
            (SELECT left(encode(sha256(convert_to(coalesce(string_agg(id::text, ',' ORDER BY id), ''), 'UTF8')), 'hex'), 16)
             FROM chosen)"
    );
    let totals = query_opt(client, &totals, &conditions.params())
        .await?
        .ok_or(StoreError::Rejected("a count without a row"))?;
    let [by_type, by_age, by_fingerprint] = shares(client, filter, force).await?;
    let (already_processed, without_event) = left_alone(client, filter).await?;
    Ok(Plan {
        count: totals.get(0),
        exhausted: totals.get(1),
        plan_hash: totals.get(2),
        by_type,
        by_age,
        by_fingerprint,
        already_processed,
        without_event,
    })
}

async fn shares(
    client: &impl GenericClient,
    filter: &Filter,
    force: bool,
) -> Result<[Vec<Share>; 3], StoreError> {
    let Choice { conditions, sql } = choice(filter, force);
    let sql = format!(
        "{sql}, aged AS (
            SELECT type, fingerprint, reason, CASE WHEN died_at > now() - interval '1 hour' THEN 'under 1 h'
                WHEN died_at > now() - interval '1 day' THEN '1 h to 1 d'
                WHEN died_at > now() - interval '7 days' THEN '1 d to 7 d' ELSE 'over 7 d' END AS age
            FROM chosen
        )
        SELECT coalesce(type, age, fingerprint) AS name, min(reason) AS reason, count(*) AS count,
            grouping(type) AS not_type, grouping(age) AS not_age
        FROM aged GROUP BY GROUPING SETS ((type), (age), (fingerprint)) ORDER BY count(*) DESC, 1"
    );
    let mut shares = [Vec::new(), Vec::new(), Vec::new()];
    for row in query(client, &sql, &conditions.params()).await? {
        let which = match (row.get("not_type"), row.get("not_age")) {
            (0, _) => 0,
            (_, 0) => 1,
            (1_i32, 1_i32) => 2,
            _ => return Err(StoreError::Rejected("a group of no set")),
        };
        let reason: String = row.get("reason");
        shares[which].push(Share {
            name: row.get("name"),
            reason: Some(reason).filter(|_| which == 2),
            count: row.get("count"),
        });
    }
    Ok(shares)
}

/// How many match and are processed meanwhile, and how many have no event.
async fn left_alone(
    client: &impl GenericClient,
    filter: &Filter,
) -> Result<(i64, i64), StoreError> {
    let conditions = Conditions::of_letters(filter);
    let sql = format!(
        "SELECT count(DISTINCT letter.event_id) FILTER (WHERE event.state IN ('processed', 'ignored')),
            count(*) FILTER (WHERE letter.event_id IS NULL AND letter.resolved_at IS NULL)
         FROM dead_letters letter LEFT JOIN webhook_events event ON event.id = letter.event_id WHERE {}",
        conditions.sql()
    );
    let row = query_opt(client, &sql, &conditions.params())
        .await?
        .ok_or(StoreError::Rejected("a count without a row"))?;
    Ok((row.get(0), row.get(1)))
}

/// Makes the plan a replay, in the snapshot in which it was planned; the workers take it from there. Fails with a
/// unique violation while another one is active.
pub async fn create(
    tx: &Transaction<'_>,
    new: &NewReplay<'_>,
    plan: &Plan,
) -> Result<i64, StoreError> {
    const CREATE: &str = "
        INSERT INTO replays (created_by, reason, filter, plan_hash, planned_count, rate_per_s, changed_by, changed_why)
        VALUES ($1, $2, $3, $4, $5, $6, $1, $2) RETURNING id";
    let planned = i32::try_from(plan.count).map_err(|_| StoreError::Rejected("too many events"))?;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
        &new.created_by,
        &new.reason,
        &Json(new.filter),
        &plan.plan_hash,
        &planned,
        &new.rate_per_s,
    ];
    let id: i64 = query_opt(tx, CREATE, &params)
        .await?
        .ok_or(StoreError::Rejected("no id"))?
        .get(0);
    let Choice {
        mut conditions,
        sql,
    } = choice(new.filter, new.force);
    let replay = conditions.bind(id);
    let items = format!(
        "{sql} INSERT INTO replay_items (replay_id, position, event_id, dead_letter_id)
         SELECT {replay}, row_number() OVER (ORDER BY id), event_id, id FROM chosen"
    );
    let inserted = execute(tx, &items, &conditions.params()).await?;
    if i64::try_from(inserted) == Ok(plan.count) {
        Ok(id)
    } else {
        Err(StoreError::Rejected("the set changed within a snapshot"))
    }
}

const COLUMNS: &str = "id, state, created_by, reason, filter, plan_hash, planned_count, rate_per_s, cursor, in_flight,
    processed, dead_again, skipped, error, changed_by, created_at, started_at, finished_at";

/// Finds a replay.
pub async fn find(client: &impl GenericClient, id: i64) -> Result<Option<Replay>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM replays WHERE id = $1");
    Ok(query_opt(client, &sql, &[&id])
        .await?
        .map(|row| replay(&row)))
}

/// Finds the one that is not over.
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
        WHERE id = $1 AND state = 'running'";
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
        created_at: row.get("created_at"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
    }
}
