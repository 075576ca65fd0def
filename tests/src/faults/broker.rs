//! RabbitMQ killed, frozen, blocked, emptied.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::database::lock_table_for;
use super::scene::{MOST_GROWTH_KIB, Scene, pause};
use crate::binaries::{Process, Size};
use crate::broker::Broker;

const OUTBOX: &str = "SELECT count(*) FROM outbox";

async fn down_for(scene: &Scene, how: &str, milliseconds: u64) -> Result<()> {
    scene.operator.run(how).await?;
    let told = scene.until_unready().await;
    pause(milliseconds).await;
    scene.operator.run("broker start").await?;
    told
}

/// As by a power cut.
pub fn kill(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    down_for(scene, "broker kill", 3_000).boxed_local()
}

/// As by an operator.
pub fn restart(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    down_for(scene, "broker stop", 500).boxed_local()
}

/// Long enough for the outbox to grow. The gateway must not grow with it.
async fn away_for(scene: &mut Scene, milliseconds: u64) -> Result<()> {
    let memory = |scene: &Scene| scene.stage.gateways[0].memory_kib().unwrap_or(0);
    let before = memory(scene);
    scene.operator.run("broker stop").await?;
    let told = scene.until_unready().await;
    pause(milliseconds).await;
    let waiting = scene.stage.bed.count(OUTBOX).await;
    let grown = memory(scene).saturating_sub(before);
    scene.operator.run("broker start").await?;
    scene.note(format!(
        "{waiting} messages waited in the outbox, the gateway grew by {grown} KiB"
    ));
    ensure!(waiting > 0, "nothing waited for the broker");
    ensure!(grown < MOST_GROWTH_KIB, "the gateway grew by {grown} KiB");
    told
}

/// For 20 s.
pub fn away(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    away_for(scene, 17_000).boxed_local()
}

/// For ten minutes.
pub fn long_away(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    away_for(scene, 600_000).boxed_local()
}

/// It keeps its connections and does nothing.
pub fn freeze(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.operator.run("broker freeze").await?;
        let told = scene.until_unready().await;
        pause(5_000).await;
        scene.operator.run("broker thaw").await?;
        told
    }
    .boxed_local()
}

/// Connections, threads, open files and memory must not pile up meanwhile.
pub fn freeze_for_long(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let before = sizes(scene);
        scene.operator.run("broker freeze").await?;
        let told = scene.until_unready().await;
        pause(60_000).await;
        let after = sizes(scene);
        scene.operator.run("broker thaw").await?;
        for (before, after) in before.iter().zip(&after) {
            scene.note(format!("{before:?} became {after:?}"));
            let memory_kib = after.memory_kib.saturating_sub(before.memory_kib);
            ensure!(memory_kib < MOST_GROWTH_KIB, "it grew by {memory_kib} KiB");
            ensure!(
                after.threads <= before.threads + MORE_THREADS,
                "threads piled up"
            );
            ensure!(
                after.files <= before.files + MORE_FILES,
                "open files piled up"
            );
        }
        told
    }
    .boxed_local()
}

fn sizes(scene: &Scene) -> Vec<Size> {
    let all = scene.stage.gateways.iter().chain(&scene.stage.workers);
    all.filter_map(Process::size).collect()
}

/// Those of a runtime for what blocks, which it ends when they idle.
const MORE_THREADS: usize = 16;
/// Connections of senders and probes.
const MORE_FILES: usize = 64;

/// All at once.
pub fn close_connections(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let order = "broker ctl close_all_connections fault";
        scene.operator.run(order).await
    }
    .boxed_local()
}

async fn alarm(scene: &Scene, on: &str, off: &str) -> Result<()> {
    scene.operator.run(on).await?;
    let told = scene.until_unready().await;
    pause(5_000).await;
    let waiting = scene.stage.bed.count(OUTBOX).await;
    pause(3_000).await;
    scene.operator.run(off).await?;
    ensure!(waiting > 0, "the alarm kept no publish back");
    told
}

