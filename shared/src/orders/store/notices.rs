//! Mails, queued in the transaction of the effect that they tell of.

use deadpool_postgres::Transaction;
use tokio_postgres::types::Json;

use super::super::{Notice, NoticeItem, NoticeKind, Order};
use crate::database::{StoreError, execute};

/// What any mail about an order tells.
pub fn notice(order: &Order) -> Notice {
    let items = order.items.iter().map(|item| NoticeItem {
        name: item.name.clone(),
        quantity: item.quantity,
    });
    Notice {
        items: items.collect(),
        ..Notice::about(order.id.clone(), &order.amount)
    }
}

/// A mail about an order.
pub struct Mail {
    /// Which mail.
    pub kind: NoticeKind,
    /// What tells it from other mails of its kind for the same order.
    pub key: String,
    /// What it tells.
    pub notice: Notice,
}

/// Queues a mail; once per order, kind and key.
pub async fn queue_mail(
    tx: &Transaction<'_>,
    order: &Order,
    mail: &Mail,
) -> Result<(), StoreError> {
    const QUEUE: &str = "
        INSERT INTO emails (order_id, kind, key, recipient, content) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (coalesce(order_id, ''), kind, key) DO NOTHING";
    let (kind, content) = (mail.kind.as_str(), Json(&mail.notice));
    execute(
        tx,
        QUEUE,
        &[&order.id, &kind, &mail.key, &order.email, &content],
    )
    .await?;
    Ok(())
}
