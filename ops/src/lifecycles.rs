//! Life cycles of an order or a subscription, as Stripe tells them.

/// One event of a life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its type.
    pub event_type: &'static str,
    /// How much of the amount went back until then, in percent.
    pub refunded_percent: i64,
}

const fn step(event_type: &'static str) -> Step {
    Step {
        event_type,
        refunded_percent: 100,
    }
}

const fn refund(refunded_percent: i64) -> Step {
    Step {
        event_type: "charge.refunded",
        refunded_percent,
    }
}

const SUCCEEDED: Step = step("payment_intent.succeeded");
const CHARGED: Step = step("charge.succeeded");
const COMPLETED: Step = step("checkout.session.completed");
const FAILED: Step = step("payment_intent.payment_failed");

/// Every life cycle, by name.
const LIFECYCLES: &[(&str, &[Step])] = &[
    ("paid", &[CHARGED, SUCCEEDED, COMPLETED]),
    (
        "paid-then-refunded",
        &[
            CHARGED,
            SUCCEEDED,
            COMPLETED,
            step("refund.created"),
            refund(100),
        ],
    ),
    (
        "paid-then-partly-refunded",
        &[SUCCEEDED, refund(40), refund(100)],
    ),
    ("refunded-before-paid", &[refund(100), SUCCEEDED]),
    ("failed-then-paid", &[FAILED, FAILED, SUCCEEDED]),
    (
        "failed-then-canceled",
        &[FAILED, step("payment_intent.canceled")],
    ),
    ("expired", &[step("checkout.session.expired")]),
    (
        "delayed-then-paid",
        &[
            step("payment_intent.processing"),
            step("checkout.session.async_payment_succeeded"),
        ],
    ),
    (
        "delayed-then-failed",
        &[
            step("payment_intent.processing"),
            step("checkout.session.async_payment_failed"),
        ],
    ),
    (
        "authorized-then-paid",
        &[step("payment_intent.amount_capturable_updated"), SUCCEEDED],
    ),
    (
        "disputed-then-lost",
        &[
            SUCCEEDED,
            step("charge.dispute.created"),
            step("charge.dispute.closed"),
        ],
    ),
    (
        "refund-failed",
        &[SUCCEEDED, refund(100), step("refund.failed")],
    ),
    (
        "subscribed",
        &[
            step("customer.subscription.created"),
            step("invoice.paid"),
            step("customer.subscription.updated"),
            step("invoice.payment_failed"),
            step("customer.subscription.deleted"),
        ],
    ),
];

/// The steps of a life cycle.
pub fn find(name: &str) -> Option<&'static [Step]> {
    LIFECYCLES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, steps)| *steps)
}

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    LIFECYCLES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_template() {
        let known: Vec<&str> = crate::events::types().collect();
        for (name, steps) in LIFECYCLES {
            for step in *steps {
                assert!(
                    known.contains(&step.event_type),
                    "{name}: {}",
                    step.event_type
                );
            }
        }
    }
}
