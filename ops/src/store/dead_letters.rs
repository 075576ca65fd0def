//! Dead letters: list, replay, discard. A replay is a state change and an outbox row in one statement.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use serde::Serialize;
use shared::database::{StoreError, query};
use shared::replay::store::put_back;
use tokio_postgres::Row;

use super::conditions::Conditions;
use crate::filter::Filter;
use crate::page::Cursor;
use crate::redact::redact;

/// A dead letter.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    /// Its own id.
    pub id: i64,
    /// The event; none for a message that named no stored event.
    pub event_id: Option<String>,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// A fixed word for the cause.
    pub reason: String,
    /// For people.
    pub error: String,
    /// Its group.
    pub fingerprint: String,
    /// When it died.
    pub died_at: Timestamp,
    /// How many attempts were made.
    pub attempts: Option<i32>,
    /// When it was replayed or discarded.
    pub resolved_at: Option<Timestamp>,
    /// `replayed` or `discarded`.
    pub resolution: Option<String>,
    /// The message, where there is no event, with personal data and secrets covered; only its size where it is not JSON.
    pub message: Option<String>,
}

/// Dead letters with one cause.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What they share.
    pub fingerprint: String,
    /// A fixed word for the cause.
    pub reason: String,
    /// One of their errors.
    pub error: String,
    /// How many.
    pub count: i64,
    /// The oldest.
    pub first_at: Timestamp,
    /// The newest.
    pub last_at: Timestamp,
}

const COLUMNS: &str =
    "letter.id, letter.event_id, event.type, letter.reason, letter.error, letter.fingerprint,
    letter.died_at, event.attempts, letter.resolved_at, letter.resolution, letter.message";

async fn matching(
    client: &impl GenericClient,
    select: &str,
    conditions: &Conditions,
    rest: &str,
) -> Result<Vec<Row>, StoreError> {
    let sql = format!(
        "SELECT {select} FROM dead_letters letter LEFT JOIN webhook_events event ON event.id = letter.event_id
         WHERE letter.resolved_at IS NULL AND {} {rest}",
        conditions.sql()
    );
    query(client, &sql, &conditions.params()).await
}

/// Lists unresolved dead letters, oldest first, from behind a place on.
pub async fn list(
    client: &impl GenericClient,
    filter: &Filter,
    behind: Option<&Cursor>,
    limit: i64,
) -> Result<Vec<DeadLetter>, StoreError> {
    let mut conditions = Conditions::of_letters(filter);
    if let Some(Cursor { at, id }) = behind {
        let id: i64 = id.parse().unwrap_or(i64::MAX);
        let (at, id) = (conditions.bind(*at), conditions.bind(id));
        conditions.add(format!("(letter.died_at, letter.id) > ({at}, {id})"));
    }
    let rest = format!("ORDER BY letter.died_at, letter.id LIMIT {limit}");
    Ok(matching(client, COLUMNS, &conditions, &rest)
        .await?
        .iter()
        .map(dead_letter)
        .collect())
}

/// Counts unresolved dead letters.
pub async fn count(client: &impl GenericClient, filter: &Filter) -> Result<i64, StoreError> {
    Ok(
        matching(client, "count(*)", &Conditions::of_letters(filter), "")
            .await?
            .first()
            .map_or(0, |row| row.get(0)),
    )
}

/// Counts the ids that name no unresolved dead letter, neither by its own id nor by its event's.
pub async fn count_unmatched(
    client: &impl GenericClient,
    ids: &[String],
) -> Result<i64, StoreError> {
    const UNMATCHED: &str = "
        SELECT count(*) FROM unnest($1::text[], $2::bigint[]) AS named (event_id, id)
        WHERE NOT EXISTS (
            SELECT FROM dead_letters letter WHERE letter.event_id = named.event_id AND letter.resolved_at IS NULL)
        AND NOT EXISTS (SELECT FROM dead_letters letter WHERE letter.id = named.id AND letter.resolved_at IS NULL)";
    let letters: Vec<Option<i64>> = ids.iter().map(|id| id.parse().ok()).collect();
    let rows = query(client, UNMATCHED, &[&ids, &letters]).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

/// Groups unresolved dead letters by cause, largest first.
pub async fn groups(
    client: &impl GenericClient,
    filter: &Filter,
) -> Result<Vec<Group>, StoreError> {
    const SELECT: &str = "letter.fingerprint, min(letter.reason), (array_agg(letter.error ORDER BY letter.id DESC))[1],
        count(*), min(letter.died_at), max(letter.died_at)";
    let rows = matching(
        client,
        SELECT,
        &Conditions::of_letters(filter),
        "GROUP BY letter.fingerprint ORDER BY 4 DESC, 1 LIMIT 200",
    )
    .await?;
    let group = |row: &Row| Group {
        fingerprint: row.get(0),
        reason: row.get(1),
        error: row.get(2),
        count: row.get(3),
        first_at: row.get(4),
        last_at: row.get(5),
    };
    Ok(rows.iter().map(group).collect())
}

/// Finds a dead letter, resolved or not, by its id or its event's: then the newest.
pub async fn find(
    client: &impl GenericClient,
    id: Option<i64>,
    event_id: &str,
) -> Result<Option<DeadLetter>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM dead_letters letter LEFT JOIN webhook_events event ON event.id = letter.event_id
         WHERE letter.id = $1 OR letter.event_id = $2 ORDER BY letter.id DESC LIMIT 1"
    );
    Ok(query(client, &sql, &[&id, &event_id])
        .await?
        .first()
        .map(dead_letter))
}

