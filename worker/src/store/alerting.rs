//! What alert rules look at, where alerts stand, and what is told of them.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;

use crate::alerting::rules::{Group, Known, MANY_FAILURES, Measured, News};

/// Something to tell.
#[derive(Debug)]
pub struct Notice {
    /// Each name is told once on each channel.
    pub name: String,
    /// One line.
    pub subject: String,
    /// The rest.
    pub body: String,
}

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

/// Makes this transaction the only one that looks at the rules, and gives the database's clock. None while another does.
pub async fn try_lock(tx: &Transaction<'_>) -> Result<Option<Timestamp>, StoreError> {
    const LOCK: &str = "
        SELECT clock_timestamp() WHERE pg_try_advisory_xact_lock(hashtextextended('tollgate alerting', 0))";
    Ok(query_opt(tx, LOCK, &[]).await?.map(|row| row.get(0)))
}

/// All that the rules look at.
pub async fn measure(tx: &Transaction<'_>, livemode: bool) -> Result<Measured, StoreError> {
    const GROWING: &str = "
        SELECT fingerprint, min(reason) AS reason, count(*) AS count FROM dead_letters
        WHERE resolved_at IS NULL AND died_at > now() - interval '1 hour'
        GROUP BY fingerprint HAVING count(*) > $1 LIMIT 100";
    const PAYMENTS: &str = "
        SELECT fingerprint, min(reason) AS reason, count(*) AS count
        FROM dead_letters JOIN webhook_events event ON event.id = event_id
        WHERE resolved_at IS NULL
            AND (type LIKE 'payment_intent.%' OR type LIKE 'charge.%' OR type LIKE 'checkout.session.%' OR type LIKE 'refund.%')
        GROUP BY fingerprint LIMIT 100";
    const NUMBERS: &str = "
        SELECT (SELECT extract(epoch FROM now() - min(received_at))::float8 FROM webhook_events
                WHERE state = 'received' AND budget_from = 0) AS backlog_age_s,
            (SELECT count(*) FROM (SELECT FROM webhook_events
                WHERE received_at > now() - interval '1 hour' AND livemode = NOT $1 LIMIT 1) AS one) AS wrong_mode,
            (SELECT count(*) FROM (SELECT FROM webhook_events
                WHERE rescues > 0 AND rescue_from > now() - interval '1 day' LIMIT 1) AS one) AS rescued,
            (SELECT count(*) FROM (SELECT FROM reconciliations WHERE scheduled AND state = 'failed' AND started_at > coalesce(
                (SELECT max(started_at) FROM reconciliations WHERE scheduled AND state = 'finished'), '-infinity')
                LIMIT 3) AS few) AS failed_reconciliations,
            (SELECT extract(epoch FROM now() - max(received_at))::float8 FROM webhook_events) AS quiet_s,
            (SELECT 14400 / nullif(sum(came), 0)::float8 FROM generate_series(1, 4) week, LATERAL (
                SELECT count(*) AS came FROM webhook_events
                WHERE received_at >= date_trunc('hour', now()) - week * interval '7 days'
                    AND received_at < date_trunc('hour', now()) - week * interval '7 days' + interval '1 hour'
            ) AS hour) AS usual_gap_s";
    let numbers = query_opt(tx, NUMBERS, &[&livemode])
        .await?
        .ok_or(StoreError::Rejected("numbers without a row"))?;
    Ok(Measured {
        growing: groups(&query(tx, GROWING, &[&MANY_FAILURES]).await?),
        payments: groups(&query(tx, PAYMENTS, &[]).await?),
        backlog_age_s: numbers
            .get::<_, Option<f64>>("backlog_age_s")
            .unwrap_or(0.0),
        wrong_mode: numbers.get("wrong_mode"),
        rescued: numbers.get("rescued"),
        failed_reconciliations: numbers.get("failed_reconciliations"),
        quiet_s: numbers.get("quiet_s"),
        usual_gap_s: numbers.get("usual_gap_s"),
    })
}

