//! Negative controls: a safeguard is taken out, and the checker must notice. One that stays clean would show that the
//! table proves nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};
use harness::checker::{
    Allowed, Delivery, EventRow, History, Outcome, Sent, Snapshot, Told, check,
};
use harness::faults::{Operator, Scene, Setup, Stage, pause, variable};
use harness::simulator::Plan;
use harness::stripe::{self, event_id};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::NoTls;

type Run = for<'a> fn(&'a Operator, u64) -> LocalBoxFuture<'a, Result<Control>>;

/// What a control showed.
pub struct Control {
    /// The safeguard taken out.
    pub without: &'static str,
    /// What was done.
    pub done: &'static str,
    /// What the checker says without the safeguard; empty where it noticed nothing.
    pub caught: String,
    /// What it says with the safeguard; must be empty.
    pub with_it: String,
}

impl Control {
    /// Caught without, clean with.
    pub fn holds(&self) -> bool {
        !self.caught.is_empty() && self.with_it.is_empty()
    }
}

const CONTROLS: [(&str, Run); 8] = [
    ("relay", |operator, seed| {
        relay(operator, seed).boxed_local()
    }),
    ("confirm", |operator, seed| {
        confirm(operator, seed).boxed_local()
    }),
    ("late ack", |operator, seed| {
        late_ack(operator, seed).boxed_local()
    }),
    ("seat lock", |_, _| seat_lock().boxed_local()),
    ("unique key", |_, _| unique_key().boxed_local()),
    ("synchronous_commit", |operator, seed| {
        synchronous_commit(operator, seed).boxed_local()
    }),
    ("header timer", |_, _| header_timer().boxed_local()),
    ("separate connections", |operator, _| {
        separate_connections(operator).boxed_local()
    }),
];

/// Runs all of them.
pub async fn every_control(operator: &Operator, seed: u64) -> Vec<Control> {
    let mut controls = Vec::new();
    for (without, run) in CONTROLS {
        let control = run(operator, seed).await.unwrap_or_else(|problem| Control {
            without,
            done: "it could not be staged",
            caught: String::new(),
            with_it: problem.to_string(),
        });
        let judged = if control.holds() {
            "caught"
        } else {
            "NOT CAUGHT"
        };
        eprintln!("without {without}: {judged}");
        controls.push(control);
    }
    controls
}

/// No rescue comes to help, so that one safeguard shows by itself.
fn alone(without: &str) -> Setup {
    let mut worker = vec![variable("RESCUE_AFTER", "1h")];
    let mut gateway = Vec::new();
    if !without.is_empty() {
        worker.push(variable("TOLLGATE_WITHOUT", without));
        gateway.push(variable("TOLLGATE_WITHOUT", without));
    }
    Setup {
        gateway,
        worker,
        ..Setup::default()
    }
}

fn short(seed: u64) -> Plan {
    Plan::new(seed, 40, 3)
}

/// The gateway cannot reach the broker for a while.
async fn relay(operator: &Operator, seed: u64) -> Result<Control> {
    let run = async |without: &str| {
        let mut scene = Scene::open(operator.clone(), alone(without), short(seed)).await;
        scene.gateway_broker.cut();
        pause(2_000).await;
        scene.gateway_broker.open();
        judge(&mut scene).await
    };
    Ok(Control {
        without: "relay",
        done: "gateway cut off from the broker for 2 s",
        caught: run("relay").await,
        with_it: run("").await,
    })
}

/// Publishes are written, and never arrive.
async fn confirm(operator: &Operator, seed: u64) -> Result<Control> {
    let run = async |without: &str| {
        let mut scene = Scene::open(operator.clone(), alone(without), short(seed)).await;
        scene.gateway_broker.deafen();
        pause(1_500).await;
        scene.gateway_broker.cut();
        pause(200).await;
        scene.gateway_broker.open();
        judge(&mut scene).await
    };
    Ok(Control {
        without: "confirm",
        done: "publishes swallowed for 1.5 s, then the connection cut",
        caught: run("confirm").await,
        with_it: run("").await,
    })
}

