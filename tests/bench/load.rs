//! The load generator: unique events, each signed, over keep-alive connections. In a closed loop each connection
//! sends its next event once it has its answer; in an open one events fall due at a fixed rate, whatever the gateway does.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::stripe::SECRET;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shared::signature::SigningKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// What every event and order costs.
pub const AMOUNT_CENTS: i64 = 2_500;
/// Stands for an event's number in the template: 24 digits in all ids of the event.
pub const NUMBER: &str = "{{n}}";
/// An answer's head and body: the gateway's are far shorter.
const MAX_ANSWER_BYTES: usize = 4_096;

/// When events are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As soon as a connection is free.
    Closed,
    /// At a fixed rate.
    PerSecond(u32),
}

/// How events are sent.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Connections at a time.
    pub connections: usize,
    /// When each event is sent.
    pub pace: Pace,
}

impl Shape {
    /// Each of the connections sends its next event once it has its answer.
    pub fn closed(connections: usize) -> Self {
        let pace = Pace::Closed;
        Self { connections, pace }
    }

    /// At a fixed rate, with connections enough not to wait for one.
    pub fn per_second(rate: u32) -> Self {
        let pace = Pace::PerSecond(rate);
        Self {
            connections: 64,
            pace,
        }
    }
}

/// An event that was answered with 200.
pub struct Accepted {
    /// Which one.
    pub number: usize,
    /// From when it fell due to its answer.
    pub latency: Duration,
    /// When its answer was there.
    pub at: Timestamp,
}

/// What came of sending events.
#[derive(Default)]
pub struct Load {
    /// Answered with 200.
    pub accepted: Vec<Accepted>,
    /// Answered with anything else.
    pub refused: usize,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Load {
    /// Events accepted in a second.
    pub fn per_second(&self) -> f64 {
        self.accepted.len() as f64 / self.took.as_secs_f64()
    }
}

/// The body of every event, with [`NUMBER`] where it differs: the payment of the order of that number.
pub fn template() -> String {
    let (created, id) = (Timestamp::now().as_second(), |prefix: &str| {
        format!("{prefix}_{NUMBER}")
    });
    let values = json!({
        "event_id": id("evt"), "created": created, "livemode": false, "payment_intent": id("pi"), "charge": id("ch"),
        "customer": id("cus"), "amount": AMOUNT_CENTS, "currency": "usd", "email": "buyer@example.com",
        "metadata": { "order_id": id("order") }, "request_id": id("req"), "idempotency_key": id("key"),
        "client_secret": id("pi_secret"),
    });
    let values: Map<String, Value> = values.as_object().cloned().unwrap_or_default();
    ops::events::render("payment_intent.succeeded", &values).unwrap_or_default()
}

/// The id of an event.
pub fn event_id(number: usize) -> String {
    format!("evt_{number:024}")
}

/// The requests of consecutive events.
pub struct Requests {
    first: usize,
    count: usize,
    form: Form,
    /// Those that were signed beforehand: all of them or none.
    ready: Vec<Vec<u8>>,
}

impl Requests {
    /// Signs the events of these numbers beforehand, so that sending costs nothing: a signature lasts for five minutes.
    pub fn signed(gateway: SocketAddr, numbers: Range<usize>) -> Self {
        let mut requests = Self::to_be_signed(gateway, numbers.clone());
        let now = Timestamp::now().as_second();
        requests.ready = numbers
            .map(|number| requests.form.fill(number, now))
            .collect();
        requests
    }

    /// Signs each event when it is sent: for load that lasts.
    pub fn to_be_signed(gateway: SocketAddr, numbers: Range<usize>) -> Self {
        Self {
            first: numbers.start,
            count: numbers.len(),
            form: Form::new(gateway),
            ready: Vec::new(),
        }
    }

    fn bytes(&self, index: usize) -> Cow<'_, [u8]> {
        match self.ready.get(index) {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(
                self.form
                    .fill(self.first + index, Timestamp::now().as_second()),
            ),
        }
    }
}

/// What every request has in common.
struct Form {
    gateway: SocketAddr,
    template: String,
    key: SigningKey,
}

impl Form {
    fn new(gateway: SocketAddr) -> Self {
        let (template, key) = (template(), SigningKey::new(SECRET));
        Self {
            gateway,
            template,
            key,
        }
    }

