//! A sender that behaves like Stripe: life cycles of payments from a seed, each event delivered at least once and until
//! it is answered with 200, some twice, some late. Remembers how every delivery ended.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use shared::signature::SigningKey;
use tokio::task::JoinSet;

use crate::checker::{Delivery, History, Outcome, Sent, Told};
use crate::stripe::{SECRET, event};

/// How long an answer may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Stripe waits for minutes and hours; the order of its waits is the same.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(1);
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

/// Which events, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Life cycles of every kind, mostly in order.
    Mixed,
    /// Each payment is told by three types of events at the same moment.
    Thrice,
    /// Life cycles of every kind, all at the same moment, each in a random order.
    Shuffled,
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The same seed gives the same events.
    pub seed: u64,
    /// Orders, each with one to three events.
    pub orders: usize,
    /// They begin spread over this time.
    pub over: Duration,
    /// Which events.
    pub shape: Shape,
    /// How long an event is sent again before the sender gives up.
    pub patience: Duration,
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

    /// The catalogue and the orders, for `ops seed`.
    pub fn catalogue(&self) -> Value {
        let products: Vec<Value> = SEATS
            .iter()
            .map(|(id, currency, cents)| {
                json!({ "id": id, "kind": "seat", "name": id, "unit_amount_cents": cents, "currency": currency,
                    "capacity": CAPACITY })
            })
            .collect();
        let orders: Vec<Value> = (0..self.orders)
            .map(|n| {
                json!({ "id": self.order(n), "user_id": format!("u_{n}"), "email": "buyer@example.com",
                    "items": [{ "product": SEATS[n % SEATS.len()].0, "quantity": 2 }] })
            })
            .collect();
        json!({ "products": products, "orders": orders })
    }

    fn order(&self, n: usize) -> String {
        format!("ord_{:x}_{n}", self.seed)
    }

    /// Everything to send.
    fn parcels(&self) -> Vec<Parcel> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut parcels = Vec::new();
        for n in 0..self.orders {
            let begins = self.over.mul_f64(rng.random_range(0.0..1.0));
            let events = match self.shape {
                Shape::Thrice => vec![CHARGED, SUCCEEDED, COMPLETED],
                Shape::Mixed | Shape::Shuffled => life_cycle(&mut rng),
            };
            for (step, (event_type, told)) in events.into_iter().enumerate() {
                let id = format!("evt_{:x}_{n}_{step}", self.seed);
                parcels.push(Parcel {
                    body: self.body(n, &id, event_type, told),
                    sent: self.sent(n, id, event_type, told),
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
            Shape::Shuffled => LATE.mul_f64(rng.random_range(0.0..1.0)),
            Shape::Mixed => {
                let late = rng.random_ratio(SHUFFLES_PERCENT, 100);
                let due = STEP * u32::try_from(step).unwrap_or_default();
                if late { due + LATE } else { due }
            }
        }
    }

    fn worth(n: usize) -> (i64, &'static str) {
        let (_, currency, cents) = SEATS[n % SEATS.len()];
        (2 * cents, currency)
    }

    /// One event of the plan, to be sent by somebody else too.
    pub fn first_body(&self) -> String {
        let first = self.parcels().into_iter().next();
        first.map(|parcel| parcel.body).unwrap_or_default()
    }

    fn sent(&self, n: usize, id: String, event_type: &str, told: Told) -> Sent {
        let (amount_cents, currency) = Self::worth(n);
        Sent {
            id,
            order: (event_type != UNKNOWN_TYPE).then(|| self.order(n)),
            told: match told {
                Told::Refunded(percent) => Told::Refunded(amount_cents * percent / 100),
                told => told,
            },
            amount_cents,
            currency: currency.to_owned(),
        }
    }

    fn body(&self, n: usize, id: &str, event_type: &str, told: Told) -> String {
        let (amount, currency) = Self::worth(n);
        let (order, metadata) = (self.order(n), json!({ "order_id": self.order(n) }));
        let intent = format!("pi_{order}");
        let object = match event_type {
            "charge.succeeded" | "charge.refunded" => {
                let refunded = match told {
                    Told::Refunded(percent) => amount * percent / 100,
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
        };
        event(id, event_type, &object)
    }
}

const UNKNOWN_TYPE: &str = "customer.tax_id.created";
const SUCCEEDED: (&str, Told) = ("payment_intent.succeeded", Told::Captured);
const CHARGED: (&str, Told) = ("charge.succeeded", Told::Captured);
const COMPLETED: (&str, Told) = ("checkout.session.completed", Told::Captured);
const FAILED: (&str, Told) = ("payment_intent.payment_failed", Told::Failed);

/// The events of one order. Refunds are in percent here.
fn life_cycle(rng: &mut StdRng) -> Vec<(&'static str, Told)> {
    let refunded = |percent| ("charge.refunded", Told::Refunded(percent));
    match rng.random_range(0..8) {
        0..=1 => vec![CHARGED, SUCCEEDED, COMPLETED],
        2 => vec![SUCCEEDED],
        3 => vec![FAILED, SUCCEEDED],
        4 => vec![FAILED],
        5 => vec![SUCCEEDED, refunded(50)],
        6 => vec![CHARGED, SUCCEEDED, refunded(100)],
        _ => vec![(UNKNOWN_TYPE, Told::Nothing), SUCCEEDED],
    }
}

struct Parcel {
    sent: Sent,
    body: String,
    due: Duration,
    twice: bool,
}

/// Gateways to choose from, as a load balancer does, and how to sign.
#[derive(Clone, Default)]
pub struct Targets(Arc<Mutex<Signing>>);

struct Signing {
    gateways: Vec<SocketAddr>,
    secret: String,
    /// The sender's clock may be off by so many seconds either way.
    skew_s: i64,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            gateways: Vec::new(),
            secret: SECRET.to_owned(),
            skew_s: 0,
        }
    }
}

impl Targets {
    /// Sends to these from now on.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        self.0.lock().unwrap().gateways = addresses;
    }

    /// Signs with another secret from now on.
    pub fn sign_with(&self, secret: &str) {
        secret.clone_into(&mut self.0.lock().unwrap().secret);
    }

    /// Lets the sender's clock be off.
    pub fn skew(&self, seconds: i64) {
        self.0.lock().unwrap().skew_s = seconds;
    }

    fn choose(&self, body: &str) -> Option<(SocketAddr, String)> {
        let signing = self.0.lock().unwrap();
        let index = rand::random_range(0..signing.gateways.len().max(1));
        let gateway = signing.gateways.get(index).copied()?;
        let skew_s = rand::random_range(-signing.skew_s..=signing.skew_s);
        let now = Timestamp::now().as_second() + skew_s;
        let header = SigningKey::new(&signing.secret).sign(now, body.as_bytes());
        Some((gateway, header))
    }
}