/// A worker dies with messages that it has acknowledged already.
async fn late_ack(operator: &Operator, seed: u64) -> Result<Control> {
    let run = async |without: &str| {
        let mut setup = alone(without);
        setup.workers = 0;
        let mut scene = Scene::open(operator.clone(), setup, short(seed)).await;
        let trap = [("TOLLGATE_CRASH_AT", "worker.in_handler:5")];
        scene.stage.add_worker(&trap).await;
        for _ in 0..600 {
            if scene
                .stage
                .workers
                .iter_mut()
                .any(|worker| worker.has_ended())
            {
                break;
            }
            pause(50).await;
        }
        scene.stage.workers.clear();
        scene.stage.add_worker(&[]).await;
        judge(&mut scene).await
    };
    Ok(Control {
        without: "ack after the commit",
        done: "worker killed in a handler",
        caught: run("late_ack").await,
        with_it: run("").await,
    })
}

/// Judges a scene without waiting for what will never come.
async fn judge(scene: &mut Scene) -> String {
    let load = std::mem::replace(&mut scene.load, harness::simulator::Load::none());
    let stage = &mut scene.stage;
    stage.longest_end = Duration::from_secs(20);
    stage
        .conclude(load, harness::faults::MAILS_UNDER_WAY)
        .await
        .first_defects()
}

/// Many buyers of few seats at the same time.
async fn seat_lock() -> Result<Control> {
    let run = async |without: &str| -> Result<String> {
        let mut setup = alone(without);
        setup.workers = 3;
        setup.worker.push(variable("WORKER_CONCURRENCY", "16"));
        let stage = Stage::ready(setup).await;
        sell(&stage, 10, 150).await
    };
    Ok(Control {
        without: "lock of the seats",
        done: "150 buyers of 10 seats at once",
        caught: run("seat_lock").await?,
        with_it: run("").await?,
    })
}

/// Posts payments for more orders than there are seats, and gives what is oversold.
async fn sell(stage: &Stage, seats: usize, buyers: usize) -> Result<String> {
    let orders: Vec<_> = (0..buyers)
        .map(|n| {
            serde_json::json!({ "id": format!("ord_{n}"), "user_id": "u", "email": "buyer@example.com",
                "items": [{ "product": "ga", "quantity": 2 }], "waitlisted": true })
        })
        .collect();
    let catalogue = serde_json::json!({ "products": [{ "id": "ga", "kind": "seat", "name": "General admission",
        "unit_amount_cents": 2500, "currency": "usd", "capacity": seats }], "orders": orders });
    stage.bed.seed(&catalogue).await;
    let gateway = stage.gateways.first().context("a gateway")?.address;
    let posts = (0..buyers).map(|n| {
        let intent = stripe::payment_intent(&format!("ord_{n}"));
        stripe::post(
            gateway,
            stripe::event(&event_id(), "payment_intent.succeeded", &intent),
        )
    });
    join_all(posts).await;
    let left = "SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying')";
    for _ in 0..600 {
        if stage.bed.count(left).await == 0 {
            break;
        }
        pause(50).await;
    }
    let active = stage
        .bed
        .count("SELECT count(*) FROM registrations WHERE status = 'active'")
        .await;
    let seats = i64::try_from(seats)?;
    let oversold = (active > seats)
        .then(|| "ga".to_owned())
        .into_iter()
        .collect();
    let snapshot = Snapshot {
        oversold,
        ..Snapshot::default()
    };
    Ok(verdict_of(&[], &snapshot))
}

/// Ids that were told to be stored, against what is there.
fn verdict_of(acknowledged: &[String], snapshot: &Snapshot) -> String {
    let sent = |id: &String| Sent {
        id: id.clone(),
        order: None,
        told: Told::Nothing,
        amount_cents: 0,
        currency: String::new(),
    };
    let delivery = |id: &String| Delivery {
        event_id: id.clone(),
        at_ms: 0,
        outcome: Outcome::Acknowledged,
        status: 200,
    };
    let history = History {
        sent: acknowledged.iter().map(sent).collect(),
        deliveries: acknowledged.iter().map(delivery).collect(),
    };
    let allowed = Allowed {
        progress: 0,
        mails_doubled: 0,
    };
    check(&history, snapshot, allowed).first_defects()
}