    /// The request of one event, signed at that Unix time in seconds.
    fn fill(&self, number: usize, now: i64) -> Vec<u8> {
        let body = self.template.replace(NUMBER, &format!("{number:024}"));
        let signature = self.key.sign(now, body.as_bytes());
        let (gateway, length) = (self.gateway, body.len());
        format!(
            "POST /webhooks/stripe HTTP/1.1\r\nHost: {gateway}\r\nUser-Agent: Stripe/1.0 \
             (+https://stripe.com/docs/webhooks)\r\nAccept: */*\r\nContent-Type: application/json; \
             charset=utf-8\r\nStripe-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Sends the requests; in a closed loop for `limit` at the most.
pub async fn drive(
    gateway: SocketAddr,
    requests: Requests,
    shape: Shape,
    limit: Duration,
) -> Result<Load> {
    let requests = Arc::new(requests);
    let mut connections = Vec::new();
    for _ in 0..shape.connections {
        connections.push(Connection::open(gateway).await?);
    }
    let started = Instant::now();
    let turns = Arc::new(Turns::start(requests.count, shape.pace, limit));
    let mut sending = JoinSet::new();
    for connection in connections {
        sending.spawn(connection.send(requests.clone(), turns.clone()));
    }
    let mut load = Load::default();
    while let Some(sent) = sending.join_next().await {
        let part = sent??;
        load.accepted.extend(part.accepted);
        load.refused += part.refused;
    }
    load.took = started.elapsed();
    Ok(load)
}

/// Tells connections what to send next, and when it fell due.
pub enum Turns {
    Closed {
        next: AtomicUsize,
        count: usize,
        until: Instant,
    },
    Open(Mutex<mpsc::UnboundedReceiver<(usize, Instant)>>),
}

impl Turns {
    /// Begins with the first of `count` turns; in a closed loop there are none after `limit`.
    pub fn start(count: usize, pace: Pace, limit: Duration) -> Self {
        match pace {
            Pace::Closed => Self::Closed {
                next: AtomicUsize::new(0),
                count,
                until: Instant::now() + limit,
            },
            Pace::PerSecond(rate) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                std::thread::spawn(move || keep_time(&sender, count, rate));
                Self::Open(Mutex::new(receiver))
            }
        }
    }

    /// The next turn's index, and when it fell due.
    pub async fn next(&self) -> Option<(usize, Instant)> {
        match self {
            Self::Closed { next, count, until } => {
                let (index, now) = (next.fetch_add(1, Ordering::Relaxed), Instant::now());
                (index < *count && now < *until).then_some((index, now))
            }
            Self::Open(due) => due.lock().await.recv().await,
        }
    }
}

/// On a thread of its own: the runtime's timers are a millisecond coarse.
fn keep_time(sender: &mpsc::UnboundedSender<(usize, Instant)>, count: usize, rate: u32) {
    let started = Instant::now();
    for index in 0..count {
        let due = started + Duration::from_secs_f64(index as f64 / f64::from(rate));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if sender.send((index, due)).is_err() {
            return;
        }
    }
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(gateway: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let answer = vec![0; MAX_ANSWER_BYTES];
        Ok(Self { stream, answer })
    }

    async fn send(mut self, requests: Arc<Requests>, turns: Arc<Turns>) -> Result<Load> {
        let mut load = Load::default();
        while let Some((index, due)) = turns.next().await {
            self.stream.write_all(&requests.bytes(index)).await?;
            if self.status().await? != 200 {
                load.refused += 1;
                continue;
            }
            load.accepted.push(Accepted {
                number: requests.first + index,
                latency: due.elapsed(),
                at: Timestamp::now(),
            });
        }
        Ok(load)
    }

    /// Reads a whole answer, and returns its status.
    async fn status(&mut self) -> Result<u16> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.answer[filled..]).await?;
            if read == 0 {
                bail!("the gateway closed a connection");
            }
            filled += read;
            if let Some((status, length)) = parse(&self.answer[..filled])?
                && filled >= length
            {
                return Ok(status);
            }
        }
    }
}

/// Status and length in bytes of an answer, once its head is there.
fn parse(answer: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..head])?;
    let status = text.split(' ').nth(1).context("an answer without status")?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim())
    });
    let body: usize = length.context("an answer without length")?.parse()?;
    Ok(Some((status.parse()?, head + 4 + body)))
}
