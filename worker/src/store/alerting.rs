//! What alert rules look at, where alerts stand, and what is told of them.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use shared::database::{StoreError, execute, query, query_opt};
use tokio_postgres::Row;

use crate::alerting::rules::{
    Group, Known, MANY_FAILURES, MOST_COUNTED, Measured, News, Unverified,
};
use crate::alerting::summary::{Day, Events, Moved, Replay};

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

/// Makes this transaction the only one that does a duty, and gives the database's clock. None while another does it.
pub async fn try_lock(tx: &Transaction<'_>, duty: &str) -> Result<Option<Timestamp>, StoreError> {
    const LOCK: &str =
        "SELECT clock_timestamp() WHERE pg_try_advisory_xact_lock(hashtextextended($1, 0))";
    let name = format!("tollgate {duty}");
    Ok(query_opt(tx, LOCK, &[&name]).await?.map(|row| row.get(0)))
}

/// All that the rules look at. Each query reads a bounded number of rows, however many there are.
pub async fn measure(tx: &Transaction<'_>, livemode: bool) -> Result<Measured, StoreError> {
    const GROWING: &str = "
        SELECT fingerprint, min(reason) AS reason, least(count(*), $2) AS count FROM (
            SELECT fingerprint, reason FROM dead_letters
            WHERE resolved_at IS NULL AND died_at > now() - interval '1 hour' ORDER BY died_at DESC LIMIT 10000) AS recent
        GROUP BY fingerprint HAVING count(*) > $1 ORDER BY fingerprint LIMIT 100";
    // One step of the index per group. The letters of a group are of one handler, so its newest ones tell what it is.
    const PAYMENTS: &str = "
        WITH RECURSIVE known AS (
            (SELECT fingerprint FROM dead_letters WHERE resolved_at IS NULL ORDER BY fingerprint LIMIT 1)
            UNION ALL
            SELECT (SELECT fingerprint FROM dead_letters
                WHERE resolved_at IS NULL AND fingerprint > known.fingerprint ORDER BY fingerprint LIMIT 1)
            FROM known WHERE known.fingerprint IS NOT NULL
        )
        SELECT known.fingerprint, min(letter.reason) AS reason, count(*) AS count
        FROM (SELECT fingerprint FROM known WHERE fingerprint IS NOT NULL LIMIT 100) AS known, LATERAL (
            SELECT event_id, reason FROM dead_letters
            WHERE resolved_at IS NULL AND fingerprint = known.fingerprint ORDER BY died_at DESC LIMIT $1) AS letter
        JOIN webhook_events event ON event.id = letter.event_id
        WHERE type LIKE 'payment_intent.%' OR type LIKE 'charge.%' OR type LIKE 'checkout.session.%' OR type LIKE 'refund.%'
        GROUP BY known.fingerprint";
    const UNVERIFIED: &str = "
        SELECT cause, coalesce(sum(count) FILTER (WHERE at > now() - interval '5 minutes'), 0)::bigint AS recently,
            sum(count)::bigint AS lately
        FROM rejections
        WHERE at > now() - interval '1 hour' AND (cause LIKE 'signature%' OR cause = 'rate_limited')
        GROUP BY cause ORDER BY cause";
    Ok(Measured {
        growing: groups(&query(tx, GROWING, &[&MANY_FAILURES, &MOST_COUNTED]).await?),
        payments: groups(&query(tx, PAYMENTS, &[&MOST_COUNTED]).await?),
        unverified: query(tx, UNVERIFIED, &[])
            .await?
            .iter()
            .map(unverified)
            .collect(),
        ..numbers(tx, livemode).await?
    })
}

async fn numbers(tx: &Transaction<'_>, livemode: bool) -> Result<Measured, StoreError> {
    // What waits is found by when its message went out, of which there is an index of its own. A usual hour is counted
    // up to one event a second: less often matters only.
    const NUMBERS: &str = "
        SELECT (SELECT extract(epoch FROM now() - min(received_at))::float8 FROM (
                SELECT received_at, state, budget_from FROM webhook_events WHERE state IN ('received', 'retrying')
                ORDER BY rescue_from LIMIT 10000) AS waiting
                WHERE state = 'received' AND budget_from = 0) AS backlog_age_s,
            (SELECT count(*) FROM (SELECT FROM webhook_events
                WHERE state = 'ignored' AND livemode = NOT $1 AND received_at > now() - interval '1 hour' LIMIT 1) AS one)
                AS wrong_mode,
            (SELECT count(*) FROM (SELECT FROM webhook_events
                WHERE rescues > 0 AND rescue_from > now() - interval '1 day' LIMIT 1) AS one) AS rescued,
            (SELECT count(*) FROM (SELECT FROM reconciliations WHERE scheduled AND state = 'failed' AND started_at > coalesce(
                (SELECT max(started_at) FROM reconciliations WHERE scheduled AND state = 'finished'), '-infinity')
                LIMIT 3) AS few) AS failed_reconciliations,
            (SELECT extract(epoch FROM now() - max(received_at))::float8 FROM webhook_events) AS quiet_s,
            (SELECT 14400 / nullif(sum(came), 0)::float8 FROM generate_series(1, 4) week, LATERAL (
                SELECT count(*) AS came FROM (
                    SELECT FROM webhook_events
                    WHERE received_at >= date_trunc('hour', now()) - week * interval '7 days'
                        AND received_at < date_trunc('hour', now()) - week * interval '7 days' + interval '1 hour'
                    LIMIT 3600) AS few
            ) AS hour) AS usual_gap_s";
    let numbers = query_opt(tx, NUMBERS, &[&livemode])
        .await?
        .ok_or(StoreError::Rejected("numbers without a row"))?;
    let age: Option<f64> = numbers.get("backlog_age_s");
    Ok(Measured {
        backlog_age_s: age.unwrap_or(0.0),
        wrong_mode: numbers.get("wrong_mode"),
        rescued: numbers.get("rescued"),
        failed_reconciliations: numbers.get("failed_reconciliations"),
        quiet_s: numbers.get("quiet_s"),
        usual_gap_s: numbers.get("usual_gap_s"),
        ..Measured::default()
    })
}

