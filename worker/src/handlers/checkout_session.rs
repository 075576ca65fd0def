//! `checkout.session.*`. Shapes: docs.stripe.com/api/checkout/sessions/object.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use shared::money::Money;
use shared::orders::cart::CartLine;
use shared::orders::store::OrderKey;
use shared::orders::store::creation::Buyer;
use shared::orders::{Fact, News};

use super::{Failure, Handler, Orders, Outcome};
use crate::event::{Event, link, order_ids, proper};

#[derive(Deserialize)]
struct Session {
    id: String,
    #[serde(default)]
    mode: Value,
    /// `paid`, `unpaid` or `no_payment_required`; absent in the oldest versions, which had no delayed methods.
    payment_status: Option<String>,
    amount_total: Option<i64>,
    currency: Option<String>,
    #[serde(default)]
    client_reference_id: Value,
    #[serde(default)]
    payment_intent: Value,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    customer_email: Value,
    #[serde(default)]
    customer_details: Value,
}

impl Session {
    fn is_payment(&self) -> bool {
        self.mode.as_str().is_none_or(|mode| mode == "payment")
    }

    /// A status that is not known yet is not taken for paid: what follows it will tell.
    fn is_paid(&self) -> bool {
        matches!(
            self.payment_status.as_deref(),
            None | Some("paid" | "no_payment_required")
        )
    }

    fn order_key(&self) -> OrderKey {
        let client_reference = self.client_reference_id.as_str().and_then(proper);
        OrderKey {
            ids: order_ids(&self.metadata).chain(client_reference).collect(),
            references: [self.id.clone()]
                .into_iter()
                .chain(link(&self.payment_intent))
                .collect(),
        }
    }

    fn fact(&self, news: News) -> Fact {
        let reference = link(&self.payment_intent).unwrap_or_else(|| self.id.clone());
        Fact { reference, news }
    }

    fn named(&self, names: [&str; 2]) -> Option<String> {
        names
            .into_iter()
            .find_map(|name| proper(self.metadata.get(name)?.as_str()?))
    }

    /// The course that was bought straight away, and by whom, where the metadata say so.
    fn course(&self) -> Result<Option<(CartLine, Buyer)>, Failure> {
        let (course, user) = (
            self.named(["course_id", "courseId"]),
            self.named(["user_id", "userId"]),
        );
        let lacking = |name: &str| {
            let message = format!("the metadata of a course's session lack `{name}`");
            Err(Failure::permanent("missing_metadata", message))
        };
        match (course, user) {
            (None, None) => Ok(None),
            (Some(_), None) => lacking("user_id"),
            // The session of an order that is not there yet.
            (None, Some(_)) if !self.order_key().ids.is_empty() => Ok(None),
            (None, Some(_)) => lacking("course_id"),
            (Some(product), user_id) => {
                let email = self.customer_details.get("email").and_then(Value::as_str);
                let email = email
                    .or(self.customer_email.as_str())
                    .unwrap_or_default()
                    .to_owned();
                let line = CartLine {
                    product,
                    quantity: 1,
                    unit_amount_cents: None,
                };
                Ok(Some((line, Buyer { user_id, email })))
            }
        }
    }

    fn paid(&self) -> Result<Money, Failure> {
        match (self.amount_total, &self.currency) {
            (Some(amount), Some(currency)) => Ok(Money::new(amount, currency.to_lowercase())),
            _ => {
                let message = "the session has no amount_total and currency";
                Err(Failure::permanent("invalid_payload", message))
            }
        }
    }
}

/// The buyer went through the checkout; with a delayed method the money is not there yet.
pub struct Completed(pub(super) Orders);

impl Handler for Completed {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let session: Session = event.object()?;
            if !session.is_payment() {
                return Ok(Outcome::Ignored("not_a_payment"));
            }
            if !session.is_paid() {
                return Ok(Outcome::Ignored("not_paid_yet"));
            }
            let fact = session.fact(News::Succeeded(session.paid()?));
            if self
                .0
                .apply_if_known(tx, &session.order_key(), &fact)
                .await?
            {
                return Ok(Outcome::Processed);
            }
            match session.course()? {
                Some((line, buyer)) => {
                    self.0
                        .create_and_apply(tx, &session.id, (&buyer, &[line]), &fact)
                        .await
                }
                None => self.0.apply(tx, &session.order_key(), &fact).await,
            }
        }
        .boxed()
    }
}

/// The delayed method failed after all.
pub struct AsyncPaymentFailed(pub(super) Orders);

impl Handler for AsyncPaymentFailed {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let session: Session = event.object()?;
            let reason = "the payment failed".to_owned();
            let fact = session.fact(News::Closed {
                reason,
                failed: true,
            });
            self.0.apply(tx, &session.order_key(), &fact).await
        }
        .boxed()
    }
}

/// The buyer did not come back in time.
pub struct Expired(pub(super) Orders);

impl Handler for Expired {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let session: Session = event.object()?;
            if !session.is_payment() {
                return Ok(Outcome::Ignored("not_a_payment"));
            }
            let reason = "the checkout expired".to_owned();
            let fact = session.fact(News::Closed {
                reason,
                failed: false,
            });
            self.0.apply(tx, &session.order_key(), &fact).await
        }
        .boxed()
    }
}
