//! The audit log, as the console shows it.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::database::{StoreError, query};
use tokio_postgres::Row;

/// Who did what, and why.
pub struct Entry {
    /// Its place in the log.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// Why.
    pub reason: String,
    /// To what.
    pub details: Value,
}

/// Which entries.
#[derive(Default)]
pub struct Filter<'a> {
    /// Only those of this actor.
    pub actor: Option<&'a str>,
    /// Only this action.
    pub action: Option<&'a str>,
    /// Only those that name this event.
    pub event_id: Option<&'a str>,
    /// Only those before this one.
    pub before: Option<i64>,
}

/// Lists entries, newest first.
pub async fn list(
    client: &impl GenericClient,
    filter: &Filter<'_>,
    most: i64,
) -> Result<Vec<Entry>, StoreError> {
    const LIST: &str = "
        SELECT id, at, actor, action, reason, details FROM audit_log
        WHERE ($1::text IS NULL OR actor = $1) AND ($2::text IS NULL OR action = $2)
            AND ($3::jsonb IS NULL OR details @> $3 OR details @> $4) AND id < $5
        ORDER BY id DESC LIMIT $6";
    let named = |name: &str| filter.event_id.map(|id| json!({ name: [id] }));
    let rows = query(
        client,
        LIST,
        &[
            &filter.actor,
            &filter.action,
            &named("event_ids"),
            &named("ids"),
            &filter.before.unwrap_or(i64::MAX),
            &most,
        ],
    )
    .await?;
    Ok(rows.iter().map(entry).collect())
}

fn entry(row: &Row) -> Entry {
    Entry {
        id: row.get("id"),
        at: row.get("at"),
        actor: row.get("actor"),
        action: row.get("action"),
        reason: row.get("reason"),
        details: row.get("details"),
    }
}

/// Every action in the log.
pub async fn actions(client: &impl GenericClient) -> Result<Vec<String>, StoreError> {
    // One step of the index per action, whatever the log's length.
    const ACTIONS: &str = "
        WITH RECURSIVE known AS (
            (SELECT action FROM audit_log ORDER BY action LIMIT 1)
            UNION ALL
            SELECT (SELECT action FROM audit_log WHERE action > known.action ORDER BY action LIMIT 1)
            FROM known WHERE known.action IS NOT NULL
        ) SELECT action FROM known WHERE action IS NOT NULL";
    let rows = query(client, ACTIONS, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
