//! How many events the gateway accepts, how fast its 200 is, and what an accepted event costs. No worker runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::binaries::Process;
use harness::broker::Broker;
use harness::{TestBed, eventually};

use crate::Plan;
use crate::load::{self, Pace, Requests, Shape};
use crate::measure::{Watch, check};
use crate::report::{Figures, Row};

/// Before anything is measured: connections, plans, caches.
const WARM_UP: Duration = Duration::from_millis(500);
const WARM_UP_EVENTS: usize = 5_000;
/// Events made ready, as a multiple of what the warm-up's rate needs.
const RESERVE: f64 = 2.0;

/// At 1, 64 and 256 connections, and at 1,000 events a second.
pub async fn run(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, shape) in [
        ("ingest, 1 connection", Shape::closed(1)),
        ("ingest, 64 connections", Shape::closed(64)),
        ("ingest, 256 connections", Shape::closed(256)),
        ("ingest, 1,000/s", Shape::per_second(1_000)),
    ] {
        let mut repeats = Vec::new();
        for _ in 0..plan.repeats {
            let bed = TestBed::new().await;
            repeats.push(measure(plan, &bed, shape).await?);
        }
        rows.push(plan.row(name, &repeats));
    }
    Ok(rows)
}

/// Runs a gateway on what the database holds already, and checks that it keeps all that it accepts.
pub async fn measure(plan: &Plan, bed: &TestBed, shape: Shape) -> Result<Figures> {
    let stored_before = bed.count(STORED).await;
    let gateway = Process::gateway(bed, &[]).await;
    let requests = Requests::signed(gateway.address, 0..WARM_UP_EVENTS);
    let closed = Shape::closed(shape.connections);
    let warm_up = load::drive(gateway.address, requests, closed, WARM_UP).await?;
    let count = match shape.pace {
        Pace::Closed => (warm_up.per_second() * RESERVE * plan.length().as_secs_f64()) as usize,
        Pace::PerSecond(rate) => (rate * plan.seconds) as usize,
    };
    let numbers = WARM_UP_EVENTS..WARM_UP_EVENTS + count;
    let requests = Requests::signed(gateway.address, numbers);
    bed.db.batch_execute("CHECKPOINT").await?;
    let watch = Watch::servers(bed).await.with(&gateway);
    let before = watch.cpu_time();
    let load = load::drive(gateway.address, requests, shape, plan.length()).await?;
    let cost = watch.cost_since(&before, load.accepted.len());
    ensure!(load.refused == 0, "{} events were refused", load.refused);
    let accepted = warm_up.accepted.len() + load.accepted.len();
    let stored = usize::try_from(stored_before)? + accepted;
    check(bed, "events stored", STORED, stored).await?;
    check(bed, "bodies stored", BODIES, stored).await?;
    until_all_have_messages(bed, accepted).await;
    let latency_ms = |accepted: &load::Accepted| accepted.latency.as_secs_f64() * 1_000.0;
    let latencies = load.accepted.iter().map(latency_ms).collect();
    let figures = Figures {
        per_second: Some(load.per_second()),
        ..cost
    };
    Ok(figures.with_latencies(latencies))
}

const STORED: &str = "SELECT count(*) FROM webhook_events";
const BODIES: &str = "SELECT count(*) FROM event_payloads";

/// Each accepted event is a message in the queue, or an outbox row that the relay would publish.
async fn until_all_have_messages(bed: &TestBed, accepted: usize) {
    let broker = Broker::connect(bed).await;
    eventually("each event has its message", async || {
        let waiting = bed.count("SELECT count(*) FROM outbox").await;
        let messages = i64::from(broker.ready().await) + waiting;
        (usize::try_from(messages) == Ok(accepted)).then_some(())
    })
    .await;
}
