//! Safeguards of the gateway and the worker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use harness::checker::Snapshot;
use harness::faults::crash::until_dead;
use harness::faults::{MAILS_UNDER_WAY, Operator, Scene, Setup, Stage, pause, variable};
use harness::simulator::{Load, Plan};
use harness::stripe::{self, event_id};
use serde_json::json;

use super::{Control, verdict_of};

/// No rescue comes to help, so that one safeguard shows by itself.
pub fn alone(without: &str, safe: bool) -> Setup {
    let mut worker = vec![variable("RESCUE_AFTER", "1h")];
    let mut gateway = Vec::new();
    if !safe {
        worker.push(variable("TOLLGATE_WITHOUT", without));
        gateway.push(variable("TOLLGATE_WITHOUT", without));
    }
    Setup {
        gateway,
        worker,
        ..Setup::default()
    }
}

fn short(seed: u64) -> Plan {
    Plan::new(seed, 40, 3)
}

/// Judges a scene without waiting for what will never come.
pub async fn judge(scene: &mut Scene) -> String {
    let load = std::mem::replace(&mut scene.load, Load::none());
    let stage = &mut scene.stage;
    stage.longest_end = Duration::from_secs(20);
    let verdict = stage.conclude(load, MAILS_UNDER_WAY).await;
    verdict.first_defects()
}

/// The gateway cannot reach the broker for a while.
pub async fn relay(operator: &Operator, seed: u64) -> Result<Control> {
    let told = ("relay", "gateway cut off from the broker for 2 s");
    Control::stage(told, async |safe| {
        let setup = alone("relay", safe);
        let mut scene = Scene::open(operator.clone(), setup, short(seed)).await;
        scene.gateway_broker.cut();
        pause(2_000).await;
        scene.gateway_broker.open();
        Ok(judge(&mut scene).await)
    })
    .await
}

/// Publishes are written, and never arrive.
pub async fn confirm(operator: &Operator, seed: u64) -> Result<Control> {
    let told = (
        "confirm",
        "publishes swallowed for 1.5 s, then the connection cut",
    );
    Control::stage(told, async |safe| {
        let setup = alone("confirm", safe);
        let mut scene = Scene::open(operator.clone(), setup, short(seed)).await;
        scene.gateway_broker.deafen();
        pause(1_500).await;
        scene.gateway_broker.cut();
        pause(200).await;
        scene.gateway_broker.open();
        Ok(judge(&mut scene).await)
    })
    .await
}

/// A worker dies with messages that it has acknowledged already.
pub async fn late_ack(operator: &Operator, seed: u64) -> Result<Control> {
    let told = ("ack after the commit", "worker killed in a handler");
    Control::stage(told, async |safe| {
        let mut setup = alone("late_ack", safe);
        setup.workers = 0;
        let mut scene = Scene::open(operator.clone(), setup, short(seed)).await;
        let trap = [("TOLLGATE_CRASH_AT", "worker.in_handler:5")];
        scene.stage.add_worker(&trap).await;
        until_dead(
            &mut scene.stage,
            &mut scene.load,
            &scene.plan,
            "worker.in_handler",
        )
        .await?;
        scene.stage.workers.clear();
        scene.stage.add_worker(&[]).await;
        Ok(judge(&mut scene).await)
    })
    .await
}

const SALES: usize = 40;
const SEATS: i64 = 2;
const BUYERS: usize = 5;

/// Buyers of one order's worth of seats at the same moment, many times beside each other.
pub async fn seat_lock() -> Result<Control> {
    let told = ("lock of the seats", "40 times 5 buyers of 2 seats at once");
    Control::stage(told, async |safe| {
        let mut setup = alone("seat_lock", safe);
        setup.workers = 3;
        setup.worker.push(variable("WORKER_CONCURRENCY", "16"));
        let stage = Stage::ready(setup).await;
        sell(&stage).await
    })
    .await
}

/// Posts payments for more orders than there are seats, and gives what is oversold.
async fn sell(stage: &Stage) -> Result<String> {
    let name = |sale: usize| format!("show_{sale}");
    let orders: Vec<(String, usize)> = (0..SALES * BUYERS)
        .map(|n| (format!("ord_{n}"), n / BUYERS))
        .collect();
    let products = (0..SALES).map(|sale| {
        json!({ "id": name(sale), "kind": "seat", "name": name(sale), "unit_amount_cents": 2500, "currency": "usd",
            "capacity": SEATS })
    });
    let bought = orders.iter().map(|(id, sale)| {
        json!({ "id": id, "user_id": "u", "email": "buyer@example.com",
            "items": [{ "product": name(*sale), "quantity": SEATS }], "waitlisted": true })
    });
    let catalogue =
        json!({ "products": products.collect::<Vec<_>>(), "orders": bought.collect::<Vec<_>>() });
    stage.bed.seed(&catalogue).await;
    let gateway = stage.gateways.first().context("a gateway")?.address;
    let posts = orders.iter().map(|(id, _)| {
        let intent = stripe::payment_intent(id);
        stripe::post(
            gateway,
            stripe::event(&event_id(), "payment_intent.succeeded", &intent),
        )
    });
    let answers = join_all(posts).await;
    ensure!(
        answers.iter().all(|answer| answer.status == 200),
        "a payment was not taken"
    );
    let left = "SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying')";
    for _ in 0..600 {
        if stage.bed.count(left).await == 0 {
            break;
        }
        pause(50).await;
    }
    ensure!(stage.bed.count(left).await == 0, "it does not end");
    let active = "SELECT count(*) FROM registrations WHERE status = 'active'";
    let active = stage.bed.count(active).await;
    let all = i64::try_from(SALES)? * SEATS;
    ensure!(active >= all, "only {active} of {all} seats were sold");
    let snapshot = Snapshot {
        oversold: stage.snapshot().await.oversold,
        ..Snapshot::default()
    };
    Ok(verdict_of(&[], &snapshot))
}
