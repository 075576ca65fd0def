//! A new version beside the old one: refused before its migration, served after it, and the old one served throughout.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::database::take_step;
use super::scene::{Scene, pause};
use crate::binaries::{Launch, Process};

const LONGEST_REFUSAL: Duration = Duration::from_secs(10);

/// What a later version's migration does, one step at a time and never waiting long for a lock, and its entry in the
/// history.
const EXPAND: [&str; 6] = [
    "ALTER TABLE webhook_events ADD COLUMN expanded text DEFAULT 'x'",
    "ALTER TABLE orders ADD COLUMN expanded text DEFAULT 'x'",
    "ALTER TABLE emails ADD COLUMN expanded text DEFAULT 'x'",
    "CREATE INDEX CONCURRENTLY expanded_idx ON webhook_events (expanded)",
    "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (9999, 'expanded', '2999-01-01T00:00:00Z', '0')",
    "UPDATE webhook_events SET expanded = id",
];
/// What the version after that does, once nobody needs it any more.
const CONTRACT: [&str; 4] = [
    "DROP INDEX CONCURRENTLY expanded_idx",
    "ALTER TABLE webhook_events DROP COLUMN expanded",
    "ALTER TABLE orders DROP COLUMN expanded",
    "ALTER TABLE emails DROP COLUMN expanded",
];

async fn execute(scene: &Scene, sql: &str) -> Result<()> {
    Ok(scene.stage.bed.db.batch_execute(sql).await?)
}

/// Expand, both versions at once, contract.
pub fn migrate(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        refused_while_pending(scene).await?;
        execute(scene, "SET lock_timeout = '1s'").await?;
        for step in EXPAND {
            take_step(scene, step).await?;
            pause(200).await;
        }
        // Both sets work on the later schema, then the old one ends.
        scene.stage.add_gateway(&[]).await;
        scene.stage.add_worker(&[]).await;
        scene.stage.add_worker(&[]).await;
        pause(1_000).await;
        end_the_old_ones(scene).await?;
        for step in CONTRACT {
            take_step(scene, step).await?;
            pause(200).await;
        }
        execute(scene, "RESET lock_timeout").await
    }
    .boxed_local()
}

/// To a program that needs one migration more than there is, the schema looks as it does here without its last entry.
async fn refused_while_pending(scene: &mut Scene) -> Result<()> {
    let hide = "CREATE TABLE hidden AS SELECT * FROM refinery_schema_history ORDER BY version DESC LIMIT 1;
        DELETE FROM refinery_schema_history h USING hidden WHERE h.version = hidden.version";
    execute(scene, hide).await?;
    let refused = async {
        for name in ["gateway", "worker"] {
            let launch = Launch {
                doomed: true,
                ..Launch::default()
            };
            let mut process = Process::launch(&scene.stage.bed, name, launch).await;
            let deadline = Instant::now() + LONGEST_REFUSAL;
            while !process.has_ended() && Instant::now() < deadline {
                pause(50).await;
            }
            ensure!(process.has_ended(), "a {name} runs without its migration");
            let code = process.exit_code().await;
            ensure!(code == Some(1), "a {name} ended with {code:?}");
            let told = process.log_text().contains("run `ops migrate`");
            ensure!(told, "a {name} does not say what to do");
        }
        ensure!(
            scene.stage.everybody_is_ready().await,
            "what runs already minds the pending migration"
        );
        anyhow::Ok(())
    }
    .await;
    let show = "INSERT INTO refinery_schema_history SELECT * FROM hidden; DROP TABLE hidden";
    execute(scene, show).await?;
    refused
}

async fn end_the_old_ones(scene: &mut Scene) -> Result<()> {
    let mut old = vec![scene.stage.gateways.remove(0)];
    old.extend(scene.stage.workers.drain(..2));
    // The load balancer stops sending to the old gateway first.
    scene.stage.aim();
    pause(500).await;
    for mut process in old {
        process.signal("TERM");
        let code = process.exit_code().await;
        ensure!(code == Some(0), "it exited with {code:?}");
    }
    Ok(())
}
