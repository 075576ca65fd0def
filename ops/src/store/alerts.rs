//! Alerts as the workers keep them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use shared::database::{StoreError, query};
use tokio_postgres::Row;

/// Where an alert stands.
#[derive(Debug, Serialize)]
pub struct Alert {
    /// The rule, as the runbook names it.
    pub rule: String,
    /// What it is about, where a rule is about several things.
    pub key: String,
    /// `firing` or `resolved`.
    pub state: String,
    /// For people.
    pub message: String,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// When the people on call were told last.
    pub told_at: Timestamp,
}

/// Lists alerts, those that fire first and then the newest.
pub async fn list(
    client: &impl GenericClient,
    resolved_too: bool,
    limit: i64,
) -> Result<Vec<Alert>, StoreError> {
    const LIST: &str = "
        SELECT rule, key, state, message, since, told_at FROM alert_states
        WHERE state = 'firing' OR $1 ORDER BY state, since DESC, rule, key LIMIT $2";
    let alert = |row: &Row| Alert {
        rule: row.get("rule"),
        key: row.get("key"),
        state: row.get("state"),
        message: row.get("message"),
        since: row.get("since"),
        told_at: row.get("told_at"),
    };
    let rows = query(client, LIST, &[&resolved_too, &limit]).await?;
    Ok(rows.iter().map(alert).collect())
}
