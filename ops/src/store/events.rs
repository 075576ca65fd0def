//! Events as operators look at them.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use serde::Serialize;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;

/// An event's row.
#[derive(Debug, Serialize)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// Such as `charge.refunded`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Where it stands.
    pub state: String,
    /// `false` in test mode.
    pub livemode: Option<bool>,
    /// The version that rendered it.
    pub api_version: Option<String>,
    /// The connected account.
    pub account: Option<String>,
    /// When Stripe made it.
    pub created_at: Option<Timestamp>,
    /// When its first webhook came.
    pub received_at: Timestamp,
    /// How many webhooks brought it.
    pub deliveries: i32,
    /// How many times it was attempted.
    pub attempts: i32,
    /// When the next attempt is due.
    pub due_at: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
}

/// One attempt.
#[derive(Debug, Serialize)]
pub struct Attempt {
    /// From 1.
    pub number: i32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// `processed`, `ignored`, `transient` or `permanent`.
    pub outcome: String,
    /// A fixed word for the cause.
    pub error_kind: Option<String>,
    /// For people.
    pub error: Option<String>,
    /// Who ran it.
    pub worker: String,
    /// The trace it belongs to.
    pub trace_id: Option<String>,
}

/// What makes an [`Event`], of `webhook_events event`.
pub const COLUMNS: &str = "event.id, event.type, event.state, event.livemode, event.api_version, event.account,
    event.created_at, event.received_at, event.deliveries, event.attempts, event.due_at, event.last_error,
    event.finished_at";

/// Finds an event.
pub async fn find(client: &impl GenericClient, id: &str) -> Result<Option<Event>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM webhook_events event WHERE id = $1");
    Ok(query_opt(client, &sql, &[&id])
        .await?
        .map(|row| event(&row)))
}

/// An event of its row.
pub fn event(row: &Row) -> Event {
    Event {
        id: row.get("id"),
        event_type: row.get("type"),
        state: row.get("state"),
        livemode: row.get("livemode"),
        api_version: row.get("api_version"),
        account: row.get("account"),
        created_at: row.get("created_at"),
        received_at: row.get("received_at"),
        deliveries: row.get("deliveries"),
        attempts: row.get("attempts"),
        due_at: row.get("due_at"),
        last_error: row.get("last_error"),
        finished_at: row.get("finished_at"),
    }
}

/// An event's attempts, in order.
pub async fn attempts(client: &impl GenericClient, id: &str) -> Result<Vec<Attempt>, StoreError> {
    const ATTEMPTS: &str = "
        SELECT number, started_at, finished_at, outcome, error_kind, error, worker, trace_id
        FROM event_attempts WHERE event_id = $1 ORDER BY number";
    let rows = query(client, ATTEMPTS, &[&id]).await?;
    let attempt = |row: &Row| Attempt {
        number: row.get("number"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
        outcome: row.get("outcome"),
        error_kind: row.get("error_kind"),
        error: row.get("error"),
        worker: row.get("worker"),
        trace_id: row.get("trace_id"),
    };
    Ok(rows.iter().map(attempt).collect())
}

/// Since when an event's message is due and did not go out: the broker takes none, or nobody relays. A relay that tries in
/// vain makes it due anew each time.
pub async fn unpublished_since(
    client: &impl GenericClient,
    id: &str,
) -> Result<Option<Timestamp>, StoreError> {
    const OVERDUE: &str = "
        SELECT min(available_at) FROM outbox JOIN webhook_events event ON event.id = event_id
        WHERE event_id = $1 AND available_at <= now() AND state IN ('received', 'retrying')";
    let row = query_opt(client, OVERDUE, &[&id]).await?;
    Ok(row.and_then(|row| row.get(0)))
}

/// A death of an event, and what became of it.
#[derive(Debug)]
pub struct Death {
    /// When.
    pub died_at: Timestamp,
    /// A fixed word for the cause.
    pub reason: String,
    /// Its group.
    pub fingerprint: String,
    /// When it was replayed or discarded.
    pub resolved_at: Option<Timestamp>,
    /// `replayed` or `discarded`.
    pub resolution: Option<String>,
    /// The replay that put it back; none where it was put back by itself.
    pub replay: Option<ReplayOf>,
}

/// Whose replay put an event back, and why.
#[derive(Debug)]
pub struct ReplayOf {
    /// Its id.
    pub id: i64,
    /// Who planned it.
    pub created_by: String,
    /// Why.
    pub reason: String,
}

/// An event's deaths, oldest first.
pub async fn deaths(client: &impl GenericClient, id: &str) -> Result<Vec<Death>, StoreError> {
    const DEATHS: &str = "
        SELECT letter.died_at, letter.reason, letter.fingerprint, letter.resolved_at, letter.resolution,
            replay.id AS replay, replay.created_by, replay.reason AS why
        FROM dead_letters letter
        LEFT JOIN replay_items item ON item.event_id = letter.event_id AND item.dead_letter_id = letter.id
            AND item.replayed_at IS NOT NULL
        LEFT JOIN replays replay ON replay.id = item.replay_id
        WHERE letter.event_id = $1 ORDER BY letter.id LIMIT 200";
    let rows = query(client, DEATHS, &[&id]).await?;
    let death = |row: &Row| Death {
        died_at: row.get("died_at"),
        reason: row.get("reason"),
        fingerprint: row.get("fingerprint"),
        resolved_at: row.get("resolved_at"),
        resolution: row.get("resolution"),
        replay: row.get::<_, Option<i64>>("replay").map(|id| ReplayOf {
            id,
            created_by: row.get("created_by"),
            reason: row.get("why"),
        }),
    };
    Ok(rows.iter().map(death).collect())
}

/// The exact bytes of an event's body.
pub async fn body(client: &impl GenericClient, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let row = query_opt(
        client,
        "SELECT body FROM event_payloads WHERE event_id = $1",
        &[&id],
    )
    .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Makes the next attempt of an event due now. False when it does not wait for one any more.
pub async fn hurry(tx: &Transaction<'_>, id: &str) -> Result<bool, StoreError> {
    const HURRY: &str = "
        WITH event AS (
            UPDATE webhook_events SET due_at = now(), rescue_from = now(), rescues = 0 WHERE id = $1 AND state = 'retrying'
            RETURNING id
        )
        INSERT INTO outbox (event_id) SELECT id FROM event";
    Ok(execute(tx, HURRY, &[&id]).await? == 1)
}
