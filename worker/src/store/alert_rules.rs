//! What alert rules look at.

use deadpool_postgres::Transaction;
use shared::database::{StoreError, query, query_opt};
use tokio_postgres::Row;

use crate::alerting::measured::{Group, MOST_COUNTED, Measured, Unverified};
use crate::alerting::rules::{FEW_RETRIED, LEAST_QUIET_S};

/// All that the rules look at. Each query reads a bounded number of rows, however many there are.
pub async fn measure(tx: &Transaction<'_>, livemode: bool) -> Result<Measured, StoreError> {
    let (quiet_s, usual_gap_s) = silence(tx).await?;
    Ok(Measured {
        quiet_s,
        usual_gap_s,
        unverified: unverified(tx).await?,
        failures: failures(tx).await?,
        payments: payments(tx).await?,
        recurred: recurred(tx).await?,
        ..numbers(tx, livemode).await?
    })
}

async fn failures(tx: &Transaction<'_>) -> Result<Vec<Group>, StoreError> {
    const FAILURES: &str = "
        SELECT fingerprint, min(reason) AS reason, count(*) AS count, bool_or(acknowledged) AS acknowledged FROM (
            SELECT fingerprint, reason, acknowledged FROM pressing_dead_letters
            WHERE died_at > now() - interval '1 hour' ORDER BY died_at DESC LIMIT $1) AS recent
        GROUP BY fingerprint ORDER BY 3 DESC, 1";
    Ok(groups(&query(tx, FAILURES, &[&MOST_COUNTED]).await?))
}

async fn payments(tx: &Transaction<'_>) -> Result<Vec<Group>, StoreError> {
    // One step of the index per group, and in each only what calls for somebody: as `pressing_dead_letters` has it.
    const PAYMENTS: &str = "
        WITH RECURSIVE known AS (
            (SELECT fingerprint FROM dead_letters WHERE about_money AND resolved_at IS NULL ORDER BY fingerprint LIMIT 1)
            UNION ALL
            SELECT (SELECT fingerprint FROM dead_letters
                WHERE about_money AND resolved_at IS NULL AND fingerprint > known.fingerprint ORDER BY fingerprint LIMIT 1)
            FROM known WHERE known.fingerprint IS NOT NULL
        )
        SELECT known.fingerprint, min(reason) AS reason, count(*) AS count,
            coalesce(bool_or(known.state = 'acknowledged'), false) AS acknowledged
        FROM (SELECT known.fingerprint, kept.state, kept.changed_at
            FROM known LEFT JOIN dead_letter_groups kept ON kept.fingerprint = known.fingerprint
            WHERE known.fingerprint IS NOT NULL AND kept.state IS DISTINCT FROM 'ignored' LIMIT 1000) AS known, LATERAL (
            SELECT reason FROM dead_letters letter
            WHERE about_money AND resolved_at IS NULL AND letter.fingerprint = known.fingerprint
                AND died_at > CASE WHEN known.state = 'resolved' THEN known.changed_at ELSE '-infinity' END
            ORDER BY died_at DESC LIMIT $1) AS letter
        GROUP BY known.fingerprint";
    Ok(groups(&query(tx, PAYMENTS, &[&MOST_COUNTED]).await?))
}

async fn recurred(tx: &Transaction<'_>) -> Result<Vec<Group>, StoreError> {
    const RECURRED: &str = "
        SELECT kept.fingerprint, min(reason) AS reason, count(*) AS count, false AS acknowledged
        FROM (SELECT fingerprint, changed_at FROM dead_letter_groups WHERE state = 'resolved' ORDER BY changed_at DESC LIMIT 1000) AS kept,
            LATERAL (
                SELECT reason FROM dead_letters letter
                WHERE resolved_at IS NULL AND letter.fingerprint = kept.fingerprint AND died_at > kept.changed_at LIMIT $1)
                AS letter
        GROUP BY kept.fingerprint ORDER BY 1 LIMIT 100";
    Ok(groups(&query(tx, RECURRED, &[&MOST_COUNTED]).await?))
}

async fn unverified(tx: &Transaction<'_>) -> Result<Vec<Unverified>, StoreError> {
    const UNVERIFIED: &str = "
        SELECT cause, coalesce(sum(count) FILTER (WHERE at > now() - interval '5 minutes'), 0)::bigint AS recently,
            sum(count)::bigint AS lately
        FROM rejections
        WHERE at > now() - interval '1 hour' AND (cause LIKE 'signature%' OR cause = 'rate_limited')
        GROUP BY cause ORDER BY cause";
    let cause = |row: &Row| Unverified {
        cause: row.get("cause"),
        recently: row.get("recently"),
        lately: row.get("lately"),
    };
    Ok(query(tx, UNVERIFIED, &[])
        .await?
        .iter()
        .map(cause)
        .collect())
}

