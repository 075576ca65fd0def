//! Runs rows: the crashes beside each other, then every other fault by itself, since it strikes all that is there.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt, stream};
use harness::faults::crash::{self, Claims, POINTS, Point};
use harness::faults::{FAULTS, Fault, LONG_FAULTS, Operator, Row, staged, words};

/// More would measure how busy the machine is.
const CRASHES_AT_A_TIME: usize = 2;

/// What to run.
pub struct Runner {
    /// Who kills servers.
    pub operator: Operator,
    /// Of the first load.
    pub seed: u64,
    /// Beginnings of ids; none means all.
    pub only: Vec<String>,
    /// Takes the long form of faults that have one.
    pub long: bool,
}

/// Prints every row's id and fault.
pub fn list() {
    let mut all: Vec<(&str, &str)> = POINTS
        .iter()
        .map(|point| (point.row, point.title))
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
        let crashes = POINTS.iter().filter(|point| self.wants(point.row));
        let crashes = stream::iter(crashes).map(|point| staged_crash(*point));
        let mut rows: Vec<Row> = crashes.buffer_unordered(CRASHES_AT_A_TIME).collect().await;
        let wanted = FAULTS.iter().filter(|fault| self.wants(fault.id));
        for (seed, fault) in (self.seed..).zip(wanted) {
            rows.push(self.staged(fault, seed).await);
        }
        rows.sort_by(|one, other| one.id.cmp(&other.id));
        rows
    }

    async fn staged(&self, fault: &Fault, seed: u64) -> Row {
        let long = LONG_FAULTS.iter().find(|long| long.id == fault.id);
        let long = long.filter(|_| self.long);
        let row = staged(long.unwrap_or(fault), &self.operator, seed).await;
        tell(&row);
        row
    }
}

async fn staged_crash(point: Point) -> Row {
    let (id, title) = (point.row, point.title);
    let staged = AssertUnwindSafe(crash::run_all_hits(point, Claims::RunOut))
        .catch_unwind()
        .await;
    let row = match staged {
        Ok(Some(row)) => row,
        Ok(None) => Row::failed(id, title, 0, "nothing was staged".to_owned()),
        Err(panic) => Row::failed(id, title, 0, words(&*panic)),
    };
    tell(&row);
    row
}

/// Progress, for whoever waits.
fn tell(row: &Row) {
    let judged = if row.is_clean() {
        "clean".to_owned()
    } else {
        format!("BROKEN: {}", row.problem())
    };
    eprintln!("{:<5} {}: {judged}", row.id, row.fault);
    for note in &row.notes {
        eprintln!("      {note}");
    }
}