fn groups(rows: &[Row]) -> Vec<Group> {
    let group = |row: &Row| Group {
        fingerprint: row.get("fingerprint"),
        reason: row.get("reason"),
        count: row.get("count"),
    };
    rows.iter().map(group).collect()
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
) -> Result<Vec<Notice>, StoreError> {
    const UNTOLD: &str = "
        SELECT 'alert/' || id AS name, kind, key, message FROM alerts
        WHERE raised_at > now() - interval '1 day' AND EXISTS (
            SELECT FROM unnest($1::text[]) channel WHERE NOT EXISTS (
                SELECT FROM alert_notices told WHERE told.channel = channel.channel AND told.name = 'alert/' || alerts.id))
        ORDER BY id LIMIT 100";
    let notice = |row: &Row| {
        let (kind, key, message): (&str, &str, &str) =
            (row.get("kind"), row.get("key"), row.get("message"));
        Notice {
            name: row.get("name"),
            subject: format!("[decide] {kind}: {message}"),
            body: format!("{kind} of {key}: {message}"),
        }
    };
    let rows = query(tx, UNTOLD, &[&channels]).await?;
    Ok(rows.iter().map(notice).collect())
}

/// Whether a notice of this name stands in the queue of every channel.
pub async fn is_queued(
    tx: &Transaction<'_>,
    channels: &[&'static str],
    name: &str,
) -> Result<bool, StoreError> {
    const QUEUED: &str = "
        SELECT count(*) = cardinality($1::text[]) FROM alert_notices WHERE channel = ANY($1) AND name = $2";
    let row = query_opt(tx, QUEUED, &[&channels, &name]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Queues notices on every channel, each once.
pub async fn queue(
    tx: &Transaction<'_>,
    channels: &[&'static str],
    notices: &[Notice],
) -> Result<(), StoreError> {
    const QUEUE: &str = "
        INSERT INTO alert_notices (channel, name, subject, body) SELECT channel, $2, $3, $4 FROM unnest($1::text[]) channel
        ON CONFLICT ON CONSTRAINT alert_notices_once DO NOTHING";
    for Notice {
        name,
        subject,
        body,
    } in notices
    {
        execute(tx, QUEUE, &[&channels, name, subject, body]).await?;
    }
    Ok(())
}

/// A day in numbers, as text.
pub async fn summary(tx: &Transaction<'_>, day: &str) -> Result<String, StoreError> {
    const SUMMARY: &str = "
        WITH day AS (
            SELECT $1::text::date AT TIME ZONE 'UTC' AS first, ($1::text::date + 1) AT TIME ZONE 'UTC' AS behind
        ), event AS (
            SELECT state, finished_at - received_at AS took FROM webhook_events, day
            WHERE received_at >= first AND received_at < behind
        )
        SELECT format(E'%s received: %s processed, %s ignored, %s dead, %s discarded, %s under way\n', count(*),
                count(*) FILTER (WHERE state = 'processed'), count(*) FILTER (WHERE state = 'ignored'),
                count(*) FILTER (WHERE state = 'dead'), count(*) FILTER (WHERE state = 'discarded'),
                count(*) FILTER (WHERE state IN ('received', 'retrying')))
            || format(E'%s s from receipt to the final state for 95 of 100\n',
                round(coalesce(extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY took)), 0), 3))
            || (SELECT format(E'%s replayed by %s replays\n', coalesce(sum(cursor - skipped), 0), count(*)) FROM replays, day
                WHERE created_at >= first AND created_at < behind)
            || (SELECT coalesce(string_agg(format(E'  replay %s by %s: %s, %s of %s processed\n', id, created_by, state,
                    processed, planned_count), '' ORDER BY id), '') FROM replays, day
                WHERE created_at >= first AND created_at < behind)
            || (SELECT format(E'%s dead letters open in %s groups\n', count(*), count(DISTINCT fingerprint))
                FROM dead_letters WHERE resolved_at IS NULL)
        FROM event";
    let row = query_opt(tx, SUMMARY, &[&day])
        .await?
        .ok_or(StoreError::Rejected("a summary without a row"))?;
    Ok(row.get(0))
}

/// Takes a notice that is due, for a minute: a worker that dies meanwhile leaves it to the others.
pub async fn claim(
    client: &impl GenericClient,
    channels: &[&'static str],
) -> Result<Option<QueuedNotice>, StoreError> {
    const CLAIM: &str = "
        WITH due AS (
            SELECT id FROM alert_notices WHERE status = 'queued' AND due_at <= now() AND channel = ANY($1)
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
    Ok(query_opt(client, CLAIM, &[&channels]).await?.map(notice))
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
