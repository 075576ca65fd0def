//! The rows of the fault table that take seconds and strike no server that other tests use. `./deploy/faults` stages all.

use futures_util::{StreamExt, stream};
use harness::faults::{FAULTS, Fault, Operator, Row, staged};

/// Faults staged at the same time.
const AT_A_TIME: usize = 6;
const LOAD: (usize, u64) = (40, 3);

#[ignore = "takes minutes where processors are shared: ask for it with --ignored"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_take_seconds_lose_nothing_and_repeat_nothing() {
    let seed = rand::random_range(1..1_000_000);
    let faults = FAULTS.iter().filter(|fault| fault.in_tests);
    let light = faults.map(|fault| Fault {
        load: LOAD,
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
