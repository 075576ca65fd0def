//! How many events workers process, how soon, and what a processed event costs. Each event pays an order of one seat.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use harness::TestBed;
use harness::binaries::Process;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::process::Command;

use crate::Plan;
use crate::load::{self, Load, Requests, Shape, event_id};
use crate::measure::{Watch, check, until_none};
use crate::report::{Figures, Row};

/// As a worker has it by default.
const CONCURRENCY: usize = 8;
/// Stored events for each second that a worker shall have work.
const BACKLOG_PER_SECOND: usize = 1_000;
/// Events a second while latency is measured.
const STEADY_RATE: u32 = 200;
/// Connections that store a backlog: few, so that publishing keeps up.
const BACKLOG_CONNECTIONS: usize = 8;
/// Without bounds: the count of events is one.
pub const NO_LIMIT: Duration = Duration::from_secs(600);

/// Asked while the worker works: to count them all each time would be work as well.
pub const UNFINISHED: &str = "SELECT count(*) FROM (
    SELECT FROM webhook_events WHERE state IN ('received', 'retrying') LIMIT 1) unfinished";

/// One worker on a backlog, the same effects by hand, and the time from the 200 to the end at a steady rate.
pub async fn run(plan: &Plan) -> Result<Vec<Row>> {
    let events = BACKLOG_PER_SECOND * plan.seconds as usize;
    let (mut worker, mut script, mut steady) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.repeats {
        let mut one = drain_backlog(events).await?;
        if let Some(by_hand) = by_hand(events).await? {
            one.ratio = one.per_second.zip(by_hand.per_second).map(|(a, b)| a / b);
            script.push(by_hand);
        }
        worker.push(one);
        steady.push(at_steady_rate(plan).await?);
    }
    let mut rows = vec![plan.row("worker, backlog", &worker)];
    if !script.is_empty() {
        rows.push(plan.row("the same effects by pgbench", &script));
    }
    rows.push(plan.row("worker, 200/s, ms after the 200", &steady));
    Ok(rows)
}

/// 1, 2, 4 and 8 workers of two places each, while each event waits 20 ms.
pub async fn scale(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for workers in [1, 2, 4, 8] {
        let mut repeats = Vec::new();
        for _ in 0..plan.repeats {
            repeats.push(waiting_workers(plan, workers).await?);
        }
        let mut row = plan.row(
            &format!("events that wait 20 ms, workers: {workers}"),
            &repeats,
        );
        let first = rows.first().unwrap_or(&row).figures.per_second;
        row.figures.ratio = row.figures.per_second.zip(first).map(|(a, b)| a / b);
        rows.push(row);
    }
    Ok(rows)
}

async fn drain_backlog(events: usize) -> Result<Figures> {
    let bed = TestBed::new().await;
    store_backlog(&bed, events).await?;
    let servers = Watch::servers(&bed).await;
    let before = servers.cpu_time();
    let mails = mail_dir()?;
    let worker = Process::worker(&bed, &[("MAIL_DIR", path(&mails)?)]).await;
    let watch = servers.with(&worker);
    until_none(&bed, UNFINISHED).await?;
    let cost = watch.cost_since(&before, events);
    check_effects(&bed, events).await?;
    Ok(Figures {
        per_second: Some(processed_per_second(&bed, events).await),
        ..cost
    })
}

/// Where mails become files: in memory, where there is such a place. What is measured is the worker, and not how a disk
/// makes thousands of files just after it has removed thousands.
fn mail_dir() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    })
}

fn path(directory: &TempDir) -> Result<&str> {
    directory.path().to_str().context("a path that is no text")
}

async fn by_hand(events: usize) -> Result<Option<Figures>> {
    let bed = TestBed::new().await;
    store_backlog(&bed, events).await?;
    let script = bed.path("effects.sql");
    std::fs::write(&script, include_str!("effects.sql"))?;
    let watch = Watch::servers(&bed).await;
    let before = watch.cpu_time();
    let clients = CONCURRENCY.to_string();
    let done = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-D", "i=-1"])
        .args(["-D", &format!("clients={clients}"), "-c", &clients])
        .args(["-t", &(events / CONCURRENCY).to_string(), "-f"])
        .arg(&script)
        .arg(bed.owner_url())
        // As the worker's sessions: its tables are empty when its plans are made.
        .env("PGOPTIONS", "-c enable_seqscan=off -c jit=off")
        .output()
        .await;
    let done = match done {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        done => done?,
    };
    let complaint = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "pgbench: {complaint}");
    let cost = watch.cost_since(&before, events);
    check_effects(&bed, events).await?;
    Ok(Some(Figures {
        per_second: Some(processed_per_second(&bed, events).await),
        broker_cpu_us: None,
        ..cost
    }))
}

async fn at_steady_rate(plan: &Plan) -> Result<Figures> {
    let bed = TestBed::new().await;
    let events = (STEADY_RATE * plan.seconds) as usize;
    seed_orders(&bed, events).await?;
    let gateway = Process::gateway(&bed, &[]).await;
    let mails = mail_dir()?;
    let worker = Process::worker(&bed, &[("MAIL_DIR", path(&mails)?)]).await;
    let requests = Requests::signed(gateway.address, 0..events);
    let watch = Watch::servers(&bed).await.with(&worker);
    let before = watch.cpu_time();
    let shape = Shape::per_second(STEADY_RATE);
    let load = load::drive(gateway.address, requests, shape, NO_LIMIT).await?;
    until_none(&bed, UNFINISHED).await?;
    let cost = watch.cost_since(&before, events);
    ensure!(load.refused == 0, "{} events were refused", load.refused);
    check_effects(&bed, events).await?;
    let figures = Figures {
        per_second: Some(processed_per_second(&bed, events).await),
        ..cost
    };
    Ok(figures.with_latencies(after_the_200(&bed, &load).await?))
}