async fn numbers(tx: &Transaction<'_>, livemode: bool) -> Result<Measured, StoreError> {
    // What waits is found by when its message went out, of which there is an index of its own. Retried events count from
    // the sixth on: a few are their own fault, more are everybody's.
    const NUMBERS: &str = "
        WITH waiting AS (
            SELECT received_at, state FROM (
                SELECT received_at, state, budget_from FROM webhook_events WHERE state IN ('received', 'retrying')
                ORDER BY rescue_from LIMIT 10000) AS first
            WHERE budget_from = 0
        )
        SELECT extract(epoch FROM now() - least(
                (SELECT min(received_at) FROM waiting WHERE state = 'received'),
                (SELECT received_at FROM waiting WHERE state = 'retrying' ORDER BY received_at OFFSET $3 LIMIT 1)
            ))::float8 AS backlog_age_s,
            (SELECT count(*) FROM (SELECT FROM webhook_events
                WHERE state = 'ignored' AND livemode = NOT $1 AND received_at > now() - interval '1 hour' LIMIT 1) AS one)
                AS wrong_mode,
            (SELECT count(*) FROM (SELECT FROM webhook_events
                WHERE rescues > 0 AND rescue_from > now() - interval '1 day' LIMIT $2) AS few) AS rescued,
            (SELECT count(*) FROM (SELECT FROM reconciliations WHERE scheduled AND state = 'failed' AND started_at > coalesce(
                (SELECT started_at FROM reconciliations WHERE state = 'finished' ORDER BY id DESC LIMIT 1), '-infinity')
                LIMIT 3) AS few) AS failed_reconciliations";
    let numbers = query_opt(tx, NUMBERS, &[&livemode, &MOST_COUNTED, &FEW_RETRIED])
        .await?
        .ok_or(StoreError::Rejected("numbers without a row"))?;
    let age: Option<f64> = numbers.get("backlog_age_s");
    Ok(Measured {
        backlog_age_s: age.unwrap_or(0.0).max(0.0),
        wrong_mode: numbers.get("wrong_mode"),
        rescued: numbers.get("rescued"),
        failed_reconciliations: numbers.get("failed_reconciliations"),
        ..Measured::default()
    })
}

/// How long Stripe has delivered nothing, and after a while also how often it does at such a time. What reconciling
/// imported is no delivery, unless its webhook came too.
async fn silence(tx: &Transaction<'_>) -> Result<(Option<f64>, Option<f64>), StoreError> {
    // Each hour of the silence, of the last day at the most, is held against the same hour four weeks long, by the share
    // of it that was silent: traffic that begins with an hour is not missed before it. An hour is counted up to one event
    // in nine seconds: less often matters only.
    const SILENCE: &str = "
        SELECT quiet_s, CASE WHEN quiet_s > $1 THEN (
            SELECT least(quiet_s, 86400) * 4 / nullif(sum(hour.share * few.came), 0) FROM (
                SELECT starts, extract(epoch FROM least(now(), starts + interval '1 hour')
                    - greatest(starts, now() - least(quiet_s, 86400) * interval '1 second'))::float8 / 3600 AS share
                FROM (SELECT date_trunc('hour', now()) - ago * interval '1 hour' AS starts
                    FROM generate_series(0, 24) ago) AS hours OFFSET 0
            ) AS hour, generate_series(1, 4) week, LATERAL (
                SELECT count(*) AS came FROM (
                    SELECT FROM webhook_events event LEFT JOIN reconciled_events ON event_id = event.id
                    WHERE received_at >= hour.starts - week * interval '7 days'
                        AND received_at < hour.starts - week * interval '7 days' + interval '1 hour'
                        AND (event_id IS NULL OR deliveries > 1)
                    LIMIT 400) AS counted) AS few
            WHERE hour.share > 0) END AS usual_gap_s
        FROM (SELECT extract(epoch FROM now() - coalesce((
                SELECT received_at FROM (
                    SELECT id, received_at, deliveries FROM webhook_events ORDER BY received_at DESC, id DESC LIMIT 10000)
                    AS newest LEFT JOIN reconciled_events ON event_id = newest.id
                WHERE event_id IS NULL OR deliveries > 1 ORDER BY received_at DESC LIMIT 1
            ), (SELECT min(received_at) FROM (
                SELECT received_at FROM webhook_events ORDER BY received_at DESC, id DESC LIMIT 10000) AS newest
            )))::float8 AS quiet_s) AS quiet";
    let row = query_opt(tx, SILENCE, &[&LEAST_QUIET_S]).await?;
    Ok(row.map_or((None, None), |row| {
        (row.get("quiet_s"), row.get("usual_gap_s"))
    }))
}

fn groups(rows: &[Row]) -> Vec<Group> {
    let group = |row: &Row| Group {
        fingerprint: row.get("fingerprint"),
        reason: row.get("reason"),
        count: row.get("count"),
        acknowledged: row.get("acknowledged"),
    };
    rows.iter().map(group).collect()
}
