//! `charge.*`. Shapes: docs.stripe.com/api/charges/object.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use shared::money::Money;
use shared::orders::store::OrderKey;
use shared::orders::{Fact, News};

use super::{Failure, Handler, Orders, Outcome};
use crate::event::{Event, link, order_ids};

#[derive(Deserialize)]
struct Charge {
    id: String,
    amount: i64,
    /// Absent in older versions: then `captured` tells.
    amount_captured: Option<i64>,
    captured: Option<bool>,
    /// Cumulative over all refunds.
    #[serde(default)]
    amount_refunded: i64,
    currency: String,
    #[serde(default)]
    payment_intent: Value,
    #[serde(default)]
    metadata: Value,
    /// In subscriptions: the invoice tells.
    #[serde(default)]
    invoice: Value,
}

impl Charge {
    fn captured_cents(&self) -> i64 {
        match (self.captured, self.amount_captured) {
            (Some(false), _) => 0,
            (_, Some(amount)) => amount,
            (_, None) => self.amount,
        }
    }

    fn reference(&self) -> String {
        link(&self.payment_intent).unwrap_or_else(|| self.id.clone())
    }

    fn order_key(&self) -> OrderKey {
        let intent = link(&self.payment_intent);
        OrderKey {
            ids: order_ids(&self.metadata).collect(),
            references: intent.into_iter().chain([self.id.clone()]).collect(),
        }
    }

    fn captured(&self) -> Money {
        Money::new(self.captured_cents(), self.currency.to_lowercase())
    }
}

/// The money is there, told by the charge: where this is all that comes, it is enough.
pub struct Succeeded(pub(super) Orders);

impl Handler for Succeeded {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let charge: Charge = event.object()?;
            if charge.captured_cents() == 0 {
                return Ok(Outcome::Ignored("not_captured_yet"));
            }
            if link(&charge.invoice).is_some() {
                return Ok(Outcome::Ignored("of_an_invoice"));
            }
            let fact = Fact {
                reference: charge.reference(),
                news: News::Succeeded(charge.captured()),
            };
            self.0.apply(tx, &charge.order_key(), &fact).await
        }
        .boxed()
    }
}

/// Some or all went back.
pub struct Refunded(pub(super) Orders);

impl Handler for Refunded {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let charge: Charge = event.object()?;
            // Releasing an authorisation is reported as a refund too: no money had moved.
            if charge.captured_cents() == 0 {
                return Ok(Outcome::Ignored("never_captured"));
            }
            let (captured, refunded_cents) = (charge.captured(), charge.amount_refunded);
            let news = News::Refunded {
                captured,
                refunded_cents,
            };
            let fact = Fact {
                reference: charge.reference(),
                news,
            };
            self.0.apply(tx, &charge.order_key(), &fact).await
        }
        .boxed()
    }
}
