//! What events do. To handle one more type: a file here with a [`Handler`], and a line in [`registry`].

mod charge;
mod checkout_session;
mod dispute;
mod invoice;
mod payment_intent;
mod refund;
mod subscription;

use std::collections::HashMap;
use std::fmt;

use deadpool_postgres::Transaction;
use futures_util::future::BoxFuture;
use shared::database::StoreError;
use shared::orders::cart::{CartError, CartLine};
use shared::orders::store::creation::Buyer;
use shared::orders::store::desk::{Desk, DeskError};
use shared::orders::store::{OrderKey, SeatTimes};
use shared::orders::{Fact, Rejection};

use crate::event::Event;

/// Handles one type of event. All that it writes through `tx` is committed together with the mark that the event is
/// processed, or not at all. It may run more than once: whatever leaves the database belongs into a row of an outbox.
pub trait Handler: Send + Sync {
    /// Runs the handler, once per attempt, for ten seconds at the most.
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>>;
}

/// Which handler takes which type.
#[derive(Default)]
pub struct Registry(HashMap<&'static str, Box<dyn Handler>>);

impl Registry {
    /// Adds a handler; a second one for a type replaces the first.
    pub fn with(mut self, event_type: &'static str, handler: impl Handler + 'static) -> Self {
        self.0.insert(event_type, Box::new(handler));
        self
    }

    /// The handler of a type, and the type as a bounded metric label.
    pub fn find(&self, event_type: &str) -> Option<(&'static str, &dyn Handler)> {
        self.0
            .get_key_value(event_type)
            .map(|(label, handler)| (*label, handler.as_ref()))
    }
}

/// Every handler.
pub fn registry(times: SeatTimes) -> Registry {
    let orders = Orders(Desk { times });
    Registry::default()
        .with("charge.dispute.closed", dispute::Disputed(orders))
        .with("charge.dispute.created", dispute::Disputed(orders))
        .with("charge.dispute.updated", dispute::Disputed(orders))
        .with("charge.refund.updated", refund::Updated(orders))
        .with("charge.refunded", charge::Refunded(orders))
        .with("charge.succeeded", charge::Succeeded(orders))
        .with(
            "checkout.session.async_payment_failed",
            checkout_session::AsyncPaymentFailed(orders),
        )
        .with(
            "checkout.session.async_payment_succeeded",
            checkout_session::Completed(orders),
        )
        .with(
            "checkout.session.completed",
            checkout_session::Completed(orders),
        )
        .with(
            "checkout.session.expired",
            checkout_session::Expired(orders),
        )
        .with("customer.subscription.created", subscription::Changed)
        .with("customer.subscription.deleted", subscription::Changed)
        .with("customer.subscription.paused", subscription::Changed)
        .with("customer.subscription.resumed", subscription::Changed)
        .with("customer.subscription.updated", subscription::Changed)
        .with("invoice.paid", invoice::Paid)
        .with("invoice.payment_failed", invoice::PaymentFailed)
        .with(
            "payment_intent.amount_capturable_updated",
            payment_intent::AmountCapturable(orders),
        )
        .with("payment_intent.canceled", payment_intent::Canceled(orders))
        .with(
            "payment_intent.payment_failed",
            payment_intent::PaymentFailed(orders),
        )
        .with("payment_intent.processing", payment_intent::NotYet)
        .with("payment_intent.requires_action", payment_intent::NotYet)
        .with(
            "payment_intent.succeeded",
            payment_intent::Succeeded(orders),
        )
        .with("refund.created", refund::Updated(orders))
        .with("refund.failed", refund::Updated(orders))
        .with("refund.updated", refund::Updated(orders))
}

/// Whether an event of this type says that money moved, or should have: somebody must hear of each that dies.
pub fn is_about_money(event_type: &str) -> bool {
    const MONEY: [&str; 5] = [
        "payment_intent.",
        "charge.",
        "checkout.session.",
        "refund.",
        "invoice.",
    ];
    MONEY.iter().any(|family| event_type.starts_with(family))
}

/// What came of an attempt that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All that the event asks for is done.
    Processed,
    /// Nothing to do here, and why: a fixed word.
    Ignored(&'static str),
}

/// Why an attempt failed, and whether another may do better: decided where the error arises.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another attempt may succeed.
    #[error("{message}")]
    Transient {
        /// A fixed word.
        kind: &'static str,
        /// For people.
        message: String,
    },
    /// No attempt will succeed.
    #[error("{message}")]
    Permanent {
        /// A fixed word.
        kind: &'static str,
        /// For people.
        message: String,
    },
    /// The database did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure {
    /// Another attempt may succeed.
    pub fn transient(kind: &'static str, message: impl fmt::Display) -> Self {
        Self::Transient {
            kind,
            message: message.to_string(),
        }
    }

    /// No attempt will succeed.
    pub fn permanent(kind: &'static str, message: impl fmt::Display) -> Self {
        Self::Permanent {
            kind,
            message: message.to_string(),
        }
    }

    /// Whether no attempt will succeed.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Permanent { .. } | Self::Store(StoreError::Rejected(_))
        )
    }

    /// A fixed word for the cause.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Transient { kind, .. } | Self::Permanent { kind, .. } => kind,
            Self::Store(
                StoreError::Unavailable(_) | StoreError::TimedOut | StoreError::Exhausted(_),
            ) => "database_unavailable",
            Self::Store(StoreError::Conflict(_)) => "database_conflict",
            Self::Store(StoreError::Query(_)) => "database",
            Self::Store(StoreError::Rejected(_)) => "unexpected_row",
        }
    }
}