fn snapshot_of(ids: Vec<String>) -> Snapshot {
    let row = |id| EventRow {
        id,
        state: "ignored".to_owned(),
        attempts: 0,
    };
    Snapshot {
        events: ids.into_iter().map(row).collect(),
        ..Snapshot::default()
    }
}

/// Looks whether a key is there, and inserts it if not: 32 at a time, each key eight times.
async fn unique_key() -> Result<Control> {
    let run = async |key: &str| -> Result<String> {
        let bed = harness::TestBed::new().await;
        let table = format!("CREATE TABLE effects (event_id text {key})");
        bed.db.batch_execute(&table).await?;
        let url = bed.owner_url();
        let inserts = (0..32).map(|_| async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            let driver = tokio::spawn(connection);
            for n in 0..50 {
                let id = format!("evt_{n}");
                let found = client
                    .query("SELECT FROM effects WHERE event_id = $1", &[&id])
                    .await?;
                if found.is_empty() {
                    let insert = "INSERT INTO effects VALUES ($1) ON CONFLICT DO NOTHING";
                    client.execute(insert, &[&id]).await?;
                }
            }
            drop(client);
            driver.await??;
            anyhow::Ok(())
        });
        for done in join_all(inserts).await {
            done?;
        }
        let attempts = bed.db.query("SELECT event_id FROM effects", &[]).await?;
        let attempts: Vec<_> = attempts
            .iter()
            .enumerate()
            .map(|(n, row)| harness::checker::AttemptRow {
                event_id: row.get(0),
                number: i64::try_from(n).unwrap_or(0),
                outcome: "processed".to_owned(),
            })
            .collect();
        let ids: BTreeSet<String> = attempts.iter().map(|row| row.event_id.clone()).collect();
        let doubled = attempts.len() > ids.len();
        let mut snapshot = snapshot_of(ids.iter().cloned().collect());
        if doubled {
            snapshot.attempts = attempts;
        }
        Ok(verdict_of(&ids.into_iter().collect::<Vec<_>>(), &snapshot))
    };
    Ok(Control {
        without: "unique key",
        done: "check, then insert, 32 connections at once",
        caught: run("").await?,
        with_it: run("PRIMARY KEY").await?,
    })
}

/// Commits that are told before they are durable, on a server that is killed; then the gateway on the same server, which
/// overrules its setting.
async fn synchronous_commit(operator: &Operator, seed: u64) -> Result<Control> {
    let mut bed = harness::TestBed::new().await;
    bed.db
        .batch_execute("CREATE TABLE raw (id text PRIMARY KEY)")
        .await?;
    let url = bed.owner_url();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let driver = tokio::spawn(connection);
    client.batch_execute("SET synchronous_commit = off").await?;
    let writing = tokio::spawn(async move {
        let mut told = Vec::new();
        loop {
            let id = event_id();
            match client.execute("INSERT INTO raw VALUES ($1)", &[&id]).await {
                Ok(_) => told.push(id),
                Err(_) => return told,
            }
        }
    });
    pause(1_500).await;
    operator.run("database kill").await?;
    let told = writing.await?;
    let _ = driver.await;
    operator.run("database start").await?;
    bed.reconnect().await;
    let rows = bed.db.query("SELECT id FROM raw", &[]).await?;
    let caught = verdict_of(
        &told,
        &snapshot_of(rows.iter().map(|row| row.get(0)).collect()),
    );
    Ok(Control {
        without: "synchronous_commit",
        done: "database SIGKILL, the server's setting being off",
        caught,
        with_it: overruled(operator, seed).await?,
    })
}

async fn overruled(operator: &Operator, seed: u64) -> Result<String> {
    let mut scene = Scene::open(operator.clone(), Setup::default(), short(seed)).await;
    let off = "ALTER SYSTEM SET synchronous_commit = off";
    scene.stage.bed.db.batch_execute(off).await?;
    scene
        .stage
        .bed
        .db
        .batch_execute("SELECT pg_reload_conf()")
        .await?;
    pause(1_500).await;
    operator.run("database kill").await?;
    operator.run("database start").await?;
    scene.stage.bed.reconnect().await;
    let judged = judge(&mut scene).await;
    scene
        .stage
        .bed
        .db
        .batch_execute("ALTER SYSTEM RESET synchronous_commit")
        .await?;
    scene
        .stage
        .bed
        .db
        .batch_execute("SELECT pg_reload_conf()")
        .await?;
    Ok(judged)
}

