//! PostgreSQL restarted, killed, frozen, read-only, full.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::scene::{Scene, pause};
use super::{processes, variable};
use crate::Proxy;

async fn down_for(scene: &mut Scene, how: &str, milliseconds: u64) -> Result<()> {
    scene.operator.run(how).await?;
    let told = scene.until_unready().await;
    pause(milliseconds).await;
    scene.operator.run("database start").await?;
    scene.stage.bed.reconnect().await;
    told
}

/// As by an operator.
pub fn restart(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    down_for(scene, "database stop", 1_000).boxed_local()
}

/// As by a power cut.
pub fn kill(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    down_for(scene, "database kill", 1_000).boxed_local()
}

/// It keeps its connections and does nothing.
pub fn freeze(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        scene.operator.run("database freeze").await?;
        let told = scene.until_unready().await;
        pause(3_000).await;
        scene.operator.run("database thaw").await?;
        told
    }
    .boxed_local()
}

/// What was committed is not told: the statement passes, its answer does not, and then the connection breaks.
pub fn lose_replies(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let mut untold = BTreeSet::new();
        for _ in 0..5 {
            scene.gateway_database.mute();
            pause(200).await;
            untold.extend(stored_and_not_acknowledged(scene).await?);
            // On a busy machine it takes longer until the first is stored.
            for _ in 0..20 {
                if !untold.is_empty() {
                    break;
                }
                pause(50).await;
                untold.extend(stored_and_not_acknowledged(scene).await?);
            }
            scene.gateway_database.cut();
            pause(50).await;
            scene.gateway_database.open();
            pause(300).await;
        }
        let commits = untold.len();
        scene.note(format!(
            "{commits} events were committed without the gateway's knowing"
        ));
        ensure!(commits > 0, "no commit was ambiguous");
        Ok(())
    }
    .boxed_local()
}

async fn stored_and_not_acknowledged(scene: &Scene) -> Result<Vec<String>> {
    let stored = "SELECT id FROM webhook_events";
    let stored = scene.stage.bed.db.query(stored, &[]).await?;
    let acknowledged = scene.load.acknowledged_ids();
    let ids = stored.iter().map(|row| row.get::<_, String>(0));
    Ok(ids.filter(|id| !acknowledged.contains(id)).collect())
}

async fn execute(scene: &Scene, sql: &[&str]) -> Result<()> {
    for statement in sql {
        scene.stage.bed.db.batch_execute(statement).await?;
    }
    Ok(())
}

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// As a primary that was demoted.
pub fn read_only(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let writable = "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE";
        let on = "ALTER SYSTEM SET default_transaction_read_only = on";
        execute(scene, &[writable, on, "SELECT pg_reload_conf()"]).await?;
        let told = scene.until_unready().await;
        pause(3_000).await;
        let off = "ALTER SYSTEM RESET default_transaction_read_only";
        execute(scene, &[writable, off, "SELECT pg_reload_conf()"]).await?;
        told
    }
    .boxed_local()
}

/// Both hosts lead to the same server: first one answers, then only the other. Nobody is told which.
pub fn fail_over(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let (gateway_url, worker_url) =
            (scene.stage.bed.gateway_url(), scene.stage.bed.worker_url());
        let (gateways, gateway_standby) = second_host(&scene.gateway_database, &gateway_url).await;
        let (workers, worker_standby) = second_host(&scene.worker_database, &worker_url).await;
        let setup = scene.stage.setup_mut();
        setup.gateway.push(variable("DATABASE_URL", &gateways));
        setup.worker.push(variable("DATABASE_URL", &workers));
        processes::roll_gateways(scene).await?;
        processes::roll_workers(scene).await?;
        scene.to_database().into_iter().for_each(Proxy::freeze);
        let told = scene.until_unready().await;
        gateway_standby.open();
        worker_standby.open();
        told
    }
    .boxed_local()
}

/// A URL with the proxy's host and that of another one, which is down.
async fn second_host(first: &Proxy, url: &str) -> (String, Proxy) {
    let (second, through) = Proxy::before(url).await;
    second.cut();
    let address = second.address.to_string();
    let both = format!("{},{address}", first.address);
    (through.replacen(&address, &both, 1), second)
}

/// Others have taken all of them.
pub fn no_connections(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let database = scene
            .stage
            .bed
            .text("SELECT current_database()::text")
            .await;
        let none = format!("ALTER DATABASE {database} CONNECTION LIMIT 0");
        execute(scene, &[&none, TERMINATE]).await?;
        let told = scene.until_unready().await;
        pause(2_000).await;
        let any = format!("ALTER DATABASE {database} CONNECTION LIMIT -1");
        execute(scene, &[&any]).await?;
        told
    }
    .boxed_local()
}

/// Every insert of an event or an attempt fails as on a full disk, for 20 s.
pub fn disk_full(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let fail = "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'could not extend file: no space left on device' USING ERRCODE = '53100';
            END $$";
        execute(scene, &[fail]).await?;
        for table in ["webhook_events", "event_attempts"] {
            let trigger = format!(
                "CREATE TRIGGER disk_full BEFORE INSERT ON {table} EXECUTE FUNCTION disk_full()"
            );
            take_step(scene, &trigger).await?;
        }
        let told = scene.until_gateways_are_unready().await;
        pause(20_000).await;
        for table in ["webhook_events", "event_attempts"] {
            take_step(scene, &format!("DROP TRIGGER disk_full ON {table}")).await?;
        }
        execute(scene, &["DROP FUNCTION disk_full"]).await?;
        told
    }
    .boxed_local()
}

/// Handlers wait for it and give up; no attempt may be burnt.
pub fn lock_table(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    lock_table_for(scene, 5_000).boxed_local()
}

pub(super) async fn lock_table_for(scene: &Scene, milliseconds: u64) -> Result<()> {
    let lock = "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE";
    execute(scene, &[lock]).await?;
    pause(milliseconds).await;
    let waiting =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
    let waiting = scene.stage.bed.count(waiting).await;
    execute(scene, &["COMMIT"]).await?;
    ensure!(waiting > 0, "nobody waited for the table");
    Ok(())
}

/// In the middle of whatever they do.
pub fn terminate_backends(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..5 {
            execute(scene, &[TERMINATE]).await?;
            pause(400).await;
        }
        Ok(())
    }
    .boxed_local()
}

/// Again where a lock was not to be had.
pub(super) async fn take_step(scene: &Scene, step: &str) -> Result<()> {
    for _ in 0..10 {
        if scene.stage.bed.db.batch_execute(step).await.is_ok() {
            return Ok(());
        }
        pause(200).await;
    }
    execute(scene, &[step]).await
}
