//! Runs rows: the crashes beside each other, then every other fault by itself, since it strikes all that is there.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt, stream};
use harness::faults::crash::{self, Claims, POINTS};
use harness::faults::{FAULTS, Operator, Row, staged, words};

/// The id of each crash's row, in the order of its points.
const CRASHES: [&str; 15] = [
    "F01a", "F01b", "F02", "F03a", "F03b", "F06a", "F06b", "F06c", "F07", "F04a", "F04b", "F10a",
    "F10b", "F08a", "F08b",
];
const CRASHES_AT_A_TIME: usize = 5;
/// Whatever was away is back, and all is done, within this time.
const LONGEST_RECOVERY_MS: u64 = 15_000;
/// What to run.
pub struct Runner {
    /// Who kills servers.
    pub operator: Operator,
    /// Of the first load.
    pub seed: u64,
    /// Beginnings of ids; none means all.
    pub only: Vec<String>,
}

/// Prints every row's id and fault.
pub fn list() {
    let mut all: Vec<(&str, &str)> = CRASHES
        .iter()
        .zip(POINTS)
        .map(|(id, point)| (*id, point.1))
        .collect();
    all.extend(FAULTS.iter().map(|fault| (fault.id, fault.title)));
    all.sort_unstable();
    for (id, title) in all {
        println!("{id:<6}{title}");
    }
}

impl Runner {
    fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|begin| id.starts_with(begin.as_str()))
    }

    /// Every row that is wanted, sorted.
    pub async fn every_row(&self) -> Vec<Row> {
        let crashes = CRASHES.iter().zip(POINTS).filter(|(id, _)| self.wants(id));
        let crashes = stream::iter(crashes).map(|(id, point)| staged_crash(id, point));
        let mut rows: Vec<Row> = crashes.buffer_unordered(CRASHES_AT_A_TIME).collect().await;
        for (n, fault) in FAULTS
            .iter()
            .filter(|fault| self.wants(fault.id))
            .enumerate()
        {
            let mut row = staged(fault, &self.operator, self.seed + n as u64).await;
            expect_recovery_within(&mut row, LONGEST_RECOVERY_MS);
            tell(&row);
            rows.push(row);
        }
        rows.sort_by(|one, other| one.id.cmp(&other.id));
        rows
    }
}

async fn staged_crash(id: &'static str, point: (&'static str, &'static str)) -> Row {
    let staged = AssertUnwindSafe(crash::run_all_hits(point, Claims::RunOut))
        .catch_unwind()
        .await;
    let mut row = match staged {
        Ok(Some(row)) => row,
        Ok(None) => Row::failed(id, point.1, 0, "nothing was staged".to_owned()),
        Err(panic) => Row::failed(id, point.1, 0, words(&*panic)),
    };
    id.clone_into(&mut row.id);
    expect_recovery_within(&mut row, LONGEST_RECOVERY_MS);
    tell(&row);
    row
}

fn expect_recovery_within(row: &mut Row, longest_ms: u64) {
    if let Some(took_ms) = row.recovered_ms.filter(|took_ms| *took_ms > longest_ms) {
        row.fail(&format!("recovery took {took_ms} ms"));
    }
}

/// Progress, for whoever waits.
fn tell(row: &Row) {
    let judged = if row.is_clean() {
        "clean".to_owned()
    } else {
        format!("BROKEN: {}", row.problem())
    };
    eprintln!("{:<5} {}: {judged}", row.id, row.fault);
}
