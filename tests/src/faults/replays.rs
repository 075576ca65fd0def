//! Many dead letters put back to work while new events come.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use super::probe::Probe;
use super::scene::{Scene, pause};
use super::stage::Stage;
use crate::binaries::ops;
use crate::simulator::{Load, Parcel, Plan, Shape};

const BURIED: usize = 300;
const RATE: usize = 50;
const FULFILLED: usize = 60;
const LONGEST_REPLAY: Duration = Duration::from_secs(60);
const OF_MISSING_ORDERS: &str = "--filter=reason:order_not_found";
const WHY: &str = "--reason=the orders are there now";

/// Orders of their own beside those of a load.
pub fn buried_plan(plan: &Plan, orders: usize) -> Plan {
    Plan::new(plan.seed + 1_000_000, orders, 0).shaped(Shape::Paid)
}

/// Events that were taken long ago and given up for want of an order, which is there now.
pub async fn bury(stage: &Stage, load: &mut Load, plan: &Plan) -> Result<()> {
    const BURY: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, livemode, attempts, last_error, received_at, finished_at)
            SELECT id, 'payment_intent.succeeded', 'dead', false, 1, 'no order', now() - interval '2 hours', now()
            FROM unnest($1::text[]) id RETURNING id
        ), body AS (
            INSERT INTO event_payloads (event_id, body) SELECT * FROM unnest($1::text[], $2::bytea[])
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, error, worker)
            SELECT id, 1, now(), 'permanent', 'order_not_found', 'no order', 'test' FROM event
        )
        INSERT INTO dead_letters (event_id, reason, error, fingerprint)
        SELECT id, 'order_not_found', 'no order', 'f' FROM event";
    stage.bed.seed(&plan.catalogue()).await;
    let parcels = plan.parcels();
    let ids: Vec<&str> = parcels
        .iter()
        .map(|parcel| parcel.sent.id.as_str())
        .collect();
    let bodies: Vec<&[u8]> = parcels
        .iter()
        .map(|parcel| parcel.body.as_bytes())
        .collect();
    stage.bed.db.execute(BURY, &[&ids, &bodies]).await?;
    for parcel in &parcels {
        load.adopt(parcel.sent.clone());
    }
    Ok(())
}

async fn command(stage: &Stage, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().chain(&["--json"]).copied().collect();
    let done = ops(&stage.bed, &args).await;
    done.expect_code(0);
    done.json()
}

/// Plans a replay of everything that lacked its order, and gives how many events it is of.
pub async fn begin(stage: &Stage, rate: usize) -> Result<i64> {
    let rate = format!("--rate={rate}");
    let args = [
        "dead-letters",
        "replay",
        OF_MISSING_ORDERS,
        "--yes",
        &rate,
        WHY,
    ];
    let planned = command(stage, &args).await["replay"]["planned"].as_i64();
    planned.context("no replay was planned")
}

async fn take(stage: &Stage, step: &str, id: i64) {
    let id = id.to_string();
    command(stage, &["replays", step, &id, WHY]).await;
}

async fn until(stage: &Stage, id: i64, condition: &str) -> Result<()> {
    let sql = format!("SELECT count(*) FROM replays WHERE id = {id} AND {condition}");
    let deadline = Instant::now() + LONGEST_REPLAY;
    while stage.bed.count(&sql).await == 0 {
        if Instant::now() > deadline {
            bail!("replay {id} did not come to {condition}");
        }
        pause(20).await;
    }
    Ok(())
}

async fn number(stage: &Stage, column: &str, id: i64) -> i64 {
    let sql = format!("SELECT {column}::bigint FROM replays WHERE id = {id}");
    stage.bed.count(&sql).await
}

/// No item came before the rate allowed it, but for half a second's worth.
async fn check_rate(stage: &Stage) -> Result<()> {
    let early = "SELECT count(*) FROM replay_items JOIN replays ON replays.id = replay_id
        WHERE position > 1 + 1.1 * rate_per_s * (0.5 + extract(epoch FROM replayed_at - started_at))";
    let early = stage.bed.count(early).await;
    ensure!(early == 0, "{early} events were put back before their time");
    Ok(())
}

