//! What the gateway cannot be better than: HTTP with nothing but the signature, and the database with nothing but
//! inserts. Each has the machine to itself.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::TestBed;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use shared::signature::{SigningKey, verify};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use crate::Plan;
use crate::load::{self, Pace, Requests, Shape, Turns, template};
use crate::measure::Watch;
use crate::report::{Figures, Row};

/// Rows in one transaction, as the gateway has them at the most.
const ROWS: usize = 64;
/// Connections that insert batches.
const BATCH_CONNECTIONS: usize = 4;
/// Requests made ready for the warm-up of the bare server.
const WARM_UP_REQUESTS: usize = 50_000;
/// Requests made ready, as a multiple of what the warm-up's rate needs.
const RESERVE: f64 = 1.5;
const WARM_UP: Duration = Duration::from_millis(500);
/// The time of the server's sessions counts once they have ended.
const SESSIONS_END: Duration = Duration::from_millis(500);
/// Connections that insert single rows at a rate: as many as the gateway writes with.
const PACED_CONNECTIONS: usize = 3;
const PACED_RATE: u32 = 1_000;

/// The floors, in the order of [`ratios`]; fewer where there is no pgbench.
pub async fn run(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, connections) in [(HTTP_ONE, 1), (HTTP, 64)] {
        let mut repeats = Vec::new();
        for _ in 0..plan.repeats {
            repeats.push(bare_http(plan, connections).await?);
        }
        rows.push(plan.row(name, &repeats));
    }
    let (mut single, mut paced, mut batched) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.repeats {
        single.extend(inserts(plan, ONE_ROW, 1, 1).await?);
        paced.push(paced_inserts(plan).await?);
        batched.extend(inserts(plan, BATCH, BATCH_CONNECTIONS, ROWS).await?);
    }
    for (name, repeats) in [(SINGLE, single), (PACED, paced), (BATCHED, batched)] {
        if !repeats.is_empty() {
            rows.push(plan.row(name, &repeats));
        }
    }
    Ok(rows)
}

const HTTP_ONE: &str = "floor: bare hyper and HMAC, 1 connection";
const HTTP: &str = "floor: bare hyper and HMAC, 64 connections";
const SINGLE: &str = "floor: a row a commit, 1 connection";
const PACED: &str = "floor: a row a commit, 1,000/s";
const BATCHED: &str = "floor: 64 rows a commit, 4 connections";