fn unverified(row: &Row) -> Unverified {
    Unverified {
        cause: row.get("cause"),
        recently: row.get("recently"),
        lately: row.get("lately"),
    }
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
        ORDER BY id LIMIT 50";
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

/// Lets this transaction's statements take longer: a day may be large.
pub async fn take_time(tx: &Transaction<'_>) -> Result<(), StoreError> {
    Ok(tx
        .batch_execute("SET LOCAL statement_timeout = '60s'")
        .await?)
}

/// A day of UTC in numbers.
pub async fn day(tx: &Transaction<'_>, day: &str) -> Result<Day, StoreError> {
    const MONEY: &str = "
        SELECT currency, sum(captured_cents)::bigint, sum(refunded_cents)::bigint FROM money_moves
        WHERE at >= $1::text::date AT TIME ZONE 'UTC' AND at < ($1::text::date + 1) AT TIME ZONE 'UTC'
        GROUP BY currency ORDER BY currency";
    const REJECTED: &str = "
        SELECT cause, sum(count)::bigint FROM rejections
        WHERE at >= $1::text::date AT TIME ZONE 'UTC' AND at < ($1::text::date + 1) AT TIME ZONE 'UTC'
        GROUP BY cause ORDER BY 2 DESC, cause";
    const RETRIED: &str = "
        SELECT actor, count(*) FROM audit_log
        WHERE at >= $1::text::date AT TIME ZONE 'UTC' AND at < ($1::text::date + 1) AT TIME ZONE 'UTC'
            AND action IN ('event.retry', 'dead_letters.replay')
        GROUP BY actor ORDER BY 2 DESC, actor LIMIT 50";
    const OPEN: &str =
        "SELECT count(*), count(DISTINCT fingerprint) FROM dead_letters WHERE resolved_at IS NULL";
    let moved = |row: &Row| Moved {
        currency: row.get(0),
        captured_cents: row.get(1),
        refunded_cents: row.get(2),
    };
    let counted = |row: &Row| (row.get(0), row.get(1));
    let open = query_opt(tx, OPEN, &[]).await?;
    Ok(Day {
        events: events(tx, day).await?,
        money: query(tx, MONEY, &[&day]).await?.iter().map(moved).collect(),
        rejected: query(tx, REJECTED, &[&day])
            .await?
            .iter()
            .map(counted)
            .collect(),
        replays: replays(tx, day).await?,
        retried: query(tx, RETRIED, &[&day])
            .await?
            .iter()
            .map(counted)
            .collect(),
        open: open.map_or((0, 0), |row| (row.get(0), row.get(1))),
    })
}

async fn events(tx: &Transaction<'_>, day: &str) -> Result<Events, StoreError> {
    const EVENTS: &str = "
        SELECT count(*) AS received, count(*) FILTER (WHERE state = 'processed') AS processed,
            count(*) FILTER (WHERE state = 'ignored') AS ignored, count(*) FILTER (WHERE state = 'dead') AS dead,
            count(*) FILTER (WHERE state = 'discarded') AS discarded,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - received_at)::float8)
                FILTER (WHERE state = 'processed') AS p95_s
        FROM webhook_events
        WHERE received_at >= $1::text::date AT TIME ZONE 'UTC' AND received_at < ($1::text::date + 1) AT TIME ZONE 'UTC'";
    let row = query_opt(tx, EVENTS, &[&day])
        .await?
        .ok_or(StoreError::Rejected("a count without a row"))?;
    Ok(Events {
        received: row.get("received"),
        processed: row.get("processed"),
        ignored: row.get("ignored"),
        dead: row.get("dead"),
        discarded: row.get("discarded"),
        p95_s: row.get("p95_s"),
    })
}

async fn replays(tx: &Transaction<'_>, day: &str) -> Result<Vec<Replay>, StoreError> {
    const REPLAYS: &str = "
        SELECT id, created_by, state, planned_count::bigint AS planned, (cursor - skipped)::bigint AS put_back,
            processed::bigint AS processed
        FROM replays
        WHERE created_at >= $1::text::date AT TIME ZONE 'UTC' AND created_at < ($1::text::date + 1) AT TIME ZONE 'UTC'
        ORDER BY id LIMIT 50";
    let replay = |row: &Row| Replay {
        id: row.get("id"),
        by: row.get("created_by"),
        state: row.get("state"),
        planned: row.get("planned"),
        put_back: row.get("put_back"),
        processed: row.get("processed"),
    };
    let rows = query(tx, REPLAYS, &[&day]).await?;
    Ok(rows.iter().map(replay).collect())
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
