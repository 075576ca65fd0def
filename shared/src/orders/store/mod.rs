//! The order domain's SQL.
//!
//! Lock order: an order's row; then its products' seats, by product id; then the buyer's courses; then registrations, under
//! the lock of their seats. Another order's row is never locked second: the waitlist is served through registrations
//! alone, and the lock of an order's row is one that foreign keys pass.

pub mod creation;
pub mod desk;
mod notices;
pub mod seats;

use std::time::Duration;

use deadpool_postgres::Transaction;
use futures_util::future::{try_join, try_join_all};
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::{
    Change, Dispute, Effect, Entitlement, Notice, NoticeKind, Order, OrderStatus, Payment,
};
use crate::database::{StoreError, execute, query_both, query_opt};
use crate::money::Money;

use notices::{Mail, notice, queue_mail};
use seats::Granted;

/// How an event names its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderKey {
    /// Ids that the shop put into the event, most trusted first.
    pub ids: Vec<String>,
    /// The provider's references: of the checkout, or of a payment heard of before.
    pub references: Vec<String>,
}

/// An order with what never changes about it: its items, and how many seats it is of.
macro_rules! select_order {
    () => {
        "
    SELECT id, status, user_id, email, amount_cents, currency, unfulfillable,
        (SELECT count(*) FROM registrations seat WHERE seat.order_id = orders.id) AS seats,
        (SELECT coalesce(json_agg(json_build_object(
                'name', product.name, 'quantity', item.quantity, 'is_course', product.kind = 'course') ORDER BY product.id), '[]')
            FROM order_items item JOIN products product ON product.id = item.product_id
            WHERE item.order_id = orders.id) AS items
    FROM orders WHERE id = $1"
    };
}

const ORDER: &str = select_order!();
const ORDER_FOR_UPDATE: &str = concat!(select_order!(), " FOR NO KEY UPDATE");

const NAMED: &str = "
    SELECT id FROM (
        SELECT id, array_position($1, id) AS rank FROM orders WHERE id = ANY($1)
        UNION ALL SELECT id, 1000 FROM orders WHERE provider_checkout_ref = ANY($2)
        UNION ALL SELECT order_id, 1001 FROM payments WHERE provider = 'stripe' AND provider_payment_ref = ANY($2)
    ) named ORDER BY rank LIMIT 1";

const PAYMENTS: &str = "
    SELECT provider_payment_ref, authorized, succeeded, amount_cents, refunded_cents, refund_failed, failure, failed,
        closed, dispute
    FROM payments WHERE order_id = $1 AND provider = 'stripe'";

/// Finds an order with its payments, and locks it until the transaction ends.
pub async fn find_for_update(
    tx: &Transaction<'_>,
    key: &OrderKey,
) -> Result<Option<Order>, StoreError> {
    // Most events name their order, and then its id is all it takes.
    if let Some(id) = key.ids.first()
        && let Some(order) = lock_order(tx, id).await?
    {
        return Ok(Some(order));
    }
    match query_opt(tx, NAMED, &[&key.ids, &key.references]).await? {
        Some(named) => lock_order(tx, named.get(0)).await,
        None => Ok(None),
    }
}

/// The payments are read after the lock was waited for: none is missed that another transaction wrote meanwhile.
async fn lock_order(tx: &Transaction<'_>, id: &str) -> Result<Option<Order>, StoreError> {
    let (found, payments) = query_both(tx, (ORDER_FOR_UPDATE, &[&id]), (PAYMENTS, &[&id])).await?;
    Ok(found.first().map(|row| order(row, &payments)))
}

/// An order without its payments, and without a lock.
async fn find(tx: &Transaction<'_>, id: &str) -> Result<Option<Order>, StoreError> {
    let found = query_opt(tx, ORDER, &[&id]).await?;
    Ok(found.map(|row| order(&row, &[])))
}

fn order(row: &Row, payments: &[Row]) -> Order {
    let Json(items) = row.get("items");
    Order {
        id: row.get("id"),
        // A status that this version does not know is for a person to look at.
        status: OrderStatus::parse(row.get("status")).unwrap_or(OrderStatus::Review),
        user_id: row.get("user_id"),
        email: row.get("email"),
        amount: Money::new(row.get("amount_cents"), row.get::<_, String>("currency")),
        unfulfillable: row.get("unfulfillable"),
        items,
        seats: usize::try_from(row.get::<_, i64>("seats")).unwrap_or_default(),
        payments: payments.iter().map(payment).collect(),
    }
}

fn payment(row: &Row) -> Payment {
    Payment {
        reference: row.get("provider_payment_ref"),
        authorized: row.get("authorized"),
        succeeded: row.get("succeeded"),
        captured_cents: row.get("amount_cents"),
        refunded_cents: row.get("refunded_cents"),
        refund_failed: row.get("refund_failed"),
        failure: row.get("failure"),
        failed: row.get("failed"),
        closed: row.get("closed"),
        dispute: Dispute::parse(row.get("dispute")),
    }
}

/// How long seats wait for a buyer.
#[derive(Debug, Clone, Copy)]
pub struct SeatTimes {
    /// Kept after a failed payment.
    pub hold: Duration,
    /// Kept for the next one of the waitlist, who was told so.
    pub offer: Duration,
}

