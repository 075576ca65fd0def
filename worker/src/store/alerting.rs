//! Where alerts stand, and what is told of them.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;

use crate::alerting::news::{Known, News};
use crate::alerting::notices::{DeadPayment, Notice, Raised};

/// Something to tell, claimed.
#[derive(Debug)]
pub struct QueuedNotice {
    /// The row's id.
    pub id: i64,
    /// `mail` or `hook`.
    pub channel: String,
    /// What it is.
    pub name: String,
    /// One line.
    pub subject: String,
    /// The rest.
    pub body: String,
    /// How many times it was tried, this one included.
    pub attempt: i32,
}

/// Makes this transaction the only one that does a duty, and gives the database's clock. None while another does it.
pub async fn try_lock(tx: &Transaction<'_>, duty: &str) -> Result<Option<Timestamp>, StoreError> {
    const LOCK: &str =
        "SELECT clock_timestamp() WHERE pg_try_advisory_xact_lock(hashtextextended($1, 0))";
    let name = format!("tollgate {duty}");
    Ok(query_opt(tx, LOCK, &[&name]).await?.map(|row| row.get(0)))
}

/// Where every alert stands that fires.
pub async fn known(tx: &Transaction<'_>) -> Result<Vec<Known>, StoreError> {
    const KNOWN: &str =
        "SELECT rule, key, message, since, told_at FROM alert_states WHERE state = 'firing'";
    let known = |row: &Row| Known {
        rule: row.get("rule"),
        key: row.get("key"),
        firing: true,
        message: row.get("message"),
        since: row.get("since"),
        told_at: row.get("told_at"),
    };
    Ok(query(tx, KNOWN, &[]).await?.iter().map(known).collect())
}

/// Notes where an alert stands now.
pub async fn note(tx: &Transaction<'_>, news: &News) -> Result<(), StoreError> {
    const FIRES: &str = "
        INSERT INTO alert_states (rule, key, state, message) VALUES ($1, $2, 'firing', $3)
        ON CONFLICT ON CONSTRAINT alert_states_pkey
        DO UPDATE SET state = 'firing', message = $3, since = now(), told_at = now()";
    const STILL: &str =
        "UPDATE alert_states SET message = $3, told_at = now() WHERE rule = $1 AND key = $2";
    const RESOLVED: &str = "
        UPDATE alert_states SET state = 'resolved', since = now(), told_at = now() WHERE rule = $1 AND key = $2";
    match news {
        News::Fires(alert) => {
            execute(tx, FIRES, &[&alert.rule, &alert.key, &alert.message]).await?
        }
        News::FiresStill(alert, _) => {
            execute(tx, STILL, &[&alert.rule, &alert.key, &alert.message]).await?
        }
        News::Resolved { rule, key, .. } => execute(tx, RESOLVED, &[rule, key]).await?,
    };
    Ok(())
}

