//! `payment_intent.*`. Shapes: docs.stripe.com/api/payment_intents/object.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use shared::money::Money;
use shared::orders::store::OrderKey;
use shared::orders::store::creation::Buyer;
use shared::orders::{Fact, News, cart};

use super::{Failure, Handler, Orders, Outcome};
use crate::event::{Event, link, order_ids, proper};

#[derive(Deserialize)]
struct PaymentIntent {
    id: String,
    amount: i64,
    /// Absent in the oldest versions.
    amount_received: Option<i64>,
    currency: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    last_payment_error: Value,
    #[serde(default)]
    cancellation_reason: Value,
    #[serde(default)]
    receipt_email: Value,
    /// In subscriptions, up to API version 2025-03-31.
    #[serde(default)]
    invoice: Value,
}

impl PaymentIntent {
    fn order_key(&self) -> OrderKey {
        OrderKey {
            ids: order_ids(&self.metadata).collect(),
            references: vec![self.id.clone()],
        }
    }

    /// Brings the news to the order. A renewal has none: what became of it is told by the invoice's own events.
    async fn tell(
        &self,
        orders: Orders,
        tx: &Transaction<'_>,
        news: News,
    ) -> Result<Outcome, Failure> {
        let (key, fact) = (self.order_key(), self.fact(news));
        if link(&self.invoice).is_none() || !key.ids.is_empty() {
            return orders.apply(tx, &key, &fact).await;
        }
        Ok(match orders.apply_if_known(tx, &key, &fact).await? {
            true => Outcome::Processed,
            false => Outcome::Ignored("of_an_invoice"),
        })
    }

    fn fact(&self, news: News) -> Fact {
        Fact {
            reference: self.id.clone(),
            news,
        }
    }

    /// The provider's words, else its code.
    fn failure_reason(&self) -> String {
        ["message", "decline_code", "code"]
            .into_iter()
            .find_map(|name| self.last_payment_error.get(name)?.as_str())
            .unwrap_or("the payment failed")
            .replace('\0', "")
    }
}

/// The money is there: fulfill.
pub struct Succeeded(pub(super) Orders);

impl Handler for Succeeded {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let intent: PaymentIntent = event.object()?;
            let received = intent.amount_received.unwrap_or(intent.amount);
            let received = Money::new(received, intent.currency.to_lowercase());
            intent.tell(self.0, tx, News::Succeeded(received)).await
        }
        .boxed()
    }
}

/// One try failed; the buyer may try again with the same PaymentIntent.
pub struct PaymentFailed(pub(super) Orders);

impl Handler for PaymentFailed {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let intent: PaymentIntent = event.object()?;
            let news = News::Failed(intent.failure_reason());
            intent.tell(self.0, tx, news).await
        }
        .boxed()
    }
}

/// The amount is held for us, to be captured later. Where the shop has no order yet, its cart makes one.
pub struct AmountCapturable(pub(super) Orders);

impl Handler for AmountCapturable {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let intent: PaymentIntent = event.object()?;
            let held = Money::new(intent.amount, intent.currency.to_lowercase());
            let (key, fact) = (intent.order_key(), intent.fact(News::Authorized(held)));
            if self.0.apply_if_known(tx, &key, &fact).await? {
                return Ok(Outcome::Processed);
            }
            let text = |name: &str| intent.metadata.get(name).and_then(Value::as_str);
            let Some(cart) = text("cart") else {
                let message = "there is no order, and no `cart` in the metadata to make one of";
                return Err(Failure::permanent("missing_cart", message));
            };
            let email = text("email")
                .or(intent.receipt_email.as_str())
                .and_then(proper);
            let Some(email) = email else {
                let message = "there is no order, and no `email` in the metadata to make one of";
                return Err(Failure::permanent("missing_metadata", message));
            };
            let user_id = text("user_id").or(text("userId")).and_then(proper);
            let order_id = key.ids.first().unwrap_or(&intent.id);
            let bought = (&Buyer { user_id, email }, cart::read(cart)?);
            self.0
                .create_and_apply(tx, order_id, (bought.0, &bought.1), &fact)
                .await
        }
        .boxed()
    }
}

/// It will never be paid.
pub struct Canceled(pub(super) Orders);

impl Handler for Canceled {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let intent: PaymentIntent = event.object()?;
            let why = intent
                .cancellation_reason
                .as_str()
                .unwrap_or("no reason given");
            let reason = format!("the payment was cancelled: {}", why.replace('\0', ""));
            let news = News::Closed {
                reason,
                failed: false,
            };
            intent.tell(self.0, tx, news).await
        }
        .boxed()
    }
}

/// The buyer or the bank is still at it: there is nothing to do yet.
pub struct NotYet;

impl Handler for NotYet {
    fn handle<'a>(
        &'a self,
        _event: &'a Event,
        _tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move { Ok(Outcome::Ignored("not_paid_yet")) }.boxed()
    }
}
