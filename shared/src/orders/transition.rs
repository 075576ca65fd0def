//! (an order, one fact) → (the payment as known now, the new status, effects). Pure.
//!
//! What is known of a payment only ever grows: amounts take the highest value heard of, flags never fall. Status and
//! entitlement are derived from all that is known, so the order in which facts arrive cannot matter.

use super::{Dispute, Order, OrderStatus, Payment};
use crate::money::Money;

/// What an event says of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// See [`Payment::reference`].
    pub reference: String,
    /// What is new.
    pub news: News,
}

/// What can be new of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The amount is held for us, but not captured.
    Authorized(Money),
    /// The whole amount is captured.
    Succeeded(Money),
    /// One try to pay failed; another one may follow. Why, in the provider's words.
    Failed(String),
    /// It will never succeed: cancelled or expired.
    Closed {
        /// Why.
        reason: String,
        /// Whether the buyer tried and must be told.
        failed: bool,
    },
    /// Some or all of what was captured went back.
    Refunded {
        /// What had been captured.
        captured: Money,
        /// What went back until now, cumulative.
        refunded_cents: i64,
    },
    /// A refund failed after all: the money is still, or again, ours.
    RefundFailed,
    /// The buyer's bank wants the money back, or has decided.
    Disputed(Dispute),
}

/// What the buyer is entitled to, derived from the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entitlement {
    /// Seats are kept for the buyer; nothing is paid.
    Held,
    /// Nothing is paid and nothing will be: the seats are free.
    Released,
    /// What was ordered.
    Granted,
    /// All went back: nothing any more.
    Revoked,
}

/// What follows from a change. Each happens once: its cause does not occur twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Registrations active, tickets issued, courses granted, confirmation mailed.
    Grant,
    /// Registrations cancelled, tickets void, seats free.
    Revoke,
    /// Registrations cancelled, seats free.
    Release,
    /// The buyer is told that the payment failed.
    TellFailure {
        /// Why.
        reason: String,
    },
    /// The buyer is told what went back.
    TellRefund {
        /// This time.
        refunded: Money,
        /// Whether nothing of the payment is left.
        full: bool,
    },
    /// A person must know.
    Alert {
        /// A fixed word.
        kind: &'static str,
        /// What it is about.
        message: String,
    },
}

/// What a fact changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The payment as it is known now.
    pub payment: Payment,
    /// The order's status from now on.
    pub status: OrderStatus,
    /// The reason that goes with `cancelled` and `review`.
    pub status_reason: Option<String>,
    /// What follows.
    pub effects: Vec<Effect>,
}

/// The fact cannot be about this order: nothing is fulfilled, a person must look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Another amount than the order's.
    #[error("the amount is {found}, the order's is {expected}")]
    Amount {
        /// What the event says.
        found: Money,
        /// What the order says.
        expected: Money,
    },
    /// Another currency than the order's.
    #[error("the currency is {found}, the order's is {expected}")]
    Currency {
        /// What the event says.
        found: String,
        /// What the order says.
        expected: String,
    },
    /// More went back than was captured.
    #[error("{refunded_cents} of {captured_cents} refunded")]
    RefundAboveCapture {
        /// What the event says went back.
        refunded_cents: i64,
        /// What the event says was captured.
        captured_cents: i64,
    },
}

impl Order {
    /// Takes in a fact.
    pub fn apply(&self, fact: &Fact) -> Result<Change, Rejection> {
        self.check(&fact.news)?;
        let before = self.payment(&fact.reference);
        let payment = before.grown(&fact.news);
        let mut after = self.clone();
        after
            .payments
            .retain(|known| known.reference != payment.reference);
        after.payments.push(payment.clone());
        let (status, status_reason) = after.derived_status();
        let effects = self.effects(&before, &after, &payment, status);
        Ok(Change {
            payment,
            status,
            status_reason,
            effects,
        })
    }

    fn check(&self, news: &News) -> Result<(), Rejection> {
        let found = match news {
            News::Authorized(money) | News::Succeeded(money) => money,
            News::Refunded { captured, .. } => captured,
            News::Failed(_) | News::Closed { .. } | News::RefundFailed | News::Disputed(_) => {
                return Ok(());
            }
        };
        if found.currency != self.amount.currency {
            let (found, expected) = (found.currency.clone(), self.amount.currency.clone());
            return Err(Rejection::Currency { found, expected });
        }
        if found.amount_cents != self.amount.amount_cents {
            return Err(Rejection::Amount {
                found: found.clone(),
                expected: self.amount.clone(),
            });
        }
        match news {
            News::Refunded {
                captured,
                refunded_cents,
            } if !(0..=captured.amount_cents).contains(refunded_cents) => {
                Err(Rejection::RefundAboveCapture {
                    refunded_cents: *refunded_cents,
                    captured_cents: captured.amount_cents,
                })
            }
            _ => Ok(()),
        }
    }