/// What handlers raised within the last day and nobody was told.
pub async fn untold(
    tx: &Transaction<'_>,
    channels: &[&'static str],
) -> Result<Vec<Raised>, StoreError> {
    const UNTOLD: &str = "
        SELECT id, kind, key, message FROM alerts
        WHERE raised_at > now() - interval '1 day' AND EXISTS (
            SELECT FROM unnest($1::text[]) channel WHERE NOT EXISTS (
                SELECT FROM alert_notices told WHERE told.channel = channel.channel AND told.name = 'alert/' || alerts.id))
        ORDER BY id LIMIT 200";
    let raised = |row: &Row| Raised {
        id: row.get("id"),
        kind: row.get("kind"),
        key: row.get("key"),
        message: row.get("message"),
    };
    let rows = query(tx, UNTOLD, &[&channels]).await?;
    Ok(rows.iter().map(raised).collect())
}

/// Takes the dead events about money of which nobody was told, and gives those that call for somebody. What is more than
/// these is taken by the next look.
pub async fn take_dead_payments(tx: &Transaction<'_>) -> Result<Vec<DeadPayment>, StoreError> {
    const TAKE: &str = "
        WITH untold AS (
            SELECT id FROM dead_letters WHERE about_money AND told_at IS NULL AND resolved_at IS NULL
            ORDER BY id LIMIT 2000 FOR UPDATE SKIP LOCKED
        ), told AS (
            UPDATE dead_letters letter SET told_at = now() FROM untold WHERE letter.id = untold.id RETURNING letter.id
        )
        SELECT letter.id, event_id, type, attempts, reason, error, fingerprint
        FROM told JOIN pressing_dead_letters letter ON letter.id = told.id JOIN webhook_events event ON event.id = event_id
        ORDER BY letter.id";
    let dead = |row: &Row| DeadPayment {
        id: row.get("id"),
        event_id: row.get("event_id"),
        event_type: row.get("type"),
        attempts: row.get("attempts"),
        reason: row.get("reason"),
        error: row.get("error"),
        fingerprint: row.get("fingerprint"),
    };
    Ok(query(tx, TAKE, &[]).await?.iter().map(dead).collect())
}

/// Whether so many dead events were told within the last ten minutes that nobody would read more.
pub async fn told_much(tx: &Transaction<'_>) -> Result<bool, StoreError> {
    const TOLD: &str = "
        SELECT count(*) >= 40 AS much FROM (SELECT name, created_at FROM alert_notices ORDER BY id DESC LIMIT 400) AS newest
        WHERE name LIKE 'dead_payment/%' AND created_at > now() - interval '10 minutes'";
    let row = query_opt(tx, TOLD, &[]).await?;
    Ok(row.is_some_and(|row| row.get("much")))
}

/// The last day that was summed up on every channel, if any.
pub async fn last_summary(
    tx: &Transaction<'_>,
    channels: &[&'static str],
) -> Result<Option<String>, StoreError> {
    const LAST: &str = "
        SELECT split_part(name, '/', 2) FROM alert_notices WHERE name LIKE 'summary/%' AND channel = ANY($1)
        GROUP BY name HAVING count(*) = cardinality($1::text[]) ORDER BY 1 DESC LIMIT 1";
    Ok(query_opt(tx, LAST, &[&channels])
        .await?
        .map(|row| row.get(0)))
}

/// Queues notices on every channel, each once.
pub async fn queue(
    tx: &Transaction<'_>,
    channels: &[&'static str],
    notices: &[Notice],
) -> Result<(), StoreError> {
    insert(tx, channels, notices, "queued").await
}

/// Keeps the names of notices that are told within another one.
pub async fn bundle(
    tx: &Transaction<'_>,
    channels: &[&'static str],
    notices: &[Notice],
) -> Result<(), StoreError> {
    insert(tx, channels, notices, "bundled").await
}

async fn insert(
    tx: &Transaction<'_>,
    channels: &[&'static str],
    notices: &[Notice],
    status: &str,
) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO alert_notices (channel, name, subject, body, status)
        SELECT channel, $2, $3, $4, $5 FROM unnest($1::text[]) channel
        ON CONFLICT ON CONSTRAINT alert_notices_once DO NOTHING";
    for Notice {
        name,
        subject,
        body,
    } in notices
    {
        execute(tx, INSERT, &[&channels, name, subject, body, &status]).await?;
    }
    Ok(())
}

/// Takes a notice that is due, for a minute: a worker that dies meanwhile leaves it to the others.
pub async fn claim(
    client: &impl GenericClient,
    channel: &str,
) -> Result<Option<QueuedNotice>, StoreError> {
    const CLAIM: &str = "
        WITH due AS (
            SELECT id FROM alert_notices WHERE status = 'queued' AND due_at <= now() AND channel = $1
            ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        UPDATE alert_notices notice SET due_at = now() + interval '1 minute', attempts = attempts + 1
        FROM due WHERE notice.id = due.id
        RETURNING notice.id, channel, name, subject, body, attempts";
    let notice = |row: Row| QueuedNotice {
        id: row.get("id"),
        channel: row.get("channel"),
        name: row.get("name"),
        subject: row.get("subject"),
        body: row.get("body"),
        attempt: row.get("attempts"),
    };
    Ok(query_opt(client, CLAIM, &[&channel]).await?.map(notice))
}

/// It was taken.
pub async fn sent(client: &impl GenericClient, id: i64) -> Result<(), StoreError> {
    const SENT: &str = "
        UPDATE alert_notices SET status = 'sent', sent_at = now(), last_error = NULL WHERE id = $1 AND status = 'queued'";
    execute(client, SENT, &[&id]).await?;
    Ok(())
}

/// It is tried again after a while, or not any more.
pub async fn not_sent(
    client: &impl GenericClient,
    id: i64,
    error: &str,
    again: Option<Duration>,
) -> Result<(), StoreError> {
    const NOT_SENT: &str = "
        UPDATE alert_notices SET last_error = $2, status = CASE WHEN $3::float8 IS NULL THEN 'failed' ELSE 'queued' END,
            due_at = now() + make_interval(secs => coalesce($3, 0))
        WHERE id = $1 AND status = 'queued'";
    let again = again.map(|again| again.as_secs_f64());
    execute(client, NOT_SENT, &[&id, &error, &again]).await?;
    Ok(())
}
