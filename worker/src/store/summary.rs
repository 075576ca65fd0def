//! What the daily summary counts.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use shared::database::{StoreError, query, query_opt};
use tokio_postgres::Row;

use crate::alerting::charges::Moved;
use crate::alerting::summary::{Day, Events, Replay};

/// Lets this transaction's statements take longer: a day may be large.
pub async fn take_time(tx: &Transaction<'_>) -> Result<(), StoreError> {
    Ok(tx
        .batch_execute("SET LOCAL statement_timeout = '60s'")
        .await?)
}

/// A day in numbers.
pub async fn day(tx: &Transaction<'_>, from: Timestamp, to: Timestamp) -> Result<Day, StoreError> {
    const MONEY: &str = "
        SELECT currency, sum(captured_cents)::bigint, sum(refunded_cents)::bigint FROM money_moves
        WHERE at >= $1 AND at < $2 GROUP BY currency ORDER BY currency";
    const REJECTED: &str = "
        SELECT cause, sum(count)::bigint FROM rejections
        WHERE at >= $1 AND at < $2 GROUP BY cause ORDER BY 2 DESC, cause";
    const RETRIED: &str = "
        SELECT actor, count(*) FROM audit_log
        WHERE at >= $1 AND at < $2 AND action IN ('event.retry', 'dead_letters.replay')
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
        events: events(tx, from, to).await?,
        money: query(tx, MONEY, &[&from, &to])
            .await?
            .iter()
            .map(moved)
            .collect(),
        rejected: query(tx, REJECTED, &[&from, &to])
            .await?
            .iter()
            .map(counted)
            .collect(),
        replays: replays(tx, from, to).await?,
        retried: query(tx, RETRIED, &[&from, &to])
            .await?
            .iter()
            .map(counted)
            .collect(),
        open: open.map_or((0, 0), |row| (row.get(0), row.get(1))),
    })
}

/// What is kept of these payments at Stripe, by their references.
pub async fn payments(
    tx: &Transaction<'_>,
    references: &[&str],
) -> Result<HashMap<String, Moved>, StoreError> {
    const PAYMENTS: &str = "
        SELECT provider_payment_ref, currency, CASE WHEN succeeded THEN amount_cents ELSE 0 END AS captured_cents,
            refunded_cents
        FROM payments WHERE provider = 'stripe' AND provider_payment_ref = ANY($1)";
    let payment = |row: &Row| {
        let moved = Moved {
            currency: row.get("currency"),
            captured_cents: row.get("captured_cents"),
            refunded_cents: row.get("refunded_cents"),
        };
        (row.get("provider_payment_ref"), moved)
    };
    let rows = query(tx, PAYMENTS, &[&references]).await?;
    Ok(rows.iter().map(payment).collect())
}

async fn events(
    tx: &Transaction<'_>,
    from: Timestamp,
    to: Timestamp,
) -> Result<Events, StoreError> {
    const EVENTS: &str = "
        SELECT count(*) AS received, count(*) FILTER (WHERE state = 'processed') AS processed,
            count(*) FILTER (WHERE state = 'ignored') AS ignored, count(*) FILTER (WHERE state = 'dead') AS dead,
            count(*) FILTER (WHERE state = 'discarded') AS discarded,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - received_at)::float8)
                FILTER (WHERE state = 'processed') AS p95_s
        FROM webhook_events
        WHERE received_at >= $1 AND received_at < $2";
    let row = query_opt(tx, EVENTS, &[&from, &to])
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

async fn replays(
    tx: &Transaction<'_>,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<Replay>, StoreError> {
    const REPLAYS: &str = "
        SELECT id, created_by, state, planned_count::bigint AS planned, (cursor - skipped)::bigint AS put_back,
            processed::bigint AS processed
        FROM replays
        WHERE created_at >= $1 AND created_at < $2
        ORDER BY id LIMIT 50";
    let replay = |row: &Row| Replay {
        id: row.get("id"),
        by: row.get("created_by"),
        state: row.get("state"),
        planned: row.get("planned"),
        put_back: row.get("put_back"),
        processed: row.get("processed"),
    };
    let rows = query(tx, REPLAYS, &[&from, &to]).await?;
    Ok(rows.iter().map(replay).collect())
}
