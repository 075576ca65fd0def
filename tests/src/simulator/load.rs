//! A plan being carried out: every event delivered until it is answered with 200.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::plan::{Parcel, Plan};
use super::targets::Targets;
use crate::checker::{Delivery, Forgery, History, Outcome, Sent};

/// How long a sender waits: for longer than the gateway may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(12);
/// Stripe waits for minutes and hours; the order of its waits is the same.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

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
    patience: Duration,
    sent: Vec<Sent>,
    first_body: String,
    forgeries: Vec<Forgery>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins to send.
    pub fn start(targets: Targets, plan: &Plan) -> Self {
        let http = reqwest::Client::builder()
            .timeout(DELIVERY_TIMEOUT)
            // A gateway that serves its old connections only is not available.
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client");
        let sender = Sender {
            targets,
            http,
            began: Instant::now(),
            deliveries: Arc::default(),
        };
        let mut load = Self {
            sender,
            patience: plan.patience,
            sent: Vec::new(),
            first_body: String::new(),
            forgeries: Vec::new(),
            tasks: JoinSet::new(),
        };
        for parcel in plan.parcels() {
            load.send(parcel);
        }
        load
    }

    /// Sends one more event; its time counts from now.
    pub fn send(&mut self, parcel: Parcel) {
        if self.sent.is_empty() {
            self.first_body.clone_from(&parcel.body);
        }
        self.sent.push(parcel.sent.clone());
        let sending = self.sender.clone().send(parcel, self.patience);
        self.tasks.spawn(sending);
    }

    /// Counts an event that was taken before: it must not get lost either.
    pub fn adopt(&mut self, sent: Sent) {
        let now_ms = self.sender.now_ms();
        let delivery = Delivery {
            event_id: sent.id.clone(),
            at_ms: now_ms,
            took_ms: 0,
            outcome: Outcome::Acknowledged,
            status: 200,
        };
        self.sent.push(sent);
        let deliveries = &self.sender.deliveries;
        deliveries.lock().unwrap().push((now_ms, delivery));
    }

    /// Counts a request that no honest sender makes.
    pub fn forged(&mut self, forgery: Forgery) {
        self.forgeries.push(forgery);
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

    /// Events that were answered with 200 so far.
    pub fn acknowledged_ids(&self) -> BTreeSet<String> {
        let deliveries = self.sender.deliveries.lock().unwrap();
        let deliveries = deliveries.iter().map(|(_, delivery)| delivery);
        deliveries
            .filter(|delivery| delivery.outcome == Outcome::Acknowledged)
            .map(|delivery| delivery.event_id.clone())
            .collect()
    }

    /// The bytes of the first event, to be sent by somebody else too.
    pub fn first_body(&self) -> String {
        self.first_body.clone()
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
            forgeries: self.forgeries,
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
            took_ms: ended_ms - started_ms,
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
