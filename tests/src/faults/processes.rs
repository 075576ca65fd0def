//! Gateways and workers killed, frozen, restarted, multiplied.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::scene::{Scene, pause};
use super::{Setup, variable};
use crate::binaries::Process;
use crate::checker::Forgery;
use crate::stripe;

const ROUNDS: usize = 3;
const OLD_SECRET: &str = crate::stripe::SECRET;
const NEW_SECRET: &str = "whsec_rotated";

/// One after the other, under load.
pub fn kill_gateway(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..ROUNDS {
            let mut killed = scene.stage.gateways.remove(0);
            killed.signal("KILL");
            killed.exit_code().await;
            scene.stage.add_gateway(&[]).await;
            pause(300).await;
        }
        Ok(())
    }
    .boxed_local()
}

/// One after the other.
pub fn kill_worker(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..ROUNDS {
            let mut killed = scene.stage.workers.remove(0);
            killed.signal("KILL");
            killed.exit_code().await;
            scene.stage.add_worker(&[]).await;
            pause(300).await;
        }
        Ok(())
    }
    .boxed_local()
}

/// It freezes in a handler, with its transaction open; the database ends that after 15 s.
pub fn freeze_worker(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    freeze_at(scene, "worker.in_handler:3:stop").boxed_local()
}

/// All that is missing is its commit, which comes too late.
pub fn freeze_before_commit(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    freeze_at(scene, "worker.before_commit:3:stop").boxed_local()
}

async fn freeze_at(scene: &mut Scene, trap: &str) -> Result<()> {
    let trap = [("TOLLGATE_CRASH_AT", trap)];
    scene.stage.add_worker(&trap).await;
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'
        AND datname = current_database() AND state_change < now() - interval '3 seconds'";
    // With the third event, those that it had in work beside it stand still too.
    until(scene, idle, |frozen| frozen > 0, 30).await?;
    let frozen_at = Instant::now();
    until(scene, idle, |frozen| frozen == 0, 30).await?;
    ensure!(
        frozen_at.elapsed() > Duration::from_secs(5),
        "it was not frozen"
    );
    pause(2_000).await;
    if let Some(frozen) = scene.stage.workers.last() {
        frozen.signal("CONT");
    }
    Ok(())
}

/// One of two freezes with requests on its way, which are answered once it goes on.
pub fn freeze_gateway(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for gateway in &scene.stage.gateways {
            gateway.signal("STOP");
            pause(4_000).await;
            gateway.signal("CONT");
            pause(500).await;
        }
        Ok(())
    }
    .boxed_local()
}

async fn until(
    scene: &Scene,
    sql: &str,
    is_enough: impl Fn(i64) -> bool,
    seconds: u64,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let count = scene.stage.bed.count(sql).await;
        if is_enough(count) {
            break;
        }
        if Instant::now() > deadline {
            bail!("within {seconds} s it only became {count}: {sql}");
        }
        pause(50).await;
    }
    Ok(())
}

/// Workers that die whenever they meet one event, and are started again and again. The broker puts its message aside, the
/// recorder counts one attempt, and all others are done; then the workers are mended.
pub fn crash_loop(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let stored = "SELECT id FROM webhook_events";
        let rows = scene.stage.bed.db.query(stored, &[]).await?;
        let stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let fresh = |id: &&str| !stored.iter().any(|known| known == id);
        let Some(poison) = scene.load.ids().find(fresh).map(str::to_owned) else {
            bail!("every event was there before the fault");
        };
        let trap = format!("worker.after_lock:{poison}");
        let trap = [("TOLLGATE_CRASH_AT", trap.as_str())];
        scene.stage.workers.clear();
        scene.stage.add_worker(&trap).await;
        scene.stage.add_worker(&trap).await;
        restart_until_put_aside(scene, &poison, &trap).await?;
        let neighbours = format!(
            "SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying') AND id <> '{poison}'
                AND received_at < now() - interval '2 seconds'"
        );
        let survived = until(scene, &neighbours, |waiting| waiting == 0, 30).await;
        scene.stage.workers.clear();
        scene.stage.add_worker(&[]).await;
        scene.stage.add_worker(&[]).await;
        survived
    }
    .boxed_local()
}

