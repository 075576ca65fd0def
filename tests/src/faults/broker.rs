//! RabbitMQ killed, frozen, blocked, emptied.

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::scene::{MOST_GROWTH_KIB, Scene, pause};
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