/// Brings facts to the orders that they are about.
#[derive(Clone, Copy)]
struct Orders(Desk);

impl Orders {
    async fn apply(
        self,
        tx: &Transaction<'_>,
        key: &OrderKey,
        fact: &Fact,
    ) -> Result<Outcome, Failure> {
        if self.apply_if_known(tx, key, fact).await? {
            return Ok(Outcome::Processed);
        }
        // Not the values: errors are read by more people than bodies are.
        let (ids, references) = (key.ids.len(), key.references.len());
        let message =
            format!("no order is known by the event's {ids} order ids and {references} references");
        Err(Failure::transient("order_not_found", message))
    }

    /// False when there is no such order.
    async fn apply_if_known(
        self,
        tx: &Transaction<'_>,
        key: &OrderKey,
        fact: &Fact,
    ) -> Result<bool, Failure> {
        Ok(self.0.apply(tx, key, fact).await?.is_some())
    }

    /// Creates an order of what was bought, then brings the fact to it.
    async fn create_and_apply(
        self,
        tx: &Transaction<'_>,
        order_id: &str,
        bought: (&Buyer, &[CartLine]),
        fact: &Fact,
    ) -> Result<Outcome, Failure> {
        self.0.create_and_apply(tx, order_id, bought, fact).await?;
        Ok(Outcome::Processed)
    }
}

impl From<DeskError> for Failure {
    fn from(error: DeskError) -> Self {
        let kind = match &error {
            DeskError::Store(_) => "database",
            DeskError::Rejected(Rejection::Amount { .. }) => "amount_mismatch",
            DeskError::Rejected(Rejection::Currency { .. }) => "currency_mismatch",
            DeskError::Rejected(Rejection::RefundAboveCapture { .. }) => "refund_above_capture",
            DeskError::Cart(CartError::UnknownProduct(_)) => "unknown_product",
            DeskError::Cart(CartError::WrongPrice { .. }) => "wrong_price",
            DeskError::Cart(CartError::NoAccount(_)) => "missing_metadata",
            DeskError::Cart(_) => "invalid_cart",
        };
        match error {
            DeskError::Store(error) => Self::Store(error),
            error => Self::permanent(kind, error),
        }
    }
}

impl From<CartError> for Failure {
    fn from(error: CartError) -> Self {
        DeskError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn all_that_is_handled_is_about_money_but_subscriptions() {
        let hour = Duration::from_secs(3_600);
        let times = SeatTimes {
            hold: hour,
            offer: hour,
        };
        let registry = registry(times);
        let others: Vec<_> = registry
            .0
            .keys()
            .filter(|event_type| !is_about_money(event_type))
            .collect();
        assert!(others.len() < registry.0.len());
        for event_type in others {
            assert!(
                event_type.starts_with("customer.subscription."),
                "{event_type}"
            );
        }
        for event_type in ["invoice.voided", "charge.dispute.funds_withdrawn"] {
            assert!(is_about_money(event_type), "{event_type}");
        }
        for event_type in ["customer.updated", "invoiceitem.created", "charges", ""] {
            assert!(!is_about_money(event_type), "{event_type}");
        }
    }
}
