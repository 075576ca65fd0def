//! Safeguards of the database.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use harness::TestBed;
use harness::checker::AttemptRow;
use harness::faults::{Operator, Scene, pause};
use harness::simulator::Plan;
use tokio_postgres::NoTls;

use super::services::{alone, judge};
use super::{Control, snapshot_of, verdict_of};

const KEYS: usize = 50;
const CONNECTIONS: usize = 32;

/// Looks whether a key is there, and inserts it if not: every key over all connections at once.
pub async fn unique_key() -> Result<Control> {
    let told = ("unique key", "check, then insert, 32 connections at once");
    Control::stage(told, async |safe| {
        let bed = TestBed::new().await;
        let key = if safe { "PRIMARY KEY" } else { "" };
        let table = format!("CREATE TABLE effects (event_id text {key})");
        bed.db.batch_execute(&table).await?;
        for done in join_all((0..CONNECTIONS).map(|_| check_then_insert(&bed))).await {
            done?;
        }
        judge_effects(&bed).await
    })
    .await
}

async fn check_then_insert(bed: &TestBed) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(&bed.owner_url(), NoTls).await?;
    let driver = tokio::spawn(connection);
    for n in 0..KEYS {
        let id = format!("evt_{n}");
        let find = "SELECT FROM effects WHERE event_id = $1";
        if client.query(find, &[&id]).await?.is_empty() {
            let insert = "INSERT INTO effects VALUES ($1) ON CONFLICT DO NOTHING";
            client.execute(insert, &[&id]).await?;
        }
    }
    drop(client);
    driver.await??;
    Ok(())
}

async fn judge_effects(bed: &TestBed) -> Result<String> {
    let effects = bed.db.query("SELECT event_id FROM effects", &[]).await?;
    let effects: Vec<String> = effects.iter().map(|row| row.get(0)).collect();
    let ids: BTreeSet<&String> = effects.iter().collect();
    ensure!(ids.len() == KEYS, "only {} effects are there", ids.len());
    let ids: Vec<String> = ids.into_iter().cloned().collect();
    let mut snapshot = snapshot_of(ids.clone());
    for event in &mut snapshot.events {
        event.attempts = 1;
    }
    snapshot.attempts = effects
        .into_iter()
        .map(|event_id| AttemptRow {
            event_id,
            number: 1,
            outcome: "processed".to_owned(),
            kind: String::new(),
        })
        .collect();
    Ok(verdict_of(&ids, &snapshot))
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
