//! The rows of the fault table that take seconds and strike no server that other tests use. `./deploy/faults` stages all,
//! and measures how long each takes to recover: here other tests share the machine.

use anyhow::Result;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use harness::faults::{FAULTS, Fault, Operator, Row, Scene, staged};

/// Faults staged at the same time.
const AT_A_TIME: usize = 4;
const LOAD: (usize, u64) = (40, 3);
const SHORT_LOAD: (usize, u64) = (12, 1);

fn row(id: &str) -> Fault {
    let found = FAULTS.iter().find(|fault| fault.id == id);
    Fault {
        load: SHORT_LOAD,
        recovery_ms: None,
        ..*found.unwrap()
    }
}

async fn stage(fault: &Fault) -> Row {
    staged(fault, &Operator::nobody(), rand::random_range(1..1_000_000)).await
}

#[tokio::test]
async fn a_row_of_each_kind_is_clean() {
    for id in ["F11", "F38", "F42"] {
        let row = stage(&row(id)).await;
        assert!(row.is_clean(), "{id}, seed {}: {}", row.seed, row.problem());
        assert_eq!(row.verdict.attempts, row.verdict.acknowledged);
    }
}

/// As if a worker had forgotten what it did, and the gateway what it took.
fn forget(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async {
        let load = &scene.load;
        scene.stage.until_sent(load, 100).await;
        scene.stage.recovery().await;
        let forget = "
            ALTER TABLE event_payloads DISABLE TRIGGER USER; ALTER TABLE webhook_events DISABLE TRIGGER USER;
            DELETE FROM dead_letters; DELETE FROM event_attempts; DELETE FROM event_payloads; DELETE FROM webhook_events;
            UPDATE payments SET amount_cents = amount_cents + 1 WHERE succeeded";
        Ok(scene.stage.bed.db.batch_execute(forget).await?)
    }
    .boxed_local()
}

fn nothing(_: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async { Ok(()) }.boxed_local()
}

#[tokio::test]
async fn a_row_in_which_something_is_lost_is_not_clean() {
    let lossy = Fault {
        act: forget,
        ..row("F11")
    };
    let row = stage(&lossy).await;
    assert!(!row.is_clean());
    assert!(row.verdict.lost > 0, "{}", row.problem());
    assert!(row.verdict.money_difference > 0, "{}", row.problem());
}

#[tokio::test]
async fn a_fault_that_does_not_strike_is_not_clean() {
    let harmless = Fault {
        act: nothing,
        ..row("F01c")
    };
    let row = stage(&harmless).await;
    assert!(row.verdict.is_clean(), "{}", row.problem());
    assert!(
        row.problem().contains("nothing was broken"),
        "{}",
        row.problem()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_take_seconds_lose_nothing_and_repeat_nothing() {
    let seed = rand::random_range(1..1_000_000);
    let faults = FAULTS.iter().filter(|fault| fault.in_tests);
    let light = faults.map(|fault| Fault {
        // One that is as light already is that of the table: a narrow line takes no more.
        load: if fault.load.0 <= LOAD.0 {
            fault.load
        } else {
            LOAD
        },
        recovery_ms: None,
        ..*fault
    });
    let rows = stream::iter(light).map(|fault| async move {
        let row = staged(&fault, &Operator::nobody(), seed).await;
        (!row.is_clean()).then_some(row)
    });
    let broken: Vec<Option<Row>> = rows.buffer_unordered(AT_A_TIME).collect().await;
    let tell = |row: Row| format!("{} {}: {}", row.id, row.fault, row.problem());
    let broken: Vec<String> = broken.into_iter().flatten().map(tell).collect();
    assert!(broken.is_empty(), "seed {seed}\n{}", broken.join("\n"));
}
