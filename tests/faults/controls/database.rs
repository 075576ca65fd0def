//! Safeguards of the database.

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use harness::faults::{Operator, Scene, Stage, pause};
use harness::simulator::Plan;
use harness::stripe::{self, event_id};
use serde_json::json;

use super::services::{alone, judge};
use super::{Control, snapshot_of, verdict_of};

const EVENTS: usize = 20;
const COPIES: usize = 8;

/// Two gateways get each event many times at once. With the key the second copy is a duplicate.
pub async fn unique_key() -> Result<Control> {
    let told = ("unique key", "20 events, 8 copies of each at once");
    Control::stage(told, async |safe| {
        let mut setup = alone("unique_key", safe);
        (setup.gateways, setup.workers) = (2, 0);
        let stage = Stage::ready(setup).await;
        if !safe {
            let drop = "ALTER TABLE webhook_events DROP CONSTRAINT webhook_events_pkey CASCADE;
                ALTER TABLE event_payloads DROP CONSTRAINT event_payloads_pkey CASCADE";
            stage.bed.db.batch_execute(drop).await?;
        }
        let ids: Vec<String> = (0..EVENTS).map(|_| event_id()).collect();
        let copies = (0..COPIES * EVENTS).map(|n| {
            let gateway = stage.gateways[n % 2].address;
            stripe::post(
                gateway,
                stripe::event(&ids[n / COPIES], "some.type", &json!({})),
            )
        });
        let answers = join_all(copies).await;
        ensure!(
            answers.iter().all(|answer| answer.status == 200),
            "a copy was not taken"
        );
        let stored = stage
            .bed
            .db
            .query("SELECT id FROM webhook_events", &[])
            .await?;
        let stored = stored.iter().map(|row| row.get(0)).collect();
        Ok(verdict_of(&ids, &snapshot_of(stored)))
    })
    .await
}

/// The services on a server whose setting is off, and that is killed. With the safeguard they overrule it.
pub async fn synchronous_commit(operator: &Operator, seed: u64) -> Result<Control> {
    let told = (
        "synchronous_commit",
        "database SIGKILL, the server's setting being off",
    );
    Control::stage(told, async |safe| {
        let setup = alone("synchronous_commit", safe);
        let plan = Plan::new(seed, 300, 3);
        let mut scene = Scene::open(operator.clone(), setup, plan).await;
        let struck = strike(&mut scene).await;
        let reset = ["ALTER SYSTEM RESET synchronous_commit", RELOAD];
        for statement in reset {
            scene.stage.bed.db.batch_execute(statement).await?;
        }
        struck
    })
    .await
}

const RELOAD: &str = "SELECT pg_reload_conf()";

async fn strike(scene: &mut Scene) -> Result<String> {
    let off = ["ALTER SYSTEM SET synchronous_commit = off", RELOAD];
    for statement in off {
        scene.stage.bed.db.batch_execute(statement).await?;
    }
    pause(1_500).await;
    ensure!(scene.load.acknowledged() > 0, "nothing was taken yet");
    scene.operator.run("database kill").await?;
    scene.operator.run("database start").await?;
    scene.stage.bed.reconnect().await;
    Ok(judge(scene).await)
}