fn dead_letter(row: &Row) -> DeadLetter {
    let message: Option<Vec<u8>> = row.get("message");
    DeadLetter {
        id: row.get("id"),
        event_id: row.get("event_id"),
        event_type: row.get("type"),
        reason: row.get("reason"),
        error: row.get("error"),
        fingerprint: row.get("fingerprint"),
        died_at: row.get("died_at"),
        attempts: row.get("attempts"),
        resolved_at: row.get("resolved_at"),
        resolution: row.get("resolution"),
        message: message.map(|bytes| {
            redact(&bytes).unwrap_or_else(|| format!("{} bytes that are not JSON", bytes.len()))
        }),
    }
}

/// Puts the events of matching dead letters back to work, with a fresh budget of attempts. Returns their ids.
pub async fn replay(
    tx: &Transaction<'_>,
    filter: &Filter,
    most: i64,
) -> Result<Vec<String>, StoreError> {
    let ids = lock(tx, filter, most).await?;
    put_back(tx, &ids).await
}

/// How many events of matching dead letters were replayed so often that one more replay needs `--force`.
pub async fn count_exhausted(
    client: &impl GenericClient,
    filter: &Filter,
    budget: i64,
) -> Result<i64, StoreError> {
    let mut conditions = Conditions::of_letters(filter);
    let budget = conditions.bind(budget);
    let sql = format!(
        "SELECT count(*) FROM dead_letters letter JOIN webhook_events event ON event.id = letter.event_id
         WHERE letter.resolved_at IS NULL AND {} AND {REPLAYED_BEFORE} >= {budget}",
        conditions.sql()
    );
    let row = query(client, &sql, &conditions.params()).await?;
    Ok(row.first().map_or(0, |row| row.get(0)))
}

/// How often the event of `letter` was replayed.
pub const REPLAYED_BEFORE: &str = "
    (SELECT count(*) FROM dead_letters earlier WHERE earlier.event_id = letter.event_id AND earlier.resolution = 'replayed')";

/// A dead letter that was given up.
pub struct Discarded {
    /// Its own id.
    pub id: i64,
    /// The event; none for a message that named no stored event.
    pub event_id: Option<String>,
}

/// Gives matching dead letters up: their events will never be attempted again. Returns which.
pub async fn discard(
    tx: &Transaction<'_>,
    filter: &Filter,
    most: i64,
) -> Result<Vec<Discarded>, StoreError> {
    let ids = lock(tx, filter, most).await?;
    const DISCARD: &str = "
        WITH event AS (
            UPDATE webhook_events SET state = 'discarded'
            FROM dead_letters letter
            WHERE letter.id = ANY($1) AND webhook_events.id = letter.event_id AND state = 'dead'
            RETURNING webhook_events.id
        )
        UPDATE dead_letters letter SET resolved_at = now(), resolution = 'discarded'
        WHERE letter.id = ANY($1) AND (letter.event_id IS NULL OR letter.event_id IN (SELECT id FROM event))
        RETURNING letter.id, letter.event_id";
    let discarded = |row: &Row| Discarded {
        id: row.get(0),
        event_id: row.get(1),
    };
    Ok(query(tx, DISCARD, &[&ids])
        .await?
        .iter()
        .map(discarded)
        .collect())
}

/// Locks matching dead letters in the order of their ids, so that two commands at once never wait for each other in a
/// circle; what another command holds is its own.
async fn lock(tx: &Transaction<'_>, filter: &Filter, most: i64) -> Result<Vec<i64>, StoreError> {
    let rest = format!("ORDER BY letter.id LIMIT {most} FOR UPDATE OF letter SKIP LOCKED");
    Ok(
        matching(tx, "letter.id", &Conditions::of_letters(filter), &rest)
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect(),
    )
}