/// Milliseconds from each answer to the end of the event's attempt. Its commit is still to come then.
pub async fn after_the_200(bed: &TestBed, load: &Load) -> Result<Vec<f64>> {
    let sql = "SELECT id, finished_at FROM webhook_events WHERE finished_at IS NOT NULL";
    let rows = bed.db.query(sql, &[]).await?;
    let finished: HashMap<String, Timestamp> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    load.accepted
        .iter()
        .map(|accepted| {
            let finished_at = finished
                .get(&event_id(accepted.number))
                .context("an accepted event is not stored, or not final")?;
            let took = finished_at.duration_since(accepted.at);
            Ok((took.as_secs_f64() * 1_000.0).max(0.0))
        })
        .collect()
}

async fn waiting_workers(plan: &Plan, workers: usize) -> Result<Figures> {
    const WAIT: &str = "
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
        CREATE TRIGGER wait BEFORE INSERT ON emails FOR EACH ROW EXECUTE FUNCTION wait()";
    // While all of them were at it: they neither start nor end at once.
    const TOGETHER: &str = "
        WITH each AS (
            SELECT min(started_at) AS began, max(finished_at) AS ended FROM event_attempts GROUP BY worker
        ), together AS (SELECT max(began) AS began, min(ended) AS ended FROM each)
        SELECT (SELECT count(*) FROM event_attempts WHERE finished_at BETWEEN began AND ended)
            / nullif(extract(epoch FROM ended - began), 0)::float8 FROM together";
    let bed = TestBed::new().await;
    let events = 120 * workers * plan.seconds as usize;
    store_backlog(&bed, events).await?;
    bed.db.batch_execute(WAIT).await?;
    let places = [("WORKER_CONCURRENCY", "2")];
    let starting = (0..workers).map(|_| Process::worker(&bed, &places));
    let _running = join_all(starting).await;
    until_none(&bed, UNFINISHED).await?;
    check_effects(&bed, events).await?;
    Ok(Figures {
        per_second: bed.row(TOGETHER, &[]).await.get(0),
        ..Figures::default()
    })
}

/// Orders of one seat each, over as many products as keep their locks apart.
pub async fn seed_orders(bed: &TestBed, orders: usize) -> Result<()> {
    const PRODUCTS: &str = "
        INSERT INTO products (id, kind, name, unit_amount_cents, currency, capacity)
        SELECT 'seat_' || n, 'seat', 'General admission', 2500, 'usd', 1000000 FROM generate_series(0, 199) n";
    const ORDERS: &str = "
        INSERT INTO orders (id, email, amount_cents, currency)
        SELECT 'order_' || lpad(n::text, 24, '0'), 'buyer@example.com', 2500, 'usd' FROM generate_series(0, $1::bigint - 1) n";
    const ITEMS: &str = "
        INSERT INTO order_items (order_id, product_id, quantity)
        SELECT 'order_' || lpad(n::text, 24, '0'), 'seat_' || n % 200, 1 FROM generate_series(0, $1::bigint - 1) n";
    const SEATS: &str = "
        INSERT INTO registrations (order_id, product_id) SELECT order_id, product_id FROM order_items ORDER BY order_id";
    let count = i64::try_from(orders)?;
    bed.db.execute(PRODUCTS, &[]).await?;
    bed.db.execute(ORDERS, &[&count]).await?;
    bed.db.execute(ITEMS, &[&count]).await?;
    bed.db.execute(SEATS, &[]).await?;
    settle(bed).await
}

/// So that nothing of it is written to the disk while something is measured.
async fn settle(bed: &TestBed) -> Result<()> {
    bed.db.batch_execute("VACUUM ANALYZE").await?;
    bed.db.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// Has a gateway store and publish events that nobody processes yet.
async fn store_backlog(bed: &TestBed, events: usize) -> Result<()> {
    seed_orders(bed, events).await?;
    let mut gateway = Process::gateway(bed, &[]).await;
    let requests = Requests::signed(gateway.address, 0..events);
    let shape = Shape::closed(BACKLOG_CONNECTIONS);
    let load = load::drive(gateway.address, requests, shape, NO_LIMIT).await?;
    ensure!(
        load.accepted.len() == events,
        "not all of the backlog was accepted"
    );
    until_none(bed, "SELECT count(*) FROM outbox").await?;
    gateway.signal("TERM");
    ensure!(gateway.exit_code().await == Some(0), "the gateway failed");
    settle(bed).await
}

/// From the first attempt's beginning to the last one's end.
async fn processed_per_second(bed: &TestBed, events: usize) -> f64 {
    const TOOK: &str =
        "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM event_attempts";
    let took: f64 = bed.row(TOOK, &[]).await.get(0);
    events as f64 / took
}

/// Every event has had its effects, and none of them twice.
async fn check_effects(bed: &TestBed, events: usize) -> Result<()> {
    for (what, sql) in [
        (
            "events processed",
            "SELECT count(*) FROM webhook_events WHERE state = 'processed'",
        ),
        ("attempts", "SELECT count(*) FROM event_attempts"),
        (
            "orders paid",
            "SELECT count(*) FROM orders WHERE status = 'paid'",
        ),
        (
            "payments",
            "SELECT count(*) FROM payments WHERE status = 'succeeded'",
        ),
        (
            "tickets",
            "SELECT count(*) FROM tickets WHERE status = 'valid'",
        ),
        (
            "mails",
            "SELECT count(*) FROM emails WHERE kind = 'order_paid'",
        ),
    ] {
        check(bed, what, sql, events).await?;
    }
    bed.check_invariants().await;
    Ok(())
}