/// Live traffic must not notice; a pause must take effect at once.
pub fn under_load(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let buried = buried_plan(&scene.plan, BURIED);
        bury(&scene.stage, &mut scene.load, &buried).await?;
        let before = Probe::take(scene).await?;
        let planned = begin(&scene.stage, RATE).await?;
        ensure!(planned == i64::try_from(BURIED)?, "{planned} were planned");
        until(&scene.stage, 1, "cursor > 0").await?;
        let meanwhile = Probe::take(scene).await?;
        let stage = &scene.stage;
        let behind = number(stage, "cursor", 1).await;
        take(stage, "pause", 1).await;
        let paused_at = number(stage, "cursor", 1).await;
        pause(1_000).await;
        let still_at = number(stage, "cursor", 1).await;
        ensure!(paused_at == still_at, "it went on after the pause");
        take(stage, "resume", 1).await;
        until(stage, 1, "state = 'finished'").await?;
        check_rate(stage).await?;
        let took = stage
            .bed
            .text("SELECT round(extract(epoch FROM finished_at - started_at), 1)::text FROM replays")
            .await;
        scene.note(format!(
            "{BURIED} events at {RATE}/s in {took} s with a pause of 1 s, p99 of live traffic {} before, {} meanwhile",
            before.p99(),
            meanwhile.p99()
        ));
        ensure!(behind < planned, "it was over before traffic was measured");
        meanwhile.compare(&before, 2.0)
    }
    .boxed_local()
}

/// Every order was paid by another event already; some events are put back singly before their turn, one replay is
/// cancelled, a second one takes up what it left, and a third finds nothing.
pub fn of_the_fulfilled(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let buried = buried_plan(&scene.plan, FULFILLED);
        bury(&scene.stage, &mut scene.load, &buried).await?;
        pay_otherwise(scene, &buried).await?;
        let stage = &scene.stage;
        begin(stage, 10).await?;
        let last: Vec<Parcel> = buried.parcels().split_off(FULFILLED - 5);
        for parcel in &last {
            command(stage, &["dead-letters", "replay", &parcel.sent.id, WHY]).await;
        }
        until(stage, 1, "cursor >= 10").await?;
        take(stage, "cancel", 1).await;
        until(stage, 1, "in_flight = 0").await?;
        let left = begin(stage, RATE).await?;
        let put_back = number(stage, "cursor", 1).await;
        let expected = i64::try_from(FULFILLED - last.len())? - put_back;
        ensure!(
            left == expected,
            "the second replay is of {left}, not {expected}"
        );
        until(stage, 2, "state = 'finished'").await?;
        let none = command(
            stage,
            &["dead-letters", "replay", OF_MISSING_ORDERS, "--yes", WHY],
        );
        ensure!(none.await["replay"].is_null(), "a third replay found more");
        let processed = number(stage, "processed", 1).await + number(stage, "processed", 2).await;
        ensure!(processed == put_back + left, "{processed} were processed");
        check_rate(stage).await
    }
    .boxed_local()
}

/// The charges of the same payments, through the gateway.
async fn pay_otherwise(scene: &mut Scene, buried: &Plan) -> Result<()> {
    let told = buried.shaped(Shape::Thrice).parcels();
    let charges = told
        .into_iter()
        .filter(|parcel| parcel.body.contains(r#""type": "charge.succeeded""#));
    for mut parcel in charges {
        parcel.rename("charge");
        scene.load.send(parcel);
    }
    let paid = format!(
        "SELECT count(*) FROM orders WHERE status = 'paid' AND id LIKE 'ord_{:x}_%'",
        buried.seed
    );
    let deadline = Instant::now() + LONGEST_REPLAY;
    while scene.stage.bed.count(&paid).await < i64::try_from(FULFILLED)? {
        ensure!(Instant::now() < deadline, "the orders were not paid");
        pause(50).await;
    }
    Ok(())
}