/// The gateway's rows held against the floors.
pub fn ratios(ingest: &[Row], floors: &[Row]) -> Vec<Row> {
    let ratio = |name: &str, (one, of): (&str, &[&str]), figure: fn(&Figures) -> Option<f64>| {
        let find = |rows: &[Row], wanted: &str| {
            let row = rows.iter().find(|row| row.name == wanted);
            row.and_then(|row| figure(&row.figures))
        };
        let floor: Option<f64> = of.iter().map(|of| find(floors, of)).sum();
        let ratio = find(ingest, one)? / floor?;
        let figures = Figures {
            ratio: Some(ratio),
            ..Figures::default()
        };
        Some(Row {
            name: name.to_owned(),
            figures,
        })
    };
    let (one, many, most, paced) = (
        "ingest, 1 connection",
        "ingest, 64 connections",
        "ingest, 256 connections",
        "ingest, 1,000/s",
    );
    [
        ratio(
            "gateway CPU at 64 ÷ bare hyper and HMAC",
            (many, &[HTTP]),
            |figures| figures.service_cpu_us,
        ),
        ratio(
            "PostgreSQL CPU at 64 ÷ batched inserts",
            (many, &[BATCHED]),
            |figures| figures.postgres_cpu_us,
        ),
        ratio(
            "events/s at 256 ÷ batched inserts",
            (most, &[BATCHED]),
            |figures| figures.per_second,
        ),
        ratio("p50 at 1 ÷ a single insert", (one, &[SINGLE]), |figures| {
            figures.p50_ms
        }),
        ratio(
            "p50 at 1 ÷ bare hyper and a single insert together",
            (one, &[HTTP_ONE, SINGLE]),
            |figures| figures.p50_ms,
        ),
        ratio(
            "p99 at 1,000/s ÷ single inserts at that rate",
            (paced, &[PACED]),
            |figures| figures.p99_ms,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn bare_http(plan: &Plan, connections: usize) -> Result<Figures> {
    let bed = TestBed::new().await;
    let mut server = Command::new(std::env::current_exe()?)
        .arg("--serve-floor")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let address = address_of(&mut server).await?.parse()?;
    let pid = server.id().context("the server has ended")?;
    let closed = Shape::closed(connections);
    let requests = Requests::signed(address, 0..WARM_UP_REQUESTS);
    let warm_up = load::drive(address, requests, closed, WARM_UP).await?;
    let length = plan.length().min(Duration::from_secs(3));
    let count = (warm_up.per_second() * RESERVE * length.as_secs_f64()) as usize;
    let requests = Requests::signed(address, 0..count);
    let watch = Watch::servers(&bed).await.with_process(pid);
    let before = watch.cpu_time();
    let load = load::drive(address, requests, closed, length).await?;
    ensure!(load.refused == 0, "{} requests were refused", load.refused);
    let cost = watch.cost_since(&before, load.accepted.len());
    let latencies = load.accepted.iter();
    let latencies = latencies.map(|accepted| accepted.latency.as_secs_f64() * 1_000.0);
    let figures = Figures {
        per_second: Some(load.per_second()),
        service_cpu_us: cost.service_cpu_us,
        peak_mib: cost.peak_mib,
        ..Figures::default()
    };
    Ok(figures.with_latencies(latencies.collect()))
}

async fn address_of(server: &mut Child) -> Result<String> {
    let stdout = server.stdout.take().context("the server's output")?;
    let line = BufReader::new(stdout).lines().next_line().await?;
    line.context("the server did not say where it listens")
}

/// Serves whatever is signed, and tells where on stdout.
pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // As the gateway has it.
        let answering = hyper::server::conn::http1::Builder::new()
            .writev(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(answering);
    }
}

thread_local! {
    static KEYS: [SigningKey; 1] = [SigningKey::new(harness::stripe::SECRET)];
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = head.headers.get("stripe-signature");
    let header = header.and_then(|header| header.to_str().ok()).unwrap_or("");
    let now = Timestamp::now().as_second();
    let verified = KEYS.with(|keys| verify(header, &body, keys, now, 300));
    let mut answer = Response::new(Full::from(r#"{"received":true}"#));
    if verified.is_err() {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(answer)
}

const TABLE: &str = "
    CREATE TABLE floor (
        event_id text PRIMARY KEY, event_type text NOT NULL, livemode boolean NOT NULL, payload bytea NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now());
    ALTER TABLE floor ALTER payload SET COMPRESSION lz4";

const ONE_ROW: &str = "
\\set n random(1, 9000000000000000000)
INSERT INTO floor (event_id, event_type, livemode, payload)
VALUES ('evt_' || (:n)::bigint, 'payment_intent.succeeded', false, (:payload)::bytea) ON CONFLICT (event_id) DO NOTHING;
";

/// The same row, of parameters.
const PACED_ROW: &str = "
    INSERT INTO floor (event_id, event_type, livemode, payload) VALUES ($1, 'payment_intent.succeeded', false, $2)
    ON CONFLICT (event_id) DO NOTHING";

/// As many bodies as one argument of a command may hold, given four times.
const BATCH: &str = "
\\set n random(1, 9000000000000000000)
INSERT INTO floor (event_id, event_type, livemode, payload)
SELECT 'evt_' || (:n)::bigint || '_' || ordinality, 'payment_intent.succeeded', false, payload
FROM unnest((:part)::bytea[] || (:part)::bytea[] || (:part)::bytea[] || (:part)::bytea[])
    WITH ORDINALITY AS batch (payload)
ON CONFLICT (event_id) DO NOTHING;
";

/// None where there is no pgbench.
async fn inserts(
    plan: &Plan,
    script: &str,
    connections: usize,
    rows: usize,
) -> Result<Option<Figures>> {
    let bed = TestBed::new().await;
    bed.db.batch_execute(TABLE).await?;
    bed.db.batch_execute("CHECKPOINT").await?;
    let file = bed.path("floor.sql");
    std::fs::write(&file, script)?;
    let log = bed.path("floor");
    let payload = template();
    let quoted = format!("\"{}\"", payload.replace('\\', "\\\\").replace('"', "\\\""));
    let part = format!("{{{}}}", vec![quoted; ROWS / 4].join(","));
    let watch = Watch::servers(&bed).await;
    let before = watch.cpu_time();
    let done = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-l", "-j", "1"])
        .arg(format!("--log-prefix={}", log.display()))
        .args(["-c", &connections.to_string()])
        .args(["-T", &plan.seconds.to_string()])
        .args(["-D", &format!("payload={payload}")])
        .args(["-D", &format!("part={part}"), "-f"])
        .arg(&file)
        .arg(bed.owner_url())
        .output()
        .await;
    let done = match done {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        done => done?,
    };
    let complaint = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "pgbench: {complaint}");
    tokio::time::sleep(SESSIONS_END).await;
    let latencies = latencies(log.parent().context("a directory")?)?;
    let stored = latencies.len() * rows;
    let cost = watch.cost_since(&before, stored);
    let figures = Figures {
        per_second: Some(stored as f64 / f64::from(plan.seconds)),
        postgres_cpu_us: cost.postgres_cpu_us,
        ..Figures::default()
    };
    Ok(Some(figures.with_latencies(latencies)))
}

/// Single rows that fall due at a fixed rate, over as many connections as the gateway writes with.
async fn paced_inserts(plan: &Plan) -> Result<Figures> {
    let bed = TestBed::new().await;
    bed.db.batch_execute(TABLE).await?;
    let mut clients = Vec::new();
    for _ in 0..PACED_CONNECTIONS {
        let (client, connection) = tokio_postgres::connect(&bed.owner_url(), NoTls).await?;
        tokio::spawn(connection);
        let insert = client.prepare(PACED_ROW).await?;
        clients.push((client, insert));
    }
    bed.db.batch_execute("CHECKPOINT").await?;
    let watch = Watch::servers(&bed).await;
    let before = watch.cpu_time();
    let (pace, count) = (Pace::PerSecond(PACED_RATE), PACED_RATE * plan.seconds);
    let started = Instant::now();
    let turns = Arc::new(Turns::start(count as usize, pace, plan.length()));
    let mut inserting = JoinSet::new();
    for (client, insert) in clients {
        inserting.spawn(insert_in_turn(client, insert, turns.clone()));
    }
    let mut latencies = Vec::new();
    while let Some(inserted) = inserting.join_next().await {
        latencies.extend(inserted??);
    }
    let took = started.elapsed();
    tokio::time::sleep(SESSIONS_END).await;
    let figures = Figures {
        per_second: Some(latencies.len() as f64 / took.as_secs_f64()),
        postgres_cpu_us: watch.cost_since(&before, latencies.len()).postgres_cpu_us,
        ..Figures::default()
    };
    Ok(figures.with_latencies(latencies))
}

/// Milliseconds of each insert, from when it fell due.
async fn insert_in_turn(client: Client, insert: Statement, turns: Arc<Turns>) -> Result<Vec<f64>> {
    let body = template();
    let mut latencies = Vec::new();
    while let Some((index, due)) = turns.next().await {
        let params: [&(dyn ToSql + Sync); 2] = [&load::event_id(index), &body.as_bytes()];
        client.execute(&insert, &params).await?;
        latencies.push(due.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(latencies)
}

/// Milliseconds of each transaction, out of the logs that pgbench leaves.
fn latencies(directory: &Path) -> Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.starts_with("floor.") && name != "floor.sql") {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let micros = line.split(' ').nth(2).context("a line of pgbench's log")?;
            latencies.push(micros.parse::<f64>()? / 1_000.0);
        }
    }
    Ok(latencies)
}
