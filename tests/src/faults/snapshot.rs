//! Reads what a run left behind.

use tokio_postgres::Client;

use crate::checker::{AttemptRow, EventRow, MailRow, OrderRow, Snapshot};

const ORDERS: &str = "
    SELECT o.id, o.status,
        (SELECT count(*) FROM registrations r WHERE r.order_id = o.id),
        (SELECT count(*) FROM registrations r WHERE r.order_id = o.id AND r.status = 'active'),
        (SELECT count(*) FROM tickets t WHERE t.order_id = o.id AND t.status = 'valid'),
        (SELECT count(*) FROM (SELECT FROM tickets t WHERE t.order_id = o.id AND t.status = 'valid'
            GROUP BY t.registration_id HAVING count(*) > 1) doubled),
        (SELECT coalesce(sum(p.amount_cents) FILTER (WHERE p.succeeded), 0)::bigint FROM payments p WHERE p.order_id = o.id),
        (SELECT coalesce(sum(p.refunded_cents), 0)::bigint FROM payments p WHERE p.order_id = o.id)
    FROM orders o";

const OVERSOLD: &str = "
    SELECT p.id FROM products p WHERE p.capacity <
        (SELECT count(*) FROM registrations r WHERE r.product_id = p.id AND r.status = 'active')";

/// Reads all tables that the checker looks at. `mails` are what a mail server took, headers and all.
pub async fn read(db: &Client, mails: Option<Vec<String>>) -> Snapshot {
    let rows = async |sql: &str| db.query(sql, &[]).await.unwrap();
    let events = rows("SELECT id, state, attempts::bigint FROM webhook_events").await;
    let attempts = rows("SELECT event_id, number::bigint, outcome FROM event_attempts").await;
    let queued =
        rows("SELECT coalesce(order_id, ''), kind, key, status = 'sent' FROM emails").await;
    Snapshot {
        events: events
            .iter()
            .map(|row| EventRow {
                id: row.get(0),
                state: row.get(1),
                attempts: row.get(2),
            })
            .collect(),
        attempts: attempts
            .iter()
            .map(|row| AttemptRow {
                event_id: row.get(0),
                number: row.get(1),
                outcome: row.get(2),
            })
            .collect(),
        orders: rows(ORDERS)
            .await
            .iter()
            .map(|row| OrderRow {
                id: row.get(0),
                status: row.get(1),
                seats: row.get(2),
                active: row.get(3),
                tickets: row.get(4),
                doubled: row.get(5),
                captured_cents: row.get(6),
                refunded_cents: row.get(7),
            })
            .collect(),
        mails: queued
            .iter()
            .map(|row| MailRow {
                order: row.get(0),
                kind: row.get(1),
                key: row.get(2),
                sent: row.get(3),
            })
            .collect(),
        taken: mails.map(|mails| mails.iter().map(|mail| message_id(mail)).collect()),
        oversold: rows(OVERSOLD).await.iter().map(|row| row.get(0)).collect(),
    }
}

fn message_id(mail: &str) -> String {
    let is_id = |line: &&str| line.to_ascii_lowercase().starts_with("message-id:");
    mail.lines().find(is_id).unwrap_or_default().to_owned()
}
