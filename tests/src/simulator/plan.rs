//! What to send, and when: the same from the same seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cycles::{Page, Shape, Subject, life_cycle};
use crate::checker::{Fate, Sent, Told};

/// Of a hundred events, so many are delivered once more, and so many late.
const DUPLICATES_PERCENT: u32 = 5;
const SHUFFLES_PERCENT: u32 = 5;
const LATE: Duration = Duration::from_millis(1_500);
/// Between two events of one order.
const STEP: Duration = Duration::from_millis(40);

/// What can be bought: one kind of seat in each currency, of which an order has two. Yen have no minor unit.
const SEATS: [(&str, &str, i64); 3] = [
    ("seat_usd", "usd", 2_500),
    ("seat_eur", "eur", 1_990),
    ("seat_jpy", "jpy", 3_000),
];
/// No order of a run may fail for lack of seats.
const CAPACITY: i64 = 1_000_000;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The same seed gives the same events.
    pub seed: u64,
    /// Orders, each with one to six events.
    pub orders: usize,
    /// They begin spread over this time.
    pub over: Duration,
    /// Which events.
    pub shape: Shape,
    /// How long an event is sent again before the sender gives up.
    pub patience: Duration,
}

/// One event to send.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// What the checker must know of it.
    pub sent: Sent,
    /// Its exact bytes.
    pub body: String,
    /// When, after the beginning.
    pub due: Duration,
    /// Whether it is delivered once more.
    pub twice: bool,
}

impl Parcel {
    /// An event that nobody handles.
    pub fn unhandled(id: String, body: String) -> Self {
        Self {
            sent: Sent {
                id,
                order: None,
                told: Told::Nothing,
                fate: Fate::Ignored("no_handler"),
                amount_cents: 0,
                currency: String::new(),
                digest: digest(&body),
            },
            body,
            due: Duration::ZERO,
            twice: false,
        }
    }

    /// The same event under another id, which two plans of one seed would share.
    pub fn rename(&mut self, suffix: &str) {
        let id = format!("{}_{suffix}", self.sent.id);
        self.body = self.body.replace(&self.sent.id, &id);
        self.sent.digest = digest(&self.body);
        self.sent.id = id;
    }
}

fn digest(body: &str) -> String {
    hex::encode(Sha256::digest(body))
}

impl Plan {
    /// So many orders over so many seconds.
    pub fn new(seed: u64, orders: usize, seconds: u64) -> Self {
        Self {
            seed,
            orders,
            over: Duration::from_secs(seconds),
            shape: Shape::Mixed,
            patience: Duration::from_secs(120),
        }
    }

    /// With life cycles of another kind.
    pub fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The catalogue and the orders, for `ops seed`.
    pub fn catalogue(&self) -> Value {
        let product = |(id, currency, cents): &(&str, &str, i64)| {
            json!({ "id": id, "kind": "seat", "name": id, "unit_amount_cents": cents, "currency": currency,
                "capacity": CAPACITY })
        };
        let order = |n: usize| {
            json!({ "id": self.order(n), "user_id": format!("u_{n}"), "email": "buyer@example.com",
                "items": [{ "product": SEATS[n % SEATS.len()].0, "quantity": 2 }] })
        };
        let products: Vec<Value> = SEATS.iter().map(product).collect();
        let orders: Vec<Value> = (0..self.orders).map(order).collect();
        json!({ "products": products, "orders": orders })
    }

    fn order(&self, n: usize) -> String {
        format!("ord_{:x}_{n}", self.seed)
    }

    /// Everything to send.
    pub fn parcels(&self) -> Vec<Parcel> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut parcels = Vec::new();
        for n in 0..self.orders {
            let begins = self.over.mul_f64(rng.random_range(0.0..1.0));
            let pages = life_cycle(self.shape, n, &mut rng);
            for (step, page) in pages.into_iter().enumerate() {
                let (sent, body) = self.write(page, n, step);
                parcels.push(Parcel {
                    sent,
                    body,
                    due: begins + self.offset(step, &mut rng),
                    twice: rng.random_ratio(DUPLICATES_PERCENT, 100),
                });
            }
        }
        parcels
    }

    /// When an event of an order comes, after the order's beginning.
    fn offset(&self, step: usize, rng: &mut StdRng) -> Duration {
        match self.shape {
            Shape::Thrice => Duration::ZERO,
            Shape::Mixed | Shape::Paid => {
                let late = rng.random_ratio(SHUFFLES_PERCENT, 100);
                let due = STEP * u32::try_from(step).unwrap_or_default();
                if late { due + LATE } else { due }
            }
            Shape::Shuffled | Shape::Refunds | Shape::Foreign | Shape::Poison => {
                LATE.mul_f64(rng.random_range(0.0..1.0))
            }
        }
    }

    fn write(&self, page: Page, n: usize, step: usize) -> (Sent, String) {
        let (_, currency, cents) = SEATS[n % SEATS.len()];
        let (order, amount_cents) = (self.order(n), 2 * cents);
        let id = format!("evt_{:x}_{n}_{step}", self.seed);
        let subject = Subject {
            order: &order,
            amount_cents,
            currency,
        };
        let body = page.body(&id, &subject);
        let sent = Sent {
            id,
            told: page.told(amount_cents),
            fate: page.fate(),
            amount_cents,
            currency: currency.to_owned(),
            digest: digest(&body),
            order: page.is_about_an_order().then_some(order),
        };
        (sent, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(seed: u64) -> Vec<(String, Duration, bool)> {
        let parcels = Plan::new(seed, 200, 10).parcels();
        let tell = |parcel: Parcel| (parcel.sent.id, parcel.due, parcel.twice);
        parcels.into_iter().map(tell).collect()
    }

    #[test]
    fn a_seed_repeats_a_plan_and_another_one_does_not() {
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn every_kind_of_news_is_told_some_twice_and_some_late() {
        let parcels = Plan::new(7, 200, 10).parcels();
        for wanted in [Told::Nothing, Told::Failed, Told::Captured] {
            assert!(parcels.iter().any(|parcel| parcel.sent.told == wanted));
        }
        let refund =
            |parcel: &&Parcel| matches!(parcel.sent.told, Told::Refunded(cents) if cents > 0);
        assert!(parcels.iter().filter(refund).count() > 10);
        assert!(parcels.iter().filter(|parcel| parcel.twice).count() > 5);
    }

    #[test]
    fn odd_shapes_hold_events_of_every_fate_that_they_promise() {
        let fates = |shape| -> Vec<Fate> {
            let parcels = Plan::new(7, 12, 1).shaped(shape).parcels();
            parcels.iter().map(|parcel| parcel.sent.fate).collect()
        };
        let foreign = fates(Shape::Foreign);
        for wanted in [
            Fate::Done,
            Fate::Ignored("wrong_mode"),
            Fate::Dead("amount_mismatch"),
            Fate::Dead("currency_mismatch"),
        ] {
            assert!(foreign.contains(&wanted), "{wanted:?}");
        }
        assert!(fates(Shape::Refunds).contains(&Fate::Dead("refund_above_capture")));
        assert!(fates(Shape::Poison).contains(&Fate::Dead("invalid_payload")));
    }

    #[test]
    fn what_is_of_the_other_mode_says_so() {
        let parcels = Plan::new(7, 6, 1).shaped(Shape::Foreign).parcels();
        let live = |parcel: &&Parcel| parcel.body.contains(r#""livemode": true"#);
        assert_eq!(parcels.iter().filter(live).count(), 6);
    }
}