    fn payment(&self, reference: &str) -> Payment {
        let known = self
            .payments
            .iter()
            .find(|payment| payment.reference == reference);
        known.cloned().unwrap_or_else(|| Payment::new(reference))
    }

    /// Payments that succeeded and whose money is still ours, at least in part.
    fn live_payments(&self) -> usize {
        self.payments
            .iter()
            .filter(|payment| payment.is_live())
            .count()
    }

    /// What the buyer is entitled to by all that is known, seats permitting.
    pub fn entitlement(&self) -> Entitlement {
        let any = |holds: fn(&Payment) -> bool| self.payments.iter().any(holds);
        match self.live_payments() {
            1.. => Entitlement::Granted,
            0 if any(|payment| payment.succeeded) => Entitlement::Revoked,
            0 if any(|payment| payment.closed) => Entitlement::Released,
            0 => Entitlement::Held,
        }
    }

    /// The status by all that is known, and why.
    pub fn derived_status(&self) -> (OrderStatus, Option<String>) {
        let any = |holds: fn(&Payment) -> bool| self.payments.iter().any(holds);
        let review = |reason: &str| (OrderStatus::Review, Some(reason.to_owned()));
        let live = self.live_payments();
        if live > 1 {
            return review("more than one payment was captured for this order");
        }
        if any(|payment| payment.refund_failed && payment.refunded_cents > 0) {
            return review("a refund failed: the money is still here");
        }
        if any(|payment| payment.dispute == Dispute::Lost) {
            return review("a dispute was lost: the bank took the money back");
        }
        let failure = || {
            self.payments
                .iter()
                .find_map(|payment| payment.failure.clone())
        };
        match self.entitlement() {
            Entitlement::Granted if self.unfulfillable => {
                review("paid, but it cannot be fulfilled")
            }
            Entitlement::Granted => (OrderStatus::Paid, None),
            Entitlement::Revoked => (OrderStatus::Refunded, None),
            Entitlement::Released => {
                let reason = failure().unwrap_or_else(|| "the payment was cancelled".to_owned());
                (OrderStatus::Cancelled, Some(reason))
            }
            Entitlement::Held => match failure() {
                Some(reason) => (OrderStatus::Cancelled, Some(reason)),
                None => (OrderStatus::Pending, None),
            },
        }
    }

    fn effects(
        &self,
        before: &Payment,
        after: &Self,
        payment: &Payment,
        status: OrderStatus,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        match (self.entitlement(), after.entitlement()) {
            (before, after) if before == after => {}
            (_, Entitlement::Granted) => effects.push(Effect::Grant),
            (_, Entitlement::Revoked) => effects.push(Effect::Revoke),
            (_, Entitlement::Released) => effects.push(Effect::Release),
            (_, Entitlement::Held) => {}
        }
        if payment.failed && !before.failed && status == OrderStatus::Cancelled {
            let reason = payment.failure.clone().unwrap_or_default();
            effects.push(Effect::TellFailure { reason });
        }
        if payment.refunded_cents > before.refunded_cents {
            let refunded_cents = payment.refunded_cents - before.refunded_cents;
            effects.push(Effect::TellRefund {
                refunded: Money::new(refunded_cents, self.amount.currency.clone()),
                full: payment.refunded_cents >= payment.captured_cents,
            });
        }
        if status == OrderStatus::Review && self.status != OrderStatus::Review {
            let message = after.derived_status().1.unwrap_or_default();
            effects.push(Effect::Alert {
                kind: "review",
                message,
            });
        }
        if before.dispute == Dispute::None && payment.dispute != Dispute::None {
            let message = "the buyer's bank disputes the payment".to_owned();
            effects.push(Effect::Alert {
                kind: "dispute",
                message,
            });
        }
        effects
    }
}