/// Half a header on a listener without a timer, and on ours.
async fn header_timer() -> Result<Control> {
    const HALF: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let bare = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(hyper::Response::new(String::new()))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(io, answer);
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    });
    let stage = Stage::ready(Setup {
        workers: 0,
        gateway: vec![variable("GATEWAY_REQUEST_TIMEOUT", "2s")],
        ..Setup::default()
    })
    .await;
    let gateway = stage.gateways.first().context("a gateway")?.address;
    let (caught, with_it) = (
        still_open(bare, HALF).await?,
        still_open(gateway, HALF).await?,
    );
    serving.abort();
    Ok(Control {
        without: "time-out for headers",
        done: "half a header, then silence for 6 s",
        caught,
        with_it,
    })
}

async fn still_open(address: std::net::SocketAddr, begun: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, begun).await?;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
    Ok(if ended.is_err() {
        "the connection is still held".to_owned()
    } else {
        String::new()
    })
}

async fn connect() -> Result<Connection> {
    let properties = ConnectionProperties::default();
    Ok(Connection::connect(&harness::amqp_url(), properties).await?)
}

const MESSAGES: usize = 200;
const PREFETCH: u16 = 10;

/// Consumes under a memory alarm: on the connection that publishes, and on one of its own.
async fn separate_connections(operator: &Operator) -> Result<Control> {
    let shared = acknowledged_under_alarm(operator, true).await?;
    let separate = acknowledged_under_alarm(operator, false).await?;
    let judge = |left: u32| {
        if left > 0 {
            format!("{left} of {MESSAGES} messages stay")
        } else {
            String::new()
        }
    };
    Ok(Control {
        without: "connection of its own for acknowledgements",
        done: "memory alarm for 5 s while a queue is consumed",
        caught: judge(shared),
        with_it: judge(separate),
    })
}

async fn acknowledged_under_alarm(operator: &Operator, shared: bool) -> Result<u32> {
    let (publishing, consuming) = (connect().await?, connect().await?);
    let (publisher, own) = (
        publishing.create_channel().await?,
        consuming.create_channel().await?,
    );
    let consumer = if shared {
        publishing.create_channel().await?
    } else {
        own
    };
    let queue = format!("control_{}", event_id());
    publisher
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        )
        .await?;
    for _ in 0..MESSAGES {
        publish(&publisher, &queue).await?;
    }
    // The first messages are handed over now; nobody looks at them yet.
    consumer
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consume = consumer.basic_consume(queue.as_str().into(), "".into(), options, arguments);
    let mut messages = consume.await?;
    let alarm = "broker ctl set_vm_memory_high_watermark absolute 1000000";
    operator.run(alarm).await?;
    // The first publish under the alarm is what blocks the connection.
    publish(&publisher, &queue).await?;
    pause(500).await;
    let draining = async {
        while let Some(message) = messages.next().await {
            message?.ack(BasicAckOptions::default()).await?;
        }
        anyhow::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), draining).await;
    // What the broker did not hear of goes back into the queue.
    operator
        .run("broker ctl close_all_connections control")
        .await?;
    let counting = connect().await?;
    let left = count(&counting.create_channel().await?, &queue).await?;
    operator
        .run("broker ctl set_vm_memory_high_watermark 0.4")
        .await?;
    let channel = counting.create_channel().await?;
    channel
        .queue_purge(queue.as_str().into(), QueuePurgeOptions::default())
        .await?;
    Ok(left)
}

async fn publish(channel: &Channel, queue: &str) -> Result<()> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel
        .basic_publish("".into(), queue.into(), options, b"x", properties)
        .await?;
    Ok(())
}

async fn count(channel: &Channel, queue: &str) -> Result<u32> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let found = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await?;
    Ok(found.message_count())
}
