//! Senders and mail servers that misbehave.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::probe::Probe;
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
        let mut redelivered = 0;
        for id in scene.load.ids().take(100) {
            if scene.stage.bed.state(id).await.is_empty() {
                continue;
            }
            for _ in 0..3 {
                broker.publish(id).await;
                redelivered += 1;
            }
        }
        ensure!(redelivered > 0, "nothing was there to be delivered again");
        Ok(())
    }
    .boxed_local()
}

/// One event of the load, by somebody else too.
pub fn duplicates(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let (body, gateway) = (scene.load.first_body(), scene.stage.gateways[0].address);
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

/// How often each half body gets one more byte while the connections are held.
const DRIPS: usize = 3;

/// A third each sends nothing, half a header, half a body that drips. Healthy traffic must not notice.
pub fn slow_connections(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let gateway = scene.stage.gateways[0].address;
        let before = Probe::take(scene).await?;
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
        let mut slow: Vec<TcpStream> = slow.collect().await;
        let held = slow.len();
        let meanwhile = Probe::take(scene).await?;
        let still_open = |stream: &&TcpStream| {
            let nothing = stream.try_read(&mut [0]);
            nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        let open = slow.iter().filter(still_open).count();
        for _ in 0..DRIPS {
            for stream in slow.iter_mut().skip(2).step_by(3) {
                // Some may be over their time by now.
                let _ = stream.try_write(b" ");
            }
            pause(1_000).await;
        }
        drop(slow);
        scene.note(format!(
            "p99 of healthy traffic {} before, {} beside {open} slow connections",
            before.p99(),
            meanwhile.p99()
        ));
        ensure!(
            open > SLOW_CONNECTIONS / 2,
            "only {open} were open meanwhile"
        );
        ensure!(
            held == SLOW_CONNECTIONS,
            "only {held} connections could be opened"
        );
        meanwhile.compare(&before, 2.0)
    }
    .boxed_local()
}

/// For a passing reason.
pub fn mail_refused(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.stage.mail.refuse(20);
        pause(2_000).await;
        scene.stage.mail.refuse(0);
        mails_were_tried_again(scene).await
    }
    .boxed_local()
}

async fn mails_were_tried_again(scene: &Scene) -> Result<()> {
    let again = "SELECT count(*) FROM emails WHERE attempts > 1 OR last_error IS NOT NULL";
    let again = scene.stage.bed.count(again).await;
    ensure!(again > 0, "no mail was affected");
    Ok(())
}

/// They were taken, so they go out twice.
pub fn mail_dropped(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.stage.mail.drop_after_taking(8);
        pause(2_000).await;
        scene.stage.mail.drop_after_taking(0);
        scene.stage.mail.pause(Duration::ZERO);
        mails_were_tried_again(scene).await
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

/// A stage whose traces and metrics go to somebody who never answers.
pub fn hung_collector() -> Setup {
    let hung = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", hung.local_addr().expect("an address"));
    // The kernel takes connections for as long as it listens, and nobody takes them from there.
    std::mem::forget(hung);
    let nowhere = variable("OTEL_EXPORTER_OTLP_ENDPOINT", &address);
    Setup {
        gateway: vec![nowhere.clone()],
        worker: vec![nowhere],
        ..Setup::default()
    }
}
