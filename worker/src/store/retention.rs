//! What retention removes. Rows that anybody else holds are left for the next batch.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use shared::database::{StoreError, execute, query_opt};

/// A place in the order in which events came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    received_at: Timestamp,
    id: String,
}

impl Place {
    /// Before all events.
    pub fn first() -> Self {
        Self {
            received_at: Timestamp::UNIX_EPOCH,
            id: String::new(),
        }
    }
}

/// How far a look at bodies came.
pub struct Looked {
    /// How many bodies were removed.
    pub removed: u64,
    /// How many events were looked at.
    pub seen: i64,
    /// The place of the last one of them, if there was one.
    pub last: Option<Place>,
}

/// Looks at the next events behind `from` that came longer than `age` ago, `most` at the most, and removes the bodies of
/// those that are final for as long. It keeps an hour behind: what came then is final for `age` too, unless it was retried
/// for longer.
pub async fn prune_payloads(
    client: &impl GenericClient,
    age: Duration,
    from: &Place,
    most: i64,
) -> Result<Looked, StoreError> {
    const PRUNE: &str = "
        WITH seen AS (
            SELECT id, received_at FROM webhook_events
            WHERE (received_at, id) > ($2, $3) AND received_at < now() - make_interval(secs => $1, hours => 1)
            ORDER BY received_at, id LIMIT $4
        ), old AS (
            SELECT event.id FROM seen JOIN webhook_events event ON event.id = seen.id
            WHERE event.state IN ('processed', 'ignored', 'discarded')
                AND event.finished_at < now() - make_interval(secs => $1)
                AND EXISTS (SELECT FROM event_payloads payload WHERE payload.event_id = event.id)
            FOR UPDATE OF event SKIP LOCKED
        ), removed AS (
            DELETE FROM event_payloads USING old WHERE event_id = old.id RETURNING event_id
        )
        SELECT received_at, id, (SELECT count(*) FROM removed) AS removed, (SELECT count(*) FROM seen) AS seen FROM seen
        ORDER BY received_at DESC, id DESC LIMIT 1";
    let Place { received_at, id } = from;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&age.as_secs_f64(), received_at, id, &most];
    let row = query_opt(client, PRUNE, &params).await?;
    let count = |name| row.as_ref().map_or(0, |row| row.get::<_, i64>(name));
    Ok(Looked {
        removed: count("removed").unsigned_abs(),
        seen: count("seen"),
        last: row.as_ref().map(|row| Place {
            received_at: row.get("received_at"),
            id: row.get("id"),
        }),
    })
}

/// Removes events that are final for longer than `age`, with body, attempts and resolved dead letters. Returns how many.
pub async fn prune_events(
    client: &impl GenericClient,
    age: Duration,
    most: i64,
) -> Result<u64, StoreError> {
    const PRUNE: &str = "
        WITH old AS (
            SELECT id FROM webhook_events event
            WHERE received_at < now() - make_interval(secs => $1) AND finished_at < now() - make_interval(secs => $1)
                AND state IN ('processed', 'ignored', 'discarded')
                AND NOT EXISTS (SELECT FROM dead_letters WHERE event_id = event.id AND resolved_at IS NULL)
                AND NOT EXISTS (SELECT FROM replay_items WHERE event_id = event.id AND outcome = 'replayed')
            ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), bodies AS (
            DELETE FROM event_payloads USING old WHERE event_id = old.id
        ), objects AS (
            DELETE FROM event_objects USING old WHERE event_id = old.id
        ), events AS (
            DELETE FROM webhook_events USING old WHERE webhook_events.id = old.id RETURNING webhook_events.id
        )
        SELECT count(*) FROM events";
    let row = query_opt(client, PRUNE, &[&age.as_secs_f64(), &most]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}

/// Removes what was noted of refused webhooks longer than `age` ago. Returns how many rows.
pub async fn prune_rejections(
    client: &impl GenericClient,
    age: Duration,
    most: i64,
) -> Result<u64, StoreError> {
    const PRUNE: &str = "
        DELETE FROM rejections USING (
            SELECT id FROM rejections WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2) AS old
        WHERE rejections.id = old.id";
    execute(client, PRUNE, &[&age.as_secs_f64(), &most]).await
}

/// Removes notices of alerts that were told, or given up, longer than `age` ago. Returns how many.
pub async fn prune_notices(
    client: &impl GenericClient,
    age: Duration,
    most: i64,
) -> Result<u64, StoreError> {
    // Ids grow with time: the first ones are the oldest.
    const PRUNE: &str = "
        DELETE FROM alert_notices notice USING (SELECT id FROM alert_notices ORDER BY id LIMIT $2) AS first
        WHERE notice.id = first.id AND notice.status <> 'queued'
            AND notice.created_at < now() - make_interval(secs => $1)";
    execute(client, PRUNE, &[&age.as_secs_f64(), &most]).await
}
