//! Mails to send.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use shared::database::{StoreError, execute, query};
use shared::orders::{Notice, NoticeKind};
use tokio_postgres::types::Json;

/// A mail to send.
pub struct Email {
    /// The row's id.
    pub id: i64,
    /// Which mail; none where this version does not know it.
    pub kind: Option<NoticeKind>,
    /// What tells it from other mails of its kind for the same order.
    pub key: String,
    /// To whom.
    pub recipient: String,
    /// What it tells; an error where this version cannot read it.
    pub notice: Result<Notice, String>,
    /// How many times it was tried, this one included.
    pub attempt: i32,
}

/// Takes mails that are due, for a minute: a worker that dies meanwhile leaves them to the others, with the same
/// Message-ID.
pub async fn claim(client: &impl GenericClient, most: i64) -> Result<Vec<Email>, StoreError> {
    const CLAIM: &str = "
        WITH due AS (
            SELECT id FROM emails WHERE status = 'queued' AND due_at <= now()
            ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
        )
        UPDATE emails email SET due_at = now() + interval '1 minute', attempts = attempts + 1
        FROM due WHERE email.id = due.id
        RETURNING email.id, kind, key, recipient, content, attempts";
    let rows = query(client, CLAIM, &[&most]).await?;
    Ok(rows
        .iter()
        .map(|row| Email {
            id: row.get("id"),
            kind: NoticeKind::parse(row.get("kind")),
            key: row.get("key"),
            recipient: row.get("recipient"),
            notice: row
                .try_get("content")
                .map(|Json(notice)| notice)
                .map_err(|error| error.to_string()),
            attempt: row.get("attempts"),
        })
        .collect())
}

/// The server took them.
pub async fn sent(client: &impl GenericClient, ids: &[i64]) -> Result<(), StoreError> {
    const SENT: &str = "
        UPDATE emails SET status = 'sent', sent_at = now(), last_error = NULL
        WHERE id = ANY($1) AND status = 'queued'";
    execute(client, SENT, &[&ids]).await?;
    Ok(())
}

/// It is tried again later.
pub async fn retry_later(
    client: &impl GenericClient,
    id: i64,
    error: &str,
    after: Duration,
) -> Result<(), StoreError> {
    const RETRY: &str = "
        UPDATE emails SET due_at = now() + make_interval(secs => $3), last_error = $2
        WHERE id = $1 AND status = 'queued'";
    execute(client, RETRY, &[&id, &error, &after.as_secs_f64()]).await?;
    Ok(())
}

/// It is not tried any more.
pub async fn failed(client: &impl GenericClient, id: i64, error: &str) -> Result<(), StoreError> {
    const FAILED: &str =
        "UPDATE emails SET status = 'failed', last_error = $2 WHERE id = $1 AND status = 'queued'";
    execute(client, FAILED, &[&id, &error]).await?;
    Ok(())
}
