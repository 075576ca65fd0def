//! Retention while events are worked on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::replays::buried_plan;
use super::scene::{Scene, pause};

const OLD: i64 = 3_000;
const WAITING: usize = 40;
const LONGEST: Duration = Duration::from_secs(30);

/// Old events, all of which are final.
const FINISHED: &str = "
    WITH event AS (
        INSERT INTO webhook_events (id, type, state, livemode, attempts, received_at, finished_at)
        SELECT 'evt_old_' || n, 'payment_intent.succeeded', 'processed', false, 1, now() - interval '40 days',
            now() - interval '40 days'
        FROM generate_series(1, $1::bigint) n RETURNING id
    ), body AS (
        INSERT INTO event_payloads (event_id, received_at, body) SELECT id, now() - interval '40 days', '{}' FROM event
    )
    INSERT INTO event_attempts (event_id, number, started_at, outcome, worker)
    SELECT id, 1, now() - interval '40 days', 'processed', 'test' FROM event";

/// As old, and never attempted: no message of them was ever sent.
const UNFINISHED: &str = "
    WITH event AS (
        INSERT INTO webhook_events (id, type, state, livemode, received_at)
        SELECT id, 'payment_intent.succeeded', 'received', false, now() - interval '40 days' FROM unnest($1::text[]) id
    )
    INSERT INTO event_payloads (event_id, received_at, body)
    SELECT id, now() - interval '40 days', body FROM unnest($1::text[], $2::bytea[]) AS sent (id, body)";

/// What is final goes, what is not stays and is fulfilled.
pub fn under_load(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let plan = buried_plan(&scene.plan, WAITING);
        scene.stage.bed.seed(&plan.catalogue()).await;
        let parcels = plan.parcels();
        let ids: Vec<&str> = parcels
            .iter()
            .map(|parcel| parcel.sent.id.as_str())
            .collect();
        let bodies: Vec<&[u8]> = parcels
            .iter()
            .map(|parcel| parcel.body.as_bytes())
            .collect();
        let db = &scene.stage.bed.db;
        db.execute(FINISHED, &[&OLD]).await?;
        db.execute(UNFINISHED, &[&ids, &bodies]).await?;
        for parcel in &parcels {
            scene.load.adopt(parcel.sent.clone());
        }
        let pruning = [("RETENTION_EVENTS", "31d"), ("RETENTION_PAYLOADS", "31d")];
        scene.stage.add_worker(&pruning).await;
        let left = "SELECT count(*) FROM webhook_events WHERE id LIKE 'evt_old_%'";
        let began = Instant::now();
        while scene.stage.bed.count(left).await > 0 {
            ensure!(began.elapsed() < LONGEST, "old events are still there");
            pause(50).await;
        }
        scene.note(format!(
            "{OLD} old events went within {:.1?}",
            began.elapsed()
        ));
        Ok(())
    }
    .boxed_local()
}
