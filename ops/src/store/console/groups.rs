//! Dead letters by cause, with what operators made of each group.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use serde::Serialize;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;

/// Dead letters with one cause.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What they share.
    pub fingerprint: String,
    /// A fixed word for the cause.
    pub reason: String,
    /// The newest error.
    pub error: String,
    /// The type of its event.
    pub event_type: Option<String>,
    /// Unresolved ones.
    pub open: i64,
    /// All that ever died of it.
    pub total: i64,
    /// When the first died.
    pub first_at: Timestamp,
    /// When the last died.
    pub last_at: Timestamp,
    /// `open`, `acknowledged`, `resolved` or `ignored`.
    pub state: String,
    /// Whether it was resolved and then came back.
    pub recurred: bool,
    /// What operators noted.
    pub note: String,
    /// Who changed state or note last.
    pub changed_by: Option<String>,
    /// When.
    pub changed_at: Option<Timestamp>,
    /// Deaths in each of the last 24 hours, oldest first.
    pub hours: Vec<i64>,
}

impl Group {
    /// Whether it is in a state.
    pub fn is(&self, state: &str) -> bool {
        self.state == state
    }
}

/// A group that is resolved re-opens when another event dies of it; one that is ignored does not.
const GROUPS: &str = "
    SELECT letters.*, event.type, newest.reason, newest.error, coalesce(kept.note, '') AS note, kept.changed_by, kept.changed_at,
        coalesce(kept.state = 'resolved' AND letters.last_at > kept.changed_at, false) AS recurred,
        CASE WHEN kept.state = 'resolved' AND letters.last_at > kept.changed_at THEN 'open'
            ELSE coalesce(kept.state, 'open') END AS state
    FROM (
        SELECT fingerprint, count(*) FILTER (WHERE resolved_at IS NULL) AS open, count(*) AS total,
            min(died_at) AS first_at, max(died_at) AS last_at, max(id) AS newest_id
        FROM dead_letters WHERE ($1::text IS NULL OR fingerprint = $1) GROUP BY fingerprint
    ) letters
    JOIN dead_letters newest ON newest.id = letters.newest_id
    LEFT JOIN webhook_events event ON event.id = newest.event_id
    LEFT JOIN dead_letter_groups kept ON kept.fingerprint = letters.fingerprint";

/// Groups in a state, with unresolved letters or none: most unresolved ones first.
pub async fn list(
    client: &impl GenericClient,
    state: Option<&str>,
    most: i64,
) -> Result<Vec<Group>, StoreError> {
    let sql = format!(
        "SELECT * FROM ({GROUPS}) listed
         WHERE CASE WHEN $2::text IS NULL THEN state IN ('open', 'acknowledged') AND open > 0 ELSE state = $2 END
         ORDER BY open DESC, last_at DESC, fingerprint LIMIT $3"
    );
    let rows = query(client, &sql, &[&None::<&str>, &state, &most]).await?;
    let mut groups: Vec<Group> = rows.iter().map(group).collect();
    add_hours(client, &mut groups).await?;
    Ok(groups)
}

/// Finds a group.
pub async fn find(
    client: &impl GenericClient,
    fingerprint: &str,
) -> Result<Option<Group>, StoreError> {
    let row = query_opt(client, GROUPS, &[&Some(fingerprint)]).await?;
    let mut groups: Vec<Group> = row.iter().map(group).collect();
    add_hours(client, &mut groups).await?;
    Ok(groups.pop())
}

fn group(row: &Row) -> Group {
    Group {
        fingerprint: row.get("fingerprint"),
        reason: row.get("reason"),
        error: row.get("error"),
        event_type: row.get("type"),
        open: row.get("open"),
        total: row.get("total"),
        first_at: row.get("first_at"),
        last_at: row.get("last_at"),
        state: row.get("state"),
        recurred: row.get("recurred"),
        note: row.get("note"),
        changed_by: row.get("changed_by"),
        changed_at: row.get("changed_at"),
        hours: vec![0; 24],
    }
}

async fn add_hours(client: &impl GenericClient, groups: &mut [Group]) -> Result<(), StoreError> {
    const HOURS: &str = "
        SELECT fingerprint, floor(extract(epoch FROM now() - died_at) / 3600)::int, count(*) FROM dead_letters
        WHERE died_at > now() - interval '24 hours' AND fingerprint = ANY($1) GROUP BY 1, 2";
    let fingerprints: Vec<&str> = groups
        .iter()
        .map(|group| group.fingerprint.as_str())
        .collect();
    for row in query(client, HOURS, &[&fingerprints]).await? {
        let (fingerprint, hours_ago): (&str, i32) = (row.get(0), row.get(1));
        let at = usize::try_from(23 - hours_ago.clamp(0, 23)).unwrap_or(0);
        let group = groups
            .iter_mut()
            .find(|group| group.fingerprint == fingerprint);
        if let Some(hour) = group.and_then(|group| group.hours.get_mut(at)) {
            *hour += row.get::<_, i64>(2);
        }
    }
    Ok(())
}

/// Puts a group into a state, with a note.
pub async fn change(
    tx: &Transaction<'_>,
    fingerprint: &str,
    state: &str,
    note: &str,
    actor: &str,
) -> Result<(), StoreError> {
    const CHANGE: &str = "
        INSERT INTO dead_letter_groups (fingerprint, state, note, changed_by) VALUES ($1, $2, $3, $4)
        ON CONFLICT (fingerprint) DO UPDATE
        SET state = excluded.state, note = excluded.note, changed_by = excluded.changed_by,
            changed_at = clock_timestamp()";
    execute(tx, CHANGE, &[&fingerprint, &state, &note, &actor]).await?;
    Ok(())
}

/// A dead letter of a group.
pub struct Letter {
    /// Its own id.
    pub id: i64,
    /// The event; none for a message that named no stored event.
    pub event_id: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// Where the event stands now.
    pub event_state: Option<String>,
    /// When it died.
    pub died_at: Timestamp,
    /// `replayed` or `discarded`; none while it is open.
    pub resolution: Option<String>,
}

/// A group's letters, newest first: one more than a page, from before a place on.
pub async fn letters(
    client: &impl GenericClient,
    fingerprint: &str,
    before: Option<(Timestamp, i64)>,
    most: i64,
) -> Result<Vec<Letter>, StoreError> {
    const LETTERS: &str = "
        SELECT letter.id, letter.event_id, event.type, event.state, letter.died_at, letter.resolution
        FROM dead_letters letter LEFT JOIN webhook_events event ON event.id = letter.event_id
        WHERE letter.fingerprint = $1 AND (letter.died_at, letter.id) < ($2, $3)
        ORDER BY letter.died_at DESC, letter.id DESC LIMIT $4";
    let (at, id) = before.unwrap_or((Timestamp::MAX, i64::MAX));
    // The largest time that PostgreSQL and this program both know is far enough away.
    let at = at.min(FAR_AWAY);
    let rows = query(client, LETTERS, &[&fingerprint, &at, &id, &most]).await?;
    let letter = |row: &Row| Letter {
        id: row.get("id"),
        event_id: row.get("event_id"),
        event_type: row.get("type"),
        event_state: row.get("state"),
        died_at: row.get("died_at"),
        resolution: row.get("resolution"),
    };
    Ok(rows.iter().map(letter).collect())
}

/// The beginning of the year 3000.
const FAR_AWAY: Timestamp = Timestamp::constant(32_503_680_000, 0);
