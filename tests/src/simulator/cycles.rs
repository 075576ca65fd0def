//! The events of one order: which, in which order, what each says and what must become of it.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::checker::{Fate, Told};
use crate::stripe::event;

/// Which events, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Life cycles of every kind, mostly in order.
    Mixed,
    /// One success for each order.
    Paid,
    /// Each payment is told by three types of events at the same moment.
    Thrice,
    /// Life cycles of every kind, all at the same moment, each in a random order.
    Shuffled,
    /// Each payment is refunded in parts, before it and after it, twice, and beyond what was captured, in a random order.
    Refunds,
    /// Beside each payment, events of the other mode, of another amount, of another currency, and of an amount a hundred
    /// times off, in a random order. Only every second order has a payment of its own.
    Foreign,
    /// Beside each payment, one that is JSON, but no payment.
    Poison,
}

/// What is odd about an event.
#[derive(Debug, Clone, Copy)]
enum Twist {
    None,
    /// Live, where the others are of the test mode.
    OtherMode,
    /// The amount is another one.
    Amount(fn(i64) -> i64),
    /// The currency is another one.
    Currency,
    /// So many percent went back, of all that was captured.
    Refunded(i64),
    /// `data` is this one of [`poisons`].
    Poison(usize),
}

/// One event of an order, still without an id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    event_type: &'static str,
    told: Told,
    fate: Fate,
    twist: Twist,
}

/// What an event is about.
pub(super) struct Subject<'a> {
    /// The order.
    pub order: &'a str,
    /// What it is worth.
    pub amount_cents: i64,
    /// In which currency.
    pub currency: &'static str,
}

const UNKNOWN_TYPE: &str = "customer.tax_id.created";
const REFUNDED: &str = "charge.refunded";
const NO_HANDLER: Page = Page {
    event_type: UNKNOWN_TYPE,
    told: Told::Nothing,
    fate: Fate::Ignored("no_handler"),
    twist: Twist::None,
};
const SUCCEEDED: Page = captured("payment_intent.succeeded");
const CHARGED: Page = captured("charge.succeeded");
const COMPLETED: Page = captured("checkout.session.completed");
const FAILED: Page = Page {
    event_type: "payment_intent.payment_failed",
    told: Told::Failed,
    fate: Fate::Done,
    twist: Twist::None,
};

const fn captured(event_type: &'static str) -> Page {
    Page {
        event_type,
        told: Told::Captured,
        fate: Fate::Done,
        twist: Twist::None,
    }
}

const fn refunded(percent: i64) -> Page {
    Page {
        event_type: REFUNDED,
        told: Told::Nothing,
        fate: Fate::Done,
        twist: Twist::Refunded(percent),
    }
}

/// A success that must change nothing.
const fn odd(twist: Twist, fate: Fate) -> Page {
    Page {
        told: Told::Nothing,
        fate,
        twist,
        ..SUCCEEDED
    }
}

/// The events of an order.
pub(super) fn life_cycle(shape: Shape, number: usize, rng: &mut StdRng) -> Vec<Page> {
    match shape {
        Shape::Mixed | Shape::Shuffled => mixed(rng),
        Shape::Paid => vec![SUCCEEDED],
        Shape::Thrice => vec![CHARGED, SUCCEEDED, COMPLETED],
        Shape::Refunds => shuffled(refunds().to_vec(), rng),
        Shape::Foreign => shuffled(foreign(number), rng),
        Shape::Poison => {
            let poison = Twist::Poison(number % poisons().len());
            shuffled(
                vec![odd(poison, Fate::Dead("invalid_payload")), SUCCEEDED],
                rng,
            )
        }
    }
}

fn mixed(rng: &mut StdRng) -> Vec<Page> {
    match rng.random_range(0..8) {
        0..=1 => vec![CHARGED, SUCCEEDED, COMPLETED],
        2 => vec![SUCCEEDED],
        3 => vec![FAILED, SUCCEEDED],
        4 => vec![FAILED],
        5 => vec![SUCCEEDED, refunded(50)],
        6 => vec![CHARGED, SUCCEEDED, refunded(100)],
        _ => vec![NO_HANDLER, SUCCEEDED],
    }
}

