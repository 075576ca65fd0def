//! What a replay would do, and the plan made into a job for the workers.

use deadpool_postgres::{GenericClient, Transaction};
use serde::Serialize;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::types::Json;

use crate::filter::Filter;
use crate::store::conditions::Conditions;
use crate::store::dead_letters::REPLAYED_BEFORE;

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
