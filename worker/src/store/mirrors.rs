//! Mirrors of subscriptions, invoices and refunds, guarded against older news.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use shared::database::{StoreError, execute};
use shared::orders::{Notice, NoticeKind};
use tokio_postgres::types::Json;

/// How new something is: compared from first to last, so that two events of one second have an order too.
pub struct News<'a> {
    /// When Stripe made the event.
    pub at: Timestamp,
    /// How final the status is.
    pub rank: i32,
    /// The event's id.
    pub event_id: &'a str,
}

/// A subscription as an event shows it.
pub struct Subscription {
    /// `sub_…`
    pub id: String,
    /// `cus_…`
    pub customer: Option<String>,
    /// In Stripe's words.
    pub status: String,
    /// Until when it is paid.
    pub current_period_end: Option<Timestamp>,
    /// Whether it ends then.
    pub cancel_at_period_end: bool,
}

/// An invoice as an event shows it.
pub struct Invoice {
    /// `in_…`
    pub id: String,
    /// The subscription that it is for.
    pub subscription_id: Option<String>,
    /// `cus_…`
    pub customer: Option<String>,
    /// `paid` or `payment_failed`.
    pub status: &'static str,
    /// Minor units.
    pub amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
}

/// A refund as an event shows it.
pub struct Refund {
    /// `re_…`
    pub id: String,
    /// The PaymentIntent.
    pub payment_ref: Option<String>,
    /// The Charge.
    pub charge: Option<String>,
    /// Minor units.
    pub amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
    /// In Stripe's words.
    pub status: String,
    /// Why it failed.
    pub failure_reason: Option<String>,
}

/// Mirrors a refund, unless newer news is known.
pub async fn mirror_refund(
    tx: &Transaction<'_>,
    refund: &Refund,
    news: &News<'_>,
) -> Result<(), StoreError> {
    const MIRROR: &str = "
        INSERT INTO refunds AS known (id, provider_payment_ref, charge, amount_cents, currency, status, failure_reason,
            news_at, news_rank, news_event_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (id) DO UPDATE SET status = excluded.status, failure_reason = excluded.failure_reason,
            amount_cents = excluded.amount_cents, news_at = excluded.news_at, news_rank = excluded.news_rank,
            news_event_id = excluded.news_event_id
        WHERE (known.news_at, known.news_rank, known.news_event_id)
            < (excluded.news_at, excluded.news_rank, excluded.news_event_id)";
    let Refund {
        id,
        payment_ref,
        charge,
        amount_cents,
        currency,
        status,
        failure_reason,
    } = refund;
    let News { at, rank, event_id } = news;
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
        id,
        payment_ref,
        charge,
        amount_cents,
        currency,
        status,
        failure_reason,
        at,
        rank,
        event_id,
    ];
    execute(tx, MIRROR, &values).await?;
    Ok(())
}

/// Mirrors a subscription, unless newer news is known.
pub async fn mirror_subscription(
    tx: &Transaction<'_>,
    subscription: &Subscription,
    news: &News<'_>,
) -> Result<(), StoreError> {
    const MIRROR: &str = "
        INSERT INTO subscriptions AS known (id, customer, status, current_period_end, cancel_at_period_end,
            news_at, news_rank, news_event_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, status = excluded.status,
            current_period_end = excluded.current_period_end, cancel_at_period_end = excluded.cancel_at_period_end,
            news_at = excluded.news_at, news_rank = excluded.news_rank, news_event_id = excluded.news_event_id
        WHERE (known.news_at, known.news_rank, known.news_event_id)
            < (excluded.news_at, excluded.news_rank, excluded.news_event_id)";
    let Subscription {
        id,
        customer,
        status,
        current_period_end,
        cancel_at_period_end,
    } = subscription;
    let News { at, rank, event_id } = news;
    execute(
        tx,
        MIRROR,
        &[
            id,
            customer,
            status,
            current_period_end,
            cancel_at_period_end,
            at,
            rank,
            event_id,
        ],
    )
    .await?;
    Ok(())
}

/// Mirrors an invoice, unless newer news is known: then false.
pub async fn mirror_invoice(
    tx: &Transaction<'_>,
    invoice: &Invoice,
    news: &News<'_>,
) -> Result<bool, StoreError> {
    const MIRROR: &str = "
        INSERT INTO invoices AS known (id, subscription_id, customer, status, amount_cents, currency,
            news_at, news_rank, news_event_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (id) DO UPDATE SET subscription_id = excluded.subscription_id, customer = excluded.customer,
            status = excluded.status, amount_cents = excluded.amount_cents, currency = excluded.currency,
            news_at = excluded.news_at, news_rank = excluded.news_rank, news_event_id = excluded.news_event_id
        WHERE (known.news_at, known.news_rank, known.news_event_id)
            < (excluded.news_at, excluded.news_rank, excluded.news_event_id)";
    let Invoice {
        id,
        subscription_id,
        customer,
        status,
        amount_cents,
        currency,
    } = invoice;
    let News { at, rank, event_id } = news;
    let rows = execute(
        tx,
        MIRROR,
        &[
            id,
            subscription_id,
            customer,
            status,
            amount_cents,
            currency,
            at,
            rank,
            event_id,
        ],
    )
    .await?;
    Ok(rows == 1)
}

/// Queues the mail about an invoice that could not be paid; once per event.
pub async fn queue_invoice_mail(
    tx: &Transaction<'_>,
    recipient: &str,
    key: &str,
    notice: &Notice,
) -> Result<(), StoreError> {
    const QUEUE: &str = "
        INSERT INTO emails (kind, key, recipient, content) VALUES ($1, $2, $3, $4)
        ON CONFLICT (coalesce(order_id, ''), kind, key) DO NOTHING";
    let kind = NoticeKind::InvoiceFailed.as_str();
    execute(tx, QUEUE, &[&kind, &key, &recipient, &Json(notice)]).await?;
    Ok(())
}
