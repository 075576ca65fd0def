//! Reconciliations, as operators look at them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use shared::database::{StoreError, query, query_opt};
use tokio_postgres::Row;

/// A comparison of Stripe's list of events with what is stored.
#[derive(Debug, Serialize)]
pub struct Reconciliation {
    /// Its id.
    pub id: i64,
    /// `running`, `finished` or `failed`.
    pub state: String,
    /// Who began it: an operator, or the worker that found it due.
    pub started_by: String,
    /// Whether the schedule began it.
    pub scheduled: bool,
    /// Whether events that Stripe counts as delivered were looked at too.
    pub everything: bool,
    /// It looks at events that were created then or later.
    pub since: Timestamp,
    /// Answers of Stripe's.
    pub pages: i32,
    /// Events in them.
    pub listed: i32,
    /// Those that were stored already.
    pub known: i32,
    /// Those that are stored since.
    pub imported: i32,
    /// Those that cannot be stored.
    pub unreadable: i32,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

const COLUMNS: &str = "id, state, started_by, scheduled, everything, since, pages, listed, known, imported, unreadable,
    error, started_at, finished_at";

/// Lists runs below an id, newest first.
pub async fn list(
    client: &impl GenericClient,
    below: Option<i64>,
    most: i64,
) -> Result<Vec<Reconciliation>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM reconciliations WHERE id < $1 ORDER BY id DESC LIMIT $2");
    let rows = query(client, &sql, &[&below.unwrap_or(i64::MAX), &most]).await?;
    Ok(rows.iter().map(reconciliation).collect())
}

/// The run that imported an event; none where a webhook brought it.
pub async fn of_event(
    client: &impl GenericClient,
    event_id: &str,
) -> Result<Option<i64>, StoreError> {
    const RUN: &str = "SELECT reconciliation_id FROM reconciled_events WHERE event_id = $1";
    let row = query_opt(client, RUN, &[&event_id]).await?;
    Ok(row.map(|row| row.get(0)))
}

fn reconciliation(row: &Row) -> Reconciliation {
    Reconciliation {
        id: row.get("id"),
        state: row.get("state"),
        started_by: row.get("started_by"),
        scheduled: row.get("scheduled"),
        everything: row.get("everything"),
        since: row.get("since"),
        pages: row.get("pages"),
        listed: row.get("listed"),
        known: row.get("known"),
        imported: row.get("imported"),
        unreadable: row.get("unreadable"),
        error: row.get("error"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
    }
}
