//! Stripe, which gives up on an endpoint that is off, and has trouble of its own.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::scene::{Scene, pause};
use crate::stripe_api::{StripeApi, TEST_KEY, Trouble};

/// How long the import may take once the gateway is back.
const LONGEST_IMPORT: Duration = Duration::from_secs(30);

/// What is sent meanwhile is in Stripe's list only, which does not answer properly at first.
pub fn given_up(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let api = StripeApi::start().await;
        scene.stage.targets.set(vec![api.address]);
        scene.stage.gateways.clear();
        api.trouble([
            Trouble::Status(500, vec![]),
            Trouble::Status(429, vec![("retry-after", "1")]),
            Trouble::Cut,
        ]);
        let reconciling = [
            ("STRIPE_SECRET_KEY", TEST_KEY),
            ("STRIPE_API_URL", &api.url),
            ("RECONCILE_EVERY", "500ms"),
        ];
        scene.stage.add_worker(&reconciling).await;
        pause(3_000).await;
        scene.stage.add_gateway(&[]).await;
        until_imported(scene, &api).await
    }
    .boxed_local()
}

async fn until_imported(scene: &Scene, api: &StripeApi) -> Result<()> {
    const STORED: &str = "SELECT count(*) FROM webhook_events WHERE id = ANY($1)";
    let began = Instant::now();
    loop {
        let held = api.ids();
        ensure!(!held.is_empty(), "Stripe had nothing to give up");
        let stored: i64 = scene.stage.bed.row(STORED, &[&held]).await.get(0);
        if usize::try_from(stored)? == held.len() {
            break;
        }
        ensure!(
            began.elapsed() < LONGEST_IMPORT,
            "{stored} of {} events were imported",
            held.len()
        );
        pause(100).await;
    }
    let imported = scene
        .stage
        .bed
        .count("SELECT count(*) FROM reconciled_events");
    ensure!(imported.await > 0, "nothing was imported");
    Ok(())
}
