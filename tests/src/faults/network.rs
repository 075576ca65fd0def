//! What networks do.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::scene::{Scene, pause};
use crate::Proxy;

/// For each connection and direction.
const NARROW_BYTES_PER_S: usize = 16 * 1024;

fn all(scene: &Scene) -> impl Iterator<Item = &Proxy> {
    scene.to_database().into_iter().chain(scene.to_broker())
}

async fn spell(scene: &Scene, spoil: impl Fn(&Proxy), milliseconds: u64) -> Result<()> {
    all(scene).for_each(spoil);
    pause(milliseconds).await;
    all(scene).for_each(Proxy::open);
    Ok(())
}

/// Each way takes half of a round trip. Attempts may become rare, but hardly one may fail for it.
pub fn slow(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    let (latency, jitter) = (Duration::from_millis(250), Duration::from_millis(150));
    async move {
        spell(scene, move |proxy| proxy.slow(latency, jitter), 15_000).await?;
        let failed = "SELECT count(*) FROM event_attempts WHERE outcome = 'transient'";
        let failed = scene.stage.bed.count(failed).await;
        scene.note(format!("{failed} attempts failed"));
        let most = i64::try_from(scene.load.events() / 10)?;
        ensure!(failed < most, "{failed} attempts failed");
        Ok(())
    }
    .boxed_local()
}

/// As through the smallest of packets.
pub fn slice(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    spell(scene, |proxy| proxy.slice(7), 4_000).boxed_local()
}

/// A line that is shared with too many others.
pub fn narrow(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    spell(scene, |proxy| proxy.narrow(NARROW_BYTES_PER_S), 6_000).boxed_local()
}

/// The dependency hears that the client has no more to say.
pub fn half_close(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    spell(scene, Proxy::half_close, 1_500).boxed_local()
}

/// RST on every connection.
pub fn reset(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..5 {
            all(scene).for_each(Proxy::reset);
            pause(400).await;
        }
        Ok(())
    }
    .boxed_local()
}

/// No byte passes, and no connection breaks.
pub fn database_black_hole(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.to_database().into_iter().for_each(Proxy::freeze);
        let told = scene.until_unready().await;
        pause(5_000).await;
        scene.to_database().into_iter().for_each(Proxy::open);
        told
    }
    .boxed_local()
}

/// The same before the broker.
pub fn broker_black_hole(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.to_broker().into_iter().for_each(Proxy::freeze);
        let told = scene.until_unready().await;
        pause(5_000).await;
        scene.to_broker().into_iter().for_each(Proxy::open);
        told
    }
    .boxed_local()
}

async fn flap(proxy: &Proxy) -> Result<()> {
    for _ in 0..6 {
        proxy.cut();
        pause(300).await;
        proxy.open();
        pause(400).await;
    }
    Ok(())
}

/// Gateways lose the broker again and again.
pub fn flap_broker(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    flap(&scene.gateway_broker).boxed_local()
}

/// Workers lose the database again and again.
pub fn flap_database(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    flap(&scene.worker_database).boxed_local()
}