/// It takes no publishes; acknowledgements must still reach it.
pub fn memory_alarm(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    let on = "broker ctl set_vm_memory_high_watermark absolute 1000000";
    alarm(scene, on, "broker ctl set_vm_memory_high_watermark 0.4").boxed_local()
}

/// The same for the disk.
pub fn disk_alarm(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    let on = "broker ctl set_disk_free_limit 100000GB";
    alarm(scene, on, "broker ctl set_disk_free_limit 50MB").boxed_local()
}

const HASTY: &str = "broker ctl eval application:set_env(rabbit,consumer_timeout,2000),application:set_env(rabbit,channel_tick_interval,500).";
const USUAL: &str = "broker ctl eval application:set_env(rabbit,consumer_timeout,1800000),application:set_env(rabbit,channel_tick_interval,60000).";

/// A broker that gives a message 2 s closes the channels of workers whose handlers wait for a table longer than that.
pub fn consumer_timeout(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.operator.run(HASTY).await?;
        // A channel keeps the limits that it was opened with.
        renew_workers(scene).await;
        let locked = lock_table_for(scene, 7_000).await;
        scene.operator.run(USUAL).await?;
        locked?;
        for worker in &scene.stage.workers {
            let log = worker.log_text();
            let closed = log.matches("delivery acknowledgement on channel").count();
            ensure!(closed > 0, "the broker closed no channel of a worker");
            scene.notes.push(format!(
                "channels of a worker that the broker closed: {closed}"
            ));
        }
        Ok(())
    }
    .boxed_local()
}

async fn renew_workers(scene: &mut Scene) {
    let old = std::mem::take(&mut scene.stage.workers);
    for _ in &old {
        scene.stage.add_worker(&[]).await;
    }
    for mut worker in old {
        worker.signal("TERM");
        worker.exit_code().await;
    }
}

/// While it fills.
pub fn purge(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let broker = Broker::connect(&scene.stage.bed).await;
        // Without workers the queue is not empty.
        for mut worker in std::mem::take(&mut scene.stage.workers) {
            worker.signal("TERM");
            worker.exit_code().await;
        }
        pause(1_000).await;
        let waiting = broker.ready().await;
        broker.purge().await;
        scene.stage.add_worker(&[]).await;
        scene.stage.add_worker(&[]).await;
        ensure!(waiting > 0, "the queue was empty");
        Ok(())
    }
    .boxed_local()
}

/// Workers lose their consumers, publishes come back.
pub fn delete_queue(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        Broker::connect(&scene.stage.bed).await.delete_queue().await;
        Ok(())
    }
    .boxed_local()
}

/// Messages come back as unroutable.
pub fn unbind_queue(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        Broker::connect(&scene.stage.bed).await.unbind_queue().await;
        let deadline = Instant::now() + Duration::from_secs(5);
        while failed_publishes(scene).await? == 0.0 {
            ensure!(Instant::now() < deadline, "no message came back");
            pause(50).await;
        }
        Ok(())
    }
    .boxed_local()
}

async fn failed_publishes(scene: &Scene) -> Result<f64> {
    let metrics = scene.stage.gateways[0].metrics().await?;
    let counts = |line: &&str| {
        line.starts_with("tollgate_publishes_total{") && line.contains("result=\"failed\"")
    };
    let line = metrics.lines().find(counts).unwrap_or_default();
    let count = line.rsplit_once(' ').map_or("0", |(_, count)| count);
    Ok(count.parse()?)
}

/// Channels that publish to it are closed.
pub fn delete_exchange(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let broker = Broker::connect(&scene.stage.bed).await;
        broker.delete_exchange().await;
        Ok(())
    }
    .boxed_local()
}

/// Queues and messages are gone.
pub fn lose_disk(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.operator.run("broker kill").await?;
        let told = scene.until_unready().await;
        scene.operator.run("broker lose").await?;
        scene.operator.run("broker start").await?;
        told
    }
    .boxed_local()
}
