//! `invoice.*`. Shapes: docs.stripe.com/api/invoices/object.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use shared::money::Money;
use shared::orders::Notice;

use super::{Failure, Handler, Outcome};
use crate::event::{Event, link, proper};
use crate::store::mirrors::{Invoice, News, mirror_invoice, queue_invoice_mail};

#[derive(Deserialize)]
struct InvoiceObject {
    id: String,
    #[serde(default)]
    amount_due: i64,
    #[serde(default)]
    amount_paid: i64,
    currency: String,
    #[serde(default)]
    customer: Value,
    #[serde(default)]
    customer_email: Value,
    #[serde(default)]
    number: Value,
    /// Moved below `parent` in 2025.
    #[serde(default)]
    subscription: Value,
    #[serde(default)]
    parent: Value,
}

impl InvoiceObject {
    fn subscription(&self) -> Option<String> {
        let details = self.parent.get("subscription_details");
        link(&self.subscription).or_else(|| link(details?.get("subscription")?))
    }

    fn mirror(&self, status: &'static str, amount_cents: i64) -> Invoice {
        Invoice {
            id: self.id.clone(),
            subscription_id: self.subscription(),
            customer: link(&self.customer),
            status,
            amount_cents: amount_cents.max(0),
            currency: self.currency.to_lowercase(),
        }
    }
}

/// It was paid.
pub struct Paid;

impl Handler for Paid {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let object: InvoiceObject = event.object()?;
            // Paid is final: a failure of the same second was before it.
            let news = News {
                at: event.created_at,
                rank: 1,
                event_id: &event.id,
            };
            mirror_invoice(tx, &object.mirror("paid", object.amount_paid), &news).await?;
            Ok(Outcome::Processed)
        }
        .boxed()
    }
}

/// It could not be paid: the customer is told.
pub struct PaymentFailed;

impl Handler for PaymentFailed {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let object: InvoiceObject = event.object()?;
            let news = News {
                at: event.created_at,
                rank: 0,
                event_id: &event.id,
            };
            let invoice = object.mirror("payment_failed", object.amount_due);
            let is_news = mirror_invoice(tx, &invoice, &news).await?;
            let recipient = object.customer_email.as_str().and_then(proper);
            if let Some(recipient) = recipient.filter(|_| is_news) {
                let amount = Money::new(invoice.amount_cents, invoice.currency.clone());
                let name = object.number.as_str().and_then(proper).unwrap_or(object.id);
                let notice = Notice::about(name, &amount);
                queue_invoice_mail(tx, &recipient, &event.id, &notice).await?;
            }
            Ok(Outcome::Processed)
        }
        .boxed()
    }
}
