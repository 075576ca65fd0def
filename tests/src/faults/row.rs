//! One row of the fault table.

use serde_json::{Value, json};

use crate::checker::Verdict;

/// Whatever was away is back, and all is done, within this time.
pub const LONGEST_RECOVERY_MS: u64 = 15_000;
/// Every `/readyz` is true again within this time.
const LONGEST_UNREADY_MS: u64 = 10_000;

/// What came of a fault.
#[derive(Debug, Clone)]
pub struct Row {
    /// `F15`
    pub id: String,
    /// What was done.
    pub fault: String,
    /// The judgement.
    pub verdict: Verdict,
    /// From the end of the fault until everything is ready and done again; none where it never was.
    pub recovered_ms: Option<u64>,
    /// Of that, until every `/readyz` was true again; none where it never was.
    pub ready_ms: Option<u64>,
    /// Repeats the load.
    pub seed: u64,
    /// Why the row fails although the judgement is clean; empty where it does not.
    pub failure: String,
    /// What was measured on the way, for people.
    pub notes: Vec<String>,
}

impl Row {
    /// Whether all is as promised.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.recovered_ms.is_some() && self.failure.is_empty()
    }

    /// A row of a fault that could not even be staged.
    pub fn failed(id: &str, fault: &str, seed: u64, failure: String) -> Self {
        Self {
            id: id.to_owned(),
            fault: fault.to_owned(),
            verdict: Verdict::default(),
            recovered_ms: None,
            ready_ms: None,
            seed,
            failure,
            notes: Vec::new(),
        }
    }

    /// Notes why it fails.
    pub fn fail(&mut self, why: &str) {
        let before = if self.failure.is_empty() { "" } else { "; " };
        self.failure.push_str(before);
        self.failure.push_str(why);
    }

    /// Fails where it took longer than this until everything was done, or until everything was ready.
    pub fn expect_recovery_within(&mut self, longest_ms: u64) {
        if let Some(took_ms) = self.recovered_ms.filter(|took_ms| *took_ms > longest_ms) {
            self.fail(&format!("recovery took {took_ms} ms"));
        }
        let unready = |took_ms: &u64| *took_ms > LONGEST_UNREADY_MS;
        if let Some(took_ms) = self.ready_ms.filter(unready) {
            self.fail(&format!("/readyz was true again after {took_ms} ms"));
        }
    }

    /// What is wrong, for people.
    pub fn problem(&self) -> String {
        let mut problems = vec![self.failure.clone(), self.verdict.first_defects()];
        if self.recovered_ms.is_none() {
            problems.push("it did not recover".to_owned());
        }
        problems.retain(|problem| !problem.is_empty());
        problems.join("; ")
    }

    /// The same fault staged several times: sums, and the longest times.
    pub fn merged(rows: Vec<Self>) -> Option<Self> {
        rows.into_iter().reduce(|mut all, row| {
            let (sum, more) = (&mut all.verdict, row.verdict);
            sum.attempts += more.attempts;
            sum.acknowledged += more.acknowledged;
            sum.unknown += more.unknown;
            sum.lost += more.lost;
            sum.duplicated += more.duplicated;
            sum.recovered += more.recovered;
            sum.unexpected += more.unexpected;
            sum.forged += more.forged;
            sum.mails_doubled += more.mails_doubled;
            sum.money_difference += more.money_difference;
            sum.unavailable_ms = sum.unavailable_ms.max(more.unavailable_ms);
            sum.longest_answer_ms = sum.longest_answer_ms.max(more.longest_answer_ms);
            sum.failed_deliveries += more.failed_deliveries;
            sum.processed += more.processed;
            sum.defects.extend(more.defects);
            all.recovered_ms = all
                .recovered_ms
                .zip(row.recovered_ms)
                .map(|(one, other)| one.max(other));
            all.ready_ms = all
                .ready_ms
                .zip(row.ready_ms)
                .map(|(one, other)| one.max(other));
            if !row.failure.is_empty() {
                all.fail(&row.failure);
            }
            all.notes.extend(row.notes);
            all
        })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let verdict = &self.verdict;
        let defects: Vec<String> = verdict.defects.iter().map(ToString::to_string).collect();
        json!({
            "id": self.id, "fault": self.fault, "clean": self.is_clean(), "attempts": verdict.attempts,
            "acknowledged": verdict.acknowledged, "unknown": verdict.unknown, "lost": verdict.lost,
            "duplicated": verdict.duplicated, "recovered": verdict.recovered, "unexpected": verdict.unexpected,
            "mails_doubled": verdict.mails_doubled, "money_difference": verdict.money_difference,
            "unavailable_ms": verdict.unavailable_ms, "longest_answer_ms": verdict.longest_answer_ms, "recovered_ms": self.recovered_ms,
            "ready_ms": self.ready_ms, "failed_deliveries": verdict.failed_deliveries, "processed": verdict.processed,
            "forged": verdict.forged, "seed": self.seed, "defects": defects, "failure": self.failure, "notes": self.notes,
        })
    }
}
