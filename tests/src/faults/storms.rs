//! Senders and mail servers that misbehave.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::scene::{Scene, pause};
use super::{Setup, variable};
use crate::broker::Broker;
use crate::stripe;

const COPIES: usize = 1_000;
const AT_A_TIME: usize = 64;
const SLOW_CONNECTIONS: usize = 10_000;

/// The load itself is the fault.
pub fn nothing(_: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async { Ok(()) }.boxed_local()
}

/// Straight into the queue.
pub fn redeliver(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let broker = Broker::connect(&scene.stage.bed).await;
        for id in scene.load.ids().take(100) {
            let stored = scene.stage.bed.state(id).await;
            for _ in 0..if stored.is_empty() { 0 } else { 3 } {
                broker.publish(id).await;
            }
        }
        Ok(())
    }
    .boxed_local()
}

/// One event of the load, by somebody else too.
pub fn duplicates(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let (body, gateway) = (scene.plan.first_body(), scene.stage.gateways[0].address);
        let posts = stream::iter(0..COPIES).map(|_| stripe::post(gateway, body.clone()));
        let refused = posts
            .buffer_unordered(AT_A_TIME)
            .filter(|answer| std::future::ready(answer.status != 200))
            .count()
            .await;
        ensure!(refused == 0, "{refused} copies were refused");
        Ok(())
    }
    .boxed_local()
}

/// Within the tolerance of 300 s, and back.
pub fn skew(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.stage.targets.skew(290);
        pause(3_000).await;
        scene.stage.targets.skew(0);
        Ok(())
    }
    .boxed_local()
}

/// A stage whose gateway takes that many connections.
pub fn many_connections() -> Setup {
    Setup {
        gateway: vec![variable("GATEWAY_MAX_CONNECTIONS", "16000")],
        ..Setup::default()
    }
}

/// A third each sends nothing, half a header, half a body.
pub fn slow_connections(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let gateway = scene.stage.gateways[0].address;
        let open = |n: usize| async move {
            let mut stream = TcpStream::connect(gateway).await.ok()?;
            let begun: &[u8] = match n % 3 {
                0 => b"",
                1 => b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n",
                _ => b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
            };
            stream.write_all(begun).await.ok()?;
            Some(stream)
        };
        let slow = stream::iter(0..SLOW_CONNECTIONS).map(open);
        let slow = slow.buffer_unordered(256).filter_map(std::future::ready);
        let slow: Vec<TcpStream> = slow.collect().await;
        let held = slow.len();
        pause(4_000).await;
        drop(slow);
        ensure!(
            held == SLOW_CONNECTIONS,
            "only {held} connections could be opened"
        );
        Ok(())
    }
    .boxed_local()
}

/// For a passing reason.
pub fn mail_refused(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.stage.mail.refuse(20);
        pause(2_000).await;
        scene.stage.mail.refuse(0);
        let again = "SELECT count(*) FROM emails WHERE attempts > 1 OR last_error IS NOT NULL";
        let refused = scene.stage.bed.count(again).await;
        ensure!(refused > 0, "no mail was refused");
        Ok(())
    }
    .boxed_local()
}

/// They were taken, so they go out twice.
pub fn mail_dropped(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.stage.mail.drop_after_taking(8);
        pause(2_000).await;
        scene.stage.mail.drop_after_taking(0);
        scene.stage.mail.pause(Duration::ZERO);
        Ok(())
    }
    .boxed_local()
}

/// A stage whose traces and metrics go nowhere.
pub fn no_collector() -> Setup {
    let nowhere = variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    Setup {
        gateway: vec![nowhere.clone()],
        worker: vec![nowhere],
        ..Setup::default()
    }
}
