//! What an event brought about: the order it speaks of, with all that hangs on it, and that order's other events.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use shared::database::{StoreError, query, query_opt};
use tokio_postgres::Row;

/// An order.
pub struct Order {
    /// The shop's id.
    pub id: String,
    /// Where it stands.
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// What must be paid, in minor units.
    pub amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
    /// Every payment.
    pub payments: Vec<Payment>,
    /// How many registrations, by product and status.
    pub registrations: Vec<Counted>,
    /// How many tickets, by status.
    pub tickets: Vec<Counted>,
    /// Mails about it.
    pub mails: Vec<Mail>,
}

/// A payment.
pub struct Payment {
    /// The provider's id.
    pub reference: String,
    /// Where it stands.
    pub status: String,
    /// Captured, in minor units.
    pub amount_cents: i64,
    /// Refunded, in minor units.
    pub refunded_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
}

/// How many of a kind.
pub struct Counted {
    /// What.
    pub what: String,
    /// In which status.
    pub status: String,
    /// How many.
    pub count: i64,
}

/// A mail.
pub struct Mail {
    /// What it tells.
    pub kind: String,
    /// Where it goes.
    pub recipient: String,
    /// `queued`, `sent` or `failed`.
    pub status: String,
    /// When it went out.
    pub sent_at: Option<Timestamp>,
}

/// An event of the same order.
pub struct Related {
    /// `evt_…`
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// Where it stands.
    pub state: String,
    /// When it came.
    pub received_at: Timestamp,
}

/// Finds the order that is known by one of these ids.
pub async fn order(
    client: &impl GenericClient,
    objects: &[String],
) -> Result<Option<Order>, StoreError> {
    const ORDER: &str = "
        SELECT id, status, status_reason, amount_cents, currency FROM orders WHERE id = (
            SELECT id FROM (
                SELECT id, array_position($1, id) AS rank FROM orders WHERE id = ANY($1)
                UNION ALL SELECT id, 1000 FROM orders WHERE provider_checkout_ref = ANY($1)
                UNION ALL SELECT order_id, 1001 FROM payments
                    WHERE provider = 'stripe' AND provider_payment_ref = ANY($1)
            ) named ORDER BY rank LIMIT 1)";
    let Some(row) = query_opt(client, ORDER, &[&objects]).await? else {
        return Ok(None);
    };
    let id: String = row.get("id");
    Ok(Some(Order {
        status: row.get("status"),
        status_reason: row.get("status_reason"),
        amount_cents: row.get("amount_cents"),
        currency: row.get("currency"),
        payments: payments(client, &id).await?,
        registrations: counted(client, REGISTRATIONS, &id).await?,
        tickets: counted(client, TICKETS, &id).await?,
        mails: mails(client, &id).await?,
        id,
    }))
}

const REGISTRATIONS: &str = "
    SELECT product_id, status, count(*) FROM registrations WHERE order_id = $1 GROUP BY 1, 2
    UNION ALL SELECT course_id, 'purchased', count(*) FROM course_purchases WHERE order_id = $1 GROUP BY 1
    ORDER BY 1, 2";
const TICKETS: &str =
    "SELECT 'ticket', status, count(*) FROM tickets WHERE order_id = $1 GROUP BY 2 ORDER BY 2";

async fn counted(
    client: &impl GenericClient,
    sql: &str,
    order_id: &str,
) -> Result<Vec<Counted>, StoreError> {
    let rows = query(client, sql, &[&order_id]).await?;
    let counted = |row: &Row| Counted {
        what: row.get(0),
        status: row.get(1),
        count: row.get(2),
    };
    Ok(rows.iter().map(counted).collect())
}

async fn payments(client: &impl GenericClient, order_id: &str) -> Result<Vec<Payment>, StoreError> {
    const PAYMENTS: &str = "
        SELECT provider_payment_ref, status, amount_cents, refunded_cents, currency FROM payments
        WHERE order_id = $1 ORDER BY 1 LIMIT 50";
    let rows = query(client, PAYMENTS, &[&order_id]).await?;
    let payment = |row: &Row| Payment {
        reference: row.get(0),
        status: row.get(1),
        amount_cents: row.get(2),
        refunded_cents: row.get(3),
        currency: row.get(4),
    };
    Ok(rows.iter().map(payment).collect())
}

async fn mails(client: &impl GenericClient, order_id: &str) -> Result<Vec<Mail>, StoreError> {
    // As the index has it.
    const MAILS: &str = "
        SELECT kind, recipient, status, sent_at FROM emails WHERE coalesce(order_id, '') = $1 ORDER BY id LIMIT 50";
    let rows = query(client, MAILS, &[&order_id]).await?;
    let mail = |row: &Row| Mail {
        kind: row.get(0),
        recipient: row.get(1),
        status: row.get(2),
        sent_at: row.get(3),
    };
    Ok(rows.iter().map(mail).collect())
}

/// Events that speak of the same objects or of that order, oldest first.
pub async fn related(
    client: &impl GenericClient,
    objects: &[String],
    order_id: Option<&str>,
) -> Result<Vec<Related>, StoreError> {
    const RELATED: &str = "
        WITH known AS (
            SELECT unnest($1::text[]) AS id
            UNION SELECT $2 UNION SELECT provider_checkout_ref FROM orders WHERE id = $2
            UNION SELECT provider_payment_ref FROM payments WHERE order_id = $2
        )
        SELECT event.id, event.type, event.state, event.received_at
        FROM (SELECT DISTINCT event_id FROM known JOIN event_objects ON object_id = known.id LIMIT 100) named
        JOIN webhook_events event ON event.id = named.event_id
        ORDER BY event.received_at, event.id";
    let rows = query(client, RELATED, &[&objects, &order_id]).await?;
    let related = |row: &Row| Related {
        id: row.get(0),
        event_type: row.get(1),
        state: row.get(2),
        received_at: row.get(3),
    };
    Ok(rows.iter().map(related).collect())
}