/// Stripe tells the sum of all refunds: the second half is told twice, and so is all.
fn refunds() -> [Page; 6] {
    let beyond = Page {
        fate: Fate::Dead("refund_above_capture"),
        ..refunded(150)
    };
    [
        SUCCEEDED,
        refunded(50),
        refunded(50),
        refunded(100),
        refunded(100),
        beyond,
    ]
}

fn foreign(number: usize) -> Vec<Page> {
    let amount = |other: fn(i64) -> i64| odd(Twist::Amount(other), Fate::Dead("amount_mismatch"));
    let mut pages = vec![
        odd(Twist::OtherMode, Fate::Ignored("wrong_mode")),
        odd(Twist::Currency, Fate::Dead("currency_mismatch")),
        amount(|cents| cents - 1),
        // As one who takes yen for cents, or cents for yen.
        amount(|cents| cents * 100),
        amount(|cents| cents / 100),
    ];
    if number.is_multiple_of(2) {
        pages.push(SUCCEEDED);
    }
    pages
}

fn shuffled(mut pages: Vec<Page>, rng: &mut StdRng) -> Vec<Page> {
    pages.shuffle(rng);
    pages
}

/// What a reader may find in place of `data`.
fn poisons() -> [String; 6] {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let object = |fields: &str| format!(r#"{{"object":{{"id":"pi_poison",{fields}}}}}"#);
    [
        format!(r#"{{"object":{deep}}}"#),
        object(r#""amount":1e400,"currency":"usd""#),
        object(r#""amount":123456789012345678901234567890,"currency":"usd""#),
        object(r#""amount":5000,"amount":1,"currency":"usd""#),
        r#"{"object":"a string"}"#.to_owned(),
        "null".to_owned(),
    ]
}

impl Page {
    /// What it says, in the order's money.
    pub fn told(&self, amount_cents: i64) -> Told {
        match (self.twist, self.fate) {
            (Twist::Refunded(percent), Fate::Done) => Told::Refunded(amount_cents * percent / 100),
            _ => self.told,
        }
    }

    /// What must become of it.
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// Whether it is about an order at all.
    pub fn is_about_an_order(&self) -> bool {
        self.event_type != UNKNOWN_TYPE
    }

    /// Its body.
    pub fn body(&self, id: &str, subject: &Subject<'_>) -> String {
        if let Twist::Poison(which) = self.twist {
            let (kind, data) = (self.event_type, &poisons()[which]);
            return format!(
                r#"{{"id":"{id}","type":"{kind}","livemode":false,"created":1,"data":{data}}}"#
            );
        }
        let body = event(id, self.event_type, &self.object(subject));
        match self.twist {
            Twist::OtherMode => body.replace(r#""livemode": false"#, r#""livemode": true"#),
            _ => body,
        }
    }

    fn object(&self, subject: &Subject<'_>) -> Value {
        let order = subject.order;
        let (intent, metadata) = (format!("pi_{order}"), json!({ "order_id": order }));
        let amount = match self.twist {
            Twist::Amount(other) => other(subject.amount_cents),
            _ => subject.amount_cents,
        };
        let currency = match (self.twist, subject.currency) {
            (Twist::Currency, "usd") => "eur",
            (Twist::Currency, _) => "usd",
            (_, currency) => currency,
        };
        match self.event_type {
            "charge.succeeded" | REFUNDED => {
                let refunded = match self.twist {
                    Twist::Refunded(percent) => amount * percent / 100,
                    _ => 0,
                };
                json!({ "id": format!("ch_{order}"), "object": "charge", "amount": amount, "amount_captured": amount,
                    "captured": true, "amount_refunded": refunded, "refunded": refunded == amount,
                    "currency": currency, "payment_intent": intent, "metadata": metadata })
            }
            "checkout.session.completed" => {
                json!({ "id": format!("cs_{order}"), "object": "checkout.session",
                    "mode": "payment", "payment_status": "paid", "amount_total": amount, "currency": currency,
                    "client_reference_id": order, "payment_intent": intent, "metadata": {} })
            }
            _ => {
                json!({ "id": intent, "object": "payment_intent", "amount": amount, "amount_received": amount,
                    "currency": currency, "metadata": metadata,
                    "last_payment_error": { "code": "card_declined", "message": "Your card was declined." } })
            }
        }
    }
}