/// Writes a change of a locked order and everything that follows from it, and returns the status that came of it.
pub async fn save(
    tx: &Transaction<'_>,
    order: &Order,
    change: &Change,
    times: SeatTimes,
) -> Result<OrderStatus, StoreError> {
    let mut after = order.clone();
    after
        .payments
        .retain(|payment| payment.reference != change.payment.reference);
    after.payments.push(change.payment.clone());
    let effects = async {
        let mut mails = Vec::new();
        for effect in &change.effects {
            mails.extend(perform(tx, &mut after, &change.payment, effect, times).await?);
        }
        Ok(mails)
    };
    // What does not need each other's answer shares a round trip.
    let (_, mails) = try_join(save_payment(tx, order, &change.payment), effects).await?;
    let queued = try_join_all(mails.iter().map(|mail| queue_mail(tx, order, mail)));
    try_join(queued, save_status(tx, order, &after, times.hold)).await?;
    Ok(after.derived_status().0)
}

async fn save_payment(
    tx: &Transaction<'_>,
    order: &Order,
    payment: &Payment,
) -> Result<(), StoreError> {
    const SAVE: &str = "
        INSERT INTO payments (provider, provider_payment_ref, order_id, status, amount_cents, refunded_cents, currency,
            authorized, succeeded, failed, closed, refund_failed, failure, dispute)
        VALUES ('stripe', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (provider, provider_payment_ref) DO UPDATE
        SET status = excluded.status, amount_cents = excluded.amount_cents, refunded_cents = excluded.refunded_cents,
            authorized = excluded.authorized, succeeded = excluded.succeeded, failed = excluded.failed,
            closed = excluded.closed, refund_failed = excluded.refund_failed, failure = excluded.failure,
            dispute = excluded.dispute
        WHERE payments.order_id = excluded.order_id";
    let saved = execute(
        tx,
        SAVE,
        &[
            &payment.reference,
            &order.id,
            &payment.status(),
            &payment.captured_cents,
            &payment.refunded_cents,
            &order.amount.currency,
            &payment.authorized,
            &payment.succeeded,
            &payment.failed,
            &payment.closed,
            &payment.refund_failed,
            &payment.failure,
            &payment.dispute.as_str(),
        ],
    )
    .await?;
    match saved {
        1 => Ok(()),
        _ => Err(StoreError::Rejected(
            "this payment belongs to another order",
        )),
    }
}

async fn save_status(
    tx: &Transaction<'_>,
    before: &Order,
    after: &Order,
    hold: Duration,
) -> Result<(), StoreError> {
    const SAVE: &str = "
        UPDATE orders SET status = $3, status_reason = $4, unfulfillable = $5, updated_at = now(),
            held_until = CASE WHEN $6::float8 IS NOT NULL THEN now() + make_interval(secs => $6) END
        WHERE id = $1 AND status = $2";
    let (status, reason) = after.derived_status();
    let released = after.entitlement() != before.entitlement();
    if status == before.status && after.unfulfillable == before.unfulfillable && !released {
        return Ok(());
    }
    let held = status == OrderStatus::Cancelled && after.entitlement() == Entitlement::Held;
    let hold_s = held.then_some(hold.as_secs_f64());
    let (from, to) = (before.status.as_str(), status.as_str());
    match execute(
        tx,
        SAVE,
        &[
            &before.id,
            &from,
            &to,
            &reason,
            &after.unfulfillable,
            &hold_s,
        ],
    )
    .await?
    {
        1 => Ok(()),
        _ => Err(StoreError::Rejected(
            "the order's status changed although it was locked",
        )),
    }
}

/// Does what follows, but for the mail that tells of it.
async fn perform(
    tx: &Transaction<'_>,
    order: &mut Order,
    payment: &Payment,
    effect: &Effect,
    times: SeatTimes,
) -> Result<Option<Mail>, StoreError> {
    let key = payment.reference.clone();
    let mail = match effect {
        Effect::Grant => match seats::grant(tx, order).await? {
            Granted::Everything(notice) => Mail {
                kind: NoticeKind::OrderPaid,
                key,
                notice,
            },
            Granted::Nothing(why) => {
                order.unfulfillable = true;
                raise_alert(tx, "paid_but_unfulfillable", &order.id, why).await?;
                return Ok(None);
            }
        },
        Effect::Revoke | Effect::Release => {
            seats::give_back(tx, &order.id, times.offer).await?;
            return Ok(None);
        }
        Effect::TellFailure { reason } => Mail {
            kind: NoticeKind::PaymentFailed,
            key,
            notice: Notice {
                reason: Some(reason.clone()),
                ..notice(order)
            },
        },
        Effect::TellRefund { refunded, full } => Mail {
            kind: match full {
                true => NoticeKind::OrderRefunded,
                false => NoticeKind::PartlyRefunded,
            },
            key: format!("{key}:{}", payment.refunded_cents),
            notice: Notice {
                amount: refunded.to_string(),
                ..notice(order)
            },
        },
        Effect::Alert { kind, message } => {
            let key = format!("{}:{key}", order.id);
            raise_alert(tx, kind, &key, message).await?;
            return Ok(None);
        }
    };
    Ok(Some(mail))
}

async fn raise_alert(
    tx: &Transaction<'_>,
    kind: &str,
    key: &str,
    message: &str,
) -> Result<(), StoreError> {
    const RAISE: &str = "
        INSERT INTO alerts (kind, key, message) VALUES ($1, $2, $3) ON CONFLICT ON CONSTRAINT alerts_once DO NOTHING";
    execute(tx, RAISE, &[&kind, &key, &message]).await?;
    Ok(())
}
