//! Webhooks that gateways refused: counted by cause, with samples.

use std::net::IpAddr;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use shared::database::{StoreError, query};
use tokio_postgres::Row;

use crate::page::Cursor;

/// What was refused for one cause within some seconds; the first of it is the sample.
#[derive(Debug, Serialize)]
pub struct Rejection {
    /// Its place in the list.
    pub id: String,
    /// When it was stored, some seconds after it was refused.
    pub at: Timestamp,
    /// A fixed word, as in the metrics.
    pub cause: String,
    /// How many.
    pub count: i64,
    /// Who sent the sample.
    pub client: IpAddr,
    /// SHA-256 of the sample's body, in hex, where it was read.
    pub body_sha256: Option<String>,
    /// The size of that body.
    pub body_bytes: Option<i32>,
}

/// Lists rejections, newest first, from behind a place on.
pub async fn list(
    client: &impl GenericClient,
    (cause, since): (Option<&str>, Option<Timestamp>),
    behind: Option<&Cursor>,
    limit: i64,
) -> Result<Vec<Rejection>, StoreError> {
    const LIST: &str = "
        SELECT id, at, cause, count, client, encode(body_sha256, 'hex') AS body_sha256, body_bytes FROM rejections
        WHERE ($1::text IS NULL OR cause = $1) AND ($2::timestamptz IS NULL OR at >= $2)
            AND ($3::timestamptz IS NULL OR (at, id) < ($3, $4))
        ORDER BY at DESC, id DESC LIMIT $5";
    let (at, id) = (
        behind.map(|cursor| cursor.at),
        behind.map(|cursor| cursor.id.as_str()),
    );
    let rows = query(client, LIST, &[&cause, &since, &at, &id, &limit]).await?;
    Ok(rows.iter().map(rejection).collect())
}

fn rejection(row: &Row) -> Rejection {
    Rejection {
        id: row.get("id"),
        at: row.get("at"),
        cause: row.get("cause"),
        count: row.get("count"),
        client: row.get("client"),
        body_sha256: row.get("body_sha256"),
        body_bytes: row.get("body_bytes"),
    }
}

/// How many webhooks were refused for a cause.
#[derive(Debug)]
pub struct Total {
    /// A fixed word.
    pub cause: String,
    /// Within the last hour.
    pub hour: i64,
    /// Within the last day.
    pub day: i64,
    /// When the last one was stored.
    pub last_at: Timestamp,
}

/// What was refused within the last day, by cause.
pub async fn totals(client: &impl GenericClient) -> Result<Vec<Total>, StoreError> {
    const TOTALS: &str = "
        SELECT cause, sum(count)::bigint AS day, max(at) AS last_at,
            coalesce(sum(count) FILTER (WHERE at > now() - interval '1 hour'), 0)::bigint AS hour
        FROM rejections WHERE at > now() - interval '1 day' GROUP BY cause ORDER BY day DESC, cause";
    let total = |row: &Row| Total {
        cause: row.get("cause"),
        hour: row.get("hour"),
        day: row.get("day"),
        last_at: row.get("last_at"),
    };
    Ok(query(client, TOTALS, &[])
        .await?
        .iter()
        .map(total)
        .collect())
}
