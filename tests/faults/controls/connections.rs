//! Safeguards of connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::faults::{Operator, Scene, Stage, UNREADY, pause, variable};
use harness::simulator::{Plan, Shape};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Control;
use super::services::{alone, judge};

const HALF: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\n";

/// Half a header.
pub async fn header_timer() -> Result<Control> {
    let told = (
        "time-out for headers",
        "half a header, then silence for 6 s",
    );
    Control::stage(told, async |safe| {
        let mut setup = alone("header_timer", safe);
        setup.workers = 0;
        let timeout = variable("GATEWAY_REQUEST_TIMEOUT", "2s");
        setup.gateway.push(timeout);
        let stage = Stage::ready(setup).await;
        let gateway = stage.gateways.first().context("a gateway")?;
        still_open(gateway.address).await
    })
    .await
}

async fn still_open(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(HALF).await?;
    let (began, mut answer) = (Instant::now(), Vec::new());
    let ended = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
    if ended.is_err() {
        return Ok("the connection is still held".to_owned());
    }
    let held = began.elapsed();
    ensure!(
        held > Duration::from_secs(1),
        "it was closed after {held:?}"
    );
    Ok(String::new())
}

/// More than a worker is handed in advance.
const ORDERS: usize = 60;
const LONGEST_WORK: Duration = Duration::from_secs(10);
const LEFT: &str = "SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying')";

/// A worker begins with a full queue under a memory alarm: what it acknowledges must reach the broker, or it gets no more.
pub async fn separate(operator: &Operator, seed: u64) -> Result<Control> {
    let told = (
        "connection of its own for acknowledgements",
        "a full queue consumed under a memory alarm",
    );
    Control::stage(told, async |safe| {
        let mut setup = alone("own_connection", safe);
        setup.workers = 0;
        let plan = Plan::new(seed, ORDERS, 1).shaped(Shape::Paid);
        let mut scene = Scene::open(operator.clone(), setup, plan).await;
        scene.stage.until_sent(&scene.load, 100).await;
        pause(1_000).await;
        let on = "broker ctl set_vm_memory_high_watermark absolute 1000000";
        operator.run(on).await?;
        scene.stage.add_worker(&[UNREADY]).await;
        let left = left_under_alarm(&scene).await;
        let off = "broker ctl set_vm_memory_high_watermark 0.4";
        operator.run(off).await?;
        match left {
            0 => Ok(judge(&mut scene).await),
            left => Ok(format!("{left} events wait though they are there")),
        }
    })
    .await
}

async fn left_under_alarm(scene: &Scene) -> i64 {
    let deadline = Instant::now() + LONGEST_WORK;
    while scene.stage.bed.count(LEFT).await > 0 && Instant::now() < deadline {
        pause(50).await;
    }
    scene.stage.bed.count(LEFT).await
}