impl Payment {
    /// A payment of which nothing is known.
    pub fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            authorized: false,
            succeeded: false,
            captured_cents: 0,
            refunded_cents: 0,
            refund_failed: false,
            failure: None,
            failed: false,
            closed: false,
            dispute: Dispute::None,
        }
    }

    fn is_live(&self) -> bool {
        let all_refunded = self.refunded_cents > 0 && self.refunded_cents >= self.captured_cents;
        self.succeeded && !all_refunded && self.dispute != Dispute::Lost
    }

    fn grown(&self, news: &News) -> Self {
        let mut payment = self.clone();
        match news {
            News::Authorized(_) => payment.authorized = true,
            News::Succeeded(received) => {
                payment.succeeded = true;
                payment.captured_cents = payment.captured_cents.max(received.amount_cents);
            }
            News::Failed(reason) => {
                payment.failed = true;
                payment.failure.get_or_insert_with(|| reason.clone());
            }
            News::Closed { reason, failed } => {
                payment.closed = true;
                payment.failed |= failed;
                payment.failure.get_or_insert_with(|| reason.clone());
            }
            News::Refunded {
                captured,
                refunded_cents,
            } => {
                payment.succeeded = true;
                payment.captured_cents = payment.captured_cents.max(captured.amount_cents);
                payment.refunded_cents = payment.refunded_cents.max(*refunded_cents);
            }
            News::RefundFailed => payment.refund_failed = true,
            News::Disputed(dispute) => payment.dispute = payment.dispute.max(*dispute),
        }
        payment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(news: &[News]) -> Order {
        let facts: Vec<Fact> = news
            .iter()
            .map(|news| about("pi_1", news.clone()))
            .collect();
        after(&facts)
    }

    fn after(facts: &[Fact]) -> Order {
        let mut order = Order {
            id: "ord_1".to_owned(),
            status: OrderStatus::Pending,
            user_id: None,
            email: "buyer@example.com".to_owned(),
            amount: Money::new(5_000, "usd"),
            unfulfillable: false,
            items: Vec::new(),
            seats: 0,
            payments: Vec::new(),
        };
        for fact in facts {
            let change = order.apply(fact).unwrap();
            order
                .payments
                .retain(|payment| payment.reference != change.payment.reference);
            order.payments.push(change.payment);
            order.status = change.status;
        }
        order
    }

    fn about(reference: &str, news: News) -> Fact {
        Fact {
            reference: reference.to_owned(),
            news,
        }
    }

    fn succeeded() -> News {
        News::Succeeded(Money::new(5_000, "usd"))
    }

    fn failed() -> News {
        News::Failed("declined".to_owned())
    }

    fn closed() -> News {
        News::Closed {
            reason: "expired".to_owned(),
            failed: false,
        }
    }

    fn refunded(refunded_cents: i64) -> News {
        News::Refunded {
            captured: Money::new(5_000, "usd"),
            refunded_cents,
        }
    }

    fn tell(refunded_cents: i64, full: bool) -> Effect {
        Effect::TellRefund {
            refunded: Money::new(refunded_cents, "usd"),
            full,
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one row per cell of the table")]
    fn each_fact_moves_the_order_as_the_table_says() {
        use Effect::{Grant, Release, Revoke};
        use OrderStatus::{Cancelled, Paid, Pending, Refunded, Review};
        let told = || Effect::TellFailure {
            reason: "declined".to_owned(),
        };
        let authorized = || News::Authorized(Money::new(5_000, "usd"));
        let (pending, held) = (Vec::new(), vec![failed()]);
        let (expired, paid) = (vec![closed()], vec![succeeded()]);
        let partly = vec![succeeded(), refunded(2_000)];
        let gone = vec![succeeded(), refunded(5_000)];
        for (before, news, status, effects) in [
            (&pending, authorized(), Pending, vec![]),
            (&pending, succeeded(), Paid, vec![Grant]),
            (&pending, failed(), Cancelled, vec![told()]),
            (&pending, closed(), Cancelled, vec![Release]),
            (
                &pending,
                refunded(2_000),
                Paid,
                vec![Grant, tell(2_000, false)],
            ),
            (
                &pending,
                refunded(5_000),
                Refunded,
                vec![Revoke, tell(5_000, true)],
            ),
            (&pending, News::RefundFailed, Pending, vec![]),
            (&held, succeeded(), Paid, vec![Grant]),
            (&held, failed(), Cancelled, vec![]),
            (&held, closed(), Cancelled, vec![Release]),
            (&expired, succeeded(), Paid, vec![Grant]),
            (
                &expired,
                failed(),
                Cancelled,
                vec![Effect::TellFailure {
                    reason: "expired".to_owned(),
                }],
            ),
            (&expired, closed(), Cancelled, vec![]),
            (&paid, authorized(), Paid, vec![]),
            (&paid, succeeded(), Paid, vec![]),
            (&paid, failed(), Paid, vec![]),
            (&paid, closed(), Paid, vec![]),
            (&paid, refunded(2_000), Paid, vec![tell(2_000, false)]),
            (
                &paid,
                refunded(5_000),
                Refunded,
                vec![Revoke, tell(5_000, true)],
            ),
            (&paid, News::RefundFailed, Paid, vec![]),
            (&partly, refunded(1_000), Paid, vec![]),
            (&partly, refunded(2_000), Paid, vec![]),
            (&partly, refunded(3_000), Paid, vec![tell(1_000, false)]),
            (
                &partly,
                refunded(5_000),
                Refunded,
                vec![Revoke, tell(3_000, true)],
            ),
            (&gone, succeeded(), Refunded, vec![]),
            (&gone, failed(), Refunded, vec![]),
            (&gone, closed(), Refunded, vec![]),
            (&gone, refunded(2_000), Refunded, vec![]),
        ] {
            let change = order(before).apply(&about("pi_1", news.clone())).unwrap();
            assert_eq!(
                (change.status, change.effects),
                (status, effects),
                "{before:?} {news:?}"
            );
        }
        let review = |before: &[News], fact: Fact| {
            let change = order(before).apply(&fact).unwrap();
            assert_eq!(change.status, Review, "{before:?} {fact:?}");
            change.effects
        };
        let second = review(&paid, about("pi_2", succeeded()));
        assert!(
            matches!(second.as_slice(), [Effect::Alert { kind: "review", .. }]),
            "{second:?}"
        );
        let failed_refund = review(&gone, about("pi_1", News::RefundFailed));
        assert!(
            matches!(failed_refund.as_slice(), [Effect::Alert { .. }]),
            "{failed_refund:?}"
        );
        let lost = review(&paid, about("pi_1", News::Disputed(Dispute::Lost)));
        assert!(lost.contains(&Revoke) && lost.len() == 3, "{lost:?}");
    }

    #[test]
    fn an_open_dispute_flags_and_takes_nothing() {
        let change = order(&[succeeded()])
            .apply(&about("pi_1", News::Disputed(Dispute::Open)))
            .unwrap();
        assert_eq!(change.status, OrderStatus::Paid);
        assert!(matches!(
            change.effects.as_slice(),
            [Effect::Alert {
                kind: "dispute",
                ..
            }]
        ));
        let won = order(&[succeeded(), News::Disputed(Dispute::Open)]);
        let change = won
            .apply(&about("pi_1", News::Disputed(Dispute::Won)))
            .unwrap();
        assert_eq!((change.status, change.effects), (OrderStatus::Paid, vec![]));
    }

    #[test]
    fn a_second_payment_that_went_back_leaves_the_order_paid() {
        let facts = [
            about("pi_1", succeeded()),
            about("pi_2", succeeded()),
            about("pi_2", refunded(5_000)),
        ];
        assert_eq!(after(&facts[..2]).status, OrderStatus::Review);
        assert_eq!(after(&facts).status, OrderStatus::Paid);
    }

    #[test]
    fn seats_that_are_gone_make_a_paid_order_a_matter_for_a_person() {
        let mut order = order(&[succeeded()]);
        order.unfulfillable = true;
        assert_eq!(order.derived_status().0, OrderStatus::Review);
        let change = order.apply(&about("pi_1", refunded(5_000))).unwrap();
        assert_eq!(change.status, OrderStatus::Refunded);
    }

    #[test]
    fn another_amount_currency_or_too_high_a_refund_is_rejected() {
        let order = order(&[]);
        let apply = |news| order.apply(&about("pi_1", news));
        let received = |amount, currency: &str| News::Succeeded(Money::new(amount, currency));
        assert!(matches!(
            apply(received(4_999, "usd")),
            Err(Rejection::Amount { .. })
        ));
        assert!(matches!(
            apply(received(5_000, "eur")),
            Err(Rejection::Currency { .. })
        ));
        assert!(matches!(
            apply(refunded(5_001)),
            Err(Rejection::RefundAboveCapture { .. })
        ));
        assert!(matches!(
            apply(refunded(-1)),
            Err(Rejection::RefundAboveCapture { .. })
        ));
    }
}