#[derive(Clone)]
struct Sender {
    targets: Targets,
    http: reqwest::Client,
    began: Instant,
    deliveries: Arc<Mutex<Vec<(u64, Delivery)>>>,
}

/// A plan being carried out.
pub struct Load {
    sender: Sender,
    sent: Vec<Sent>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins to send.
    pub fn start(targets: Targets, plan: &Plan) -> Self {
        let http = reqwest::Client::builder()
            .timeout(DELIVERY_TIMEOUT)
            .build()
            .expect("a client");
        let sender = Sender {
            targets,
            http,
            began: Instant::now(),
            deliveries: Arc::default(),
        };
        let (mut tasks, mut sent) = (JoinSet::new(), Vec::new());
        for parcel in plan.parcels() {
            sent.push(parcel.sent.clone());
            tasks.spawn(sender.clone().send(parcel, plan.patience));
        }
        Self {
            sender,
            sent,
            tasks,
        }
    }

    /// Nothing to send.
    pub fn none() -> Self {
        Self::start(Targets::default(), &Plan::new(0, 0, 0))
    }

    /// How many deliveries were answered with 200 so far.
    pub fn acknowledged(&self) -> usize {
        let deliveries = self.sender.deliveries.lock().unwrap();
        let taken = |outcome: Outcome| outcome == Outcome::Acknowledged;
        deliveries
            .iter()
            .filter(|(_, delivery)| taken(delivery.outcome))
            .count()
    }

    /// Events in all.
    pub fn events(&self) -> usize {
        self.sent.len()
    }

    /// The ids of all events.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.sent.iter().map(|sent| sent.id.as_str())
    }

    /// Waits until every event is answered with 200 or given up.
    pub async fn finish(mut self) -> History {
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let mut deliveries = std::mem::take(&mut *self.sender.deliveries.lock().unwrap());
        deliveries.sort_by_key(|(ended_ms, _)| *ended_ms);
        History {
            sent: self.sent,
            deliveries: deliveries
                .into_iter()
                .map(|(_, delivery)| delivery)
                .collect(),
        }
    }
}

impl Sender {
    /// Sends an event until it is taken, and then perhaps once more.
    async fn send(self, parcel: Parcel, patience: Duration) {
        tokio::time::sleep(parcel.due).await;
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_RETRY;
        while self.deliver(&parcel).await != Outcome::Acknowledged {
            if Instant::now() > deadline {
                return;
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
        if parcel.twice {
            tokio::time::sleep(FIRST_RETRY).await;
            self.deliver(&parcel).await;
        }
    }

    async fn deliver(&self, parcel: &Parcel) -> Outcome {
        let started_ms = self.now_ms();
        let (outcome, status) = match self.targets.choose(&parcel.body) {
            Some((gateway, header)) => self.post(gateway, header, parcel.body.clone()).await,
            None => (Outcome::Refused, 0),
        };
        let ended_ms = self.now_ms();
        // A failure counts from when it began, a success from when it was known.
        let at_ms = match outcome {
            Outcome::Acknowledged => ended_ms,
            Outcome::Refused | Outcome::Unknown => started_ms,
        };
        let delivery = Delivery {
            event_id: parcel.sent.id.clone(),
            at_ms,
            outcome,
            status,
        };
        self.deliveries.lock().unwrap().push((ended_ms, delivery));
        outcome
    }

    async fn post(&self, gateway: SocketAddr, header: String, body: String) -> (Outcome, u16) {
        let request = self
            .http
            .post(format!("http://{gateway}/webhooks/stripe"))
            .header("stripe-signature", header)
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => (Outcome::Acknowledged, 200),
            Ok(answer) => (Outcome::Refused, answer.status().as_u16()),
            Err(error) if error.is_connect() => (Outcome::Refused, 0),
            Err(_) => (Outcome::Unknown, 0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
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
}
