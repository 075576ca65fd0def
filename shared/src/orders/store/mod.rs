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
use tokio_postgres::Row;

use super::{Change, Dispute, Effect, Entitlement, NoticeKind, Order, OrderStatus, Payment};
use crate::database::{StoreError, execute, query, query_opt};
use crate::money::Money;

use notices::{notice, queue_mail};
use seats::Granted;

/// How an event names its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderKey {
    /// Ids that the shop put into the event, most trusted first.
    pub ids: Vec<String>,
    /// The provider's references: of the checkout, or of a payment heard of before.
    pub references: Vec<String>,
}

const FIND: &str = "
    SELECT id, status, user_id, email, amount_cents, currency, unfulfillable FROM orders WHERE id = (
        SELECT id FROM (
            SELECT id, array_position($1, id) AS rank FROM orders WHERE id = ANY($1)
            UNION ALL SELECT id, 1000 FROM orders WHERE provider_checkout_ref = ANY($2)
            UNION ALL SELECT order_id, 1001 FROM payments WHERE provider = 'stripe' AND provider_payment_ref = ANY($2)
        ) named ORDER BY rank LIMIT 1
    ) FOR NO KEY UPDATE";

const PAYMENTS: &str = "
    SELECT provider_payment_ref, authorized, succeeded, amount_cents, refunded_cents, refund_failed, failure, failed,
        closed, dispute
    FROM payments WHERE order_id = $1 AND provider = 'stripe'";

/// Finds an order with its payments, and locks it until the transaction ends.
pub async fn find_for_update(
    tx: &Transaction<'_>,
    key: &OrderKey,
) -> Result<Option<Order>, StoreError> {
    let Some(row) = query_opt(tx, FIND, &[&key.ids, &key.references]).await? else {
        return Ok(None);
    };
    let id: String = row.get("id");
    let payments = query(tx, PAYMENTS, &[&id]).await?;
    Ok(Some(order(&row, id, &payments)))
}

fn order(row: &Row, id: String, payments: &[Row]) -> Order {
    Order {
        id,
        // A status that this version does not know is for a person to look at.
        status: OrderStatus::parse(row.get("status")).unwrap_or(OrderStatus::Review),
        user_id: row.get("user_id"),
        email: row.get("email"),
        amount: Money::new(row.get("amount_cents"), row.get::<_, String>("currency")),
        unfulfillable: row.get("unfulfillable"),
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
    save_payment(tx, order, &change.payment).await?;
    let mut after = order.clone();
    after
        .payments
        .retain(|payment| payment.reference != change.payment.reference);
    after.payments.push(change.payment.clone());
    for effect in &change.effects {
        perform(tx, &mut after, &change.payment, effect, times).await?;
    }
    save_status(tx, order, &after, times.hold).await?;
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

async fn perform(
    tx: &Transaction<'_>,
    order: &mut Order,
    payment: &Payment,
    effect: &Effect,
    times: SeatTimes,
) -> Result<(), StoreError> {
    match effect {
        Effect::Grant => match seats::grant(tx, order).await? {
            Granted::Everything(tickets) => {
                let mut notice = notice(tx, order).await?;
                notice.tickets = tickets;
                queue_mail(
                    tx,
                    order,
                    NoticeKind::OrderPaid,
                    &payment.reference,
                    &notice,
                )
                .await
            }
            Granted::Nothing(why) => {
                order.unfulfillable = true;
                raise_alert(tx, "paid_but_unfulfillable", &order.id, why).await
            }
        },
        Effect::Revoke | Effect::Release => seats::give_back(tx, &order.id, times.offer).await,
        Effect::TellFailure { reason } => {
            let mut notice = notice(tx, order).await?;
            notice.reason = Some(reason.clone());
            queue_mail(
                tx,
                order,
                NoticeKind::PaymentFailed,
                &payment.reference,
                &notice,
            )
            .await
        }
        Effect::TellRefund { refunded, full } => {
            let mut notice = notice(tx, order).await?;
            notice.amount = refunded.to_string();
            let kind = if *full {
                NoticeKind::OrderRefunded
            } else {
                NoticeKind::PartlyRefunded
            };
            let key = format!("{}:{}", payment.reference, payment.refunded_cents);
            queue_mail(tx, order, kind, &key, &notice).await
        }
        Effect::Alert { kind, message } => {
            let key = format!("{}:{}", order.id, payment.reference);
            raise_alert(tx, kind, &key, message).await
        }
    }
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