async fn restart_until_put_aside(
    scene: &mut Scene,
    poison: &str,
    trap: &[(&str, &str)],
) -> Result<()> {
    let aside = format!(
        "SELECT count(*) FROM event_attempts WHERE event_id = '{poison}' AND error_kind = 'delivery_limit'"
    );
    let (deadline, mut crashes) = (Instant::now() + Duration::from_secs(60), 0);
    while scene.stage.bed.count(&aside).await == 0 {
        ensure!(
            Instant::now() < deadline,
            "{crashes} crashes, and the message was not put aside"
        );
        let ended = scene.stage.workers.extract_if(.., Process::has_ended);
        for mut crashed in ended.collect::<Vec<_>>() {
            crashed.expect_abort_at("worker.after_lock")?;
            crashes += 1;
            scene.stage.add_worker(trap).await;
        }
        pause(50).await;
    }
    ensure!(crashes > 0, "nothing crashed");
    Ok(())
}

/// It ends what it has begun and exits with 0.
pub fn terminate_worker(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let mut ending = scene.stage.workers.remove(0);
        ending.signal("TERM");
        let code = ending.exit_code().await;
        scene.stage.add_worker(&[]).await;
        ensure!(code == Some(0), "it exited with {code:?}");
        Ok(())
    }
    .boxed_local()
}

/// Each is replaced before it ends.
pub fn roll_workers(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..scene.stage.workers.len() {
            scene.stage.add_worker(&[]).await;
            let mut old = scene.stage.workers.remove(0);
            old.signal("TERM");
            let code = old.exit_code().await;
            ensure!(code == Some(0), "it exited with {code:?}");
        }
        Ok(())
    }
    .boxed_local()
}

/// A stage with one worker.
pub fn one_worker() -> Setup {
    Setup {
        workers: 1,
        ..Setup::default()
    }
}

/// Seven more, then all but two end.
pub fn scale_workers(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        while scene.stage.workers.len() < 8 {
            scene.stage.add_worker(&[]).await;
        }
        pause(1_500).await;
        let busy = "SELECT count(DISTINCT worker) FROM event_attempts";
        let busy = scene.stage.bed.count(busy).await;
        scene.note(format!("{busy} of 8 workers had attempts"));
        ensure!(busy > 4, "only {busy} of 8 workers had attempts");
        while scene.stage.workers.len() > 2 {
            let mut ending = scene.stage.workers.remove(0);
            ending.signal("TERM");
            let code = ending.exit_code().await;
            ensure!(code == Some(0), "it exited with {code:?}");
        }
        Ok(())
    }
    .boxed_local()
}

/// A stage with two gateways.
pub fn two_gateways() -> Setup {
    Setup {
        gateways: 2,
        ..Setup::default()
    }
}

/// Each is taken out of the load balancer, drained and replaced.
pub fn roll_gateways(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..scene.stage.gateways.len() {
            scene.stage.add_gateway(&[]).await;
            let mut old = scene.stage.gateways.remove(0);
            scene.stage.aim();
            // What was sent to the old one before is on its way.
            pause(300).await;
            old.signal("TERM");
            let code = old.exit_code().await;
            ensure!(code == Some(0), "it exited with {code:?}");
        }
        Ok(())
    }
    .boxed_local()
}

/// A stage whose gateway reads its secrets from a file.
pub fn secret_in_a_file() -> Setup {
    let file = std::env::temp_dir().join(format!("tollgate-secrets-{}", std::process::id()));
    // A gateway that finds no file does not start, and says so.
    let _ = std::fs::write(&file, OLD_SECRET);
    Setup {
        gateway: vec![
            variable("STRIPE_WEBHOOK_SECRET", ""),
            variable("STRIPE_WEBHOOK_SECRET_FILE", &file.to_string_lossy()),
        ],
        ..Setup::default()
    }
}

/// It proves nothing any more.
async fn signed_with_the_old_one(scene: &mut Scene) {
    let gateway = scene.stage.gateways[0].address;
    let body = stripe::event(&stripe::event_id(), "some.type", &serde_json::json!({}));
    let answer = stripe::post(gateway, body).await;
    scene.load.forged(Forgery {
        what: "signed with the secret of before".to_owned(),
        status: answer.status,
        answer: answer.body.to_string(),
        expected: &[400],
        alike: false,
    });
}

/// Both, then the sender changes over, then the new one alone.
pub fn rotate_secret(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let file = std::env::temp_dir().join(format!("tollgate-secrets-{}", std::process::id()));
        for content in [format!("{OLD_SECRET},{NEW_SECRET}"), NEW_SECRET.to_owned()] {
            std::fs::write(&file, content)?;
            for gateway in &scene.stage.gateways {
                gateway.signal("HUP");
            }
            pause(1_000).await;
            scene.stage.targets.sign_with(NEW_SECRET);
            // What was signed with the old one is on its way.
            pause(1_000).await;
        }
        std::fs::remove_file(&file)?;
        signed_with_the_old_one(scene).await;
        Ok(())
    }
    .boxed_local()
}
