//! States: they go forward only.

use super::{Defect, Move, Snapshot, Verdict};

/// No state goes back from where nothing goes back.
pub fn check(verdict: &mut Verdict, snapshot: &Snapshot) {
    for change in &snapshot.moves {
        if !is_forward(change) {
            let Move { kind, id, from, to } = change;
            let told = format!("{kind} {id} was {from} and became {to}");
            verdict.fail(Defect::Backwards(told));
        }
    }
}

/// A cancelled order may be paid after all, a refunded one is over; what became of an event stays, but for dead ones,
/// which are put back by a replay.
fn is_forward(change: &Move) -> bool {
    match (change.kind.as_str(), change.from.as_str()) {
        ("event", "received" | "retrying") => change.to != "discarded",
        ("event", "dead") => ["received", "discarded"].contains(&change.to.as_str()),
        ("order", "pending") => true,
        ("order", "cancelled") => change.to != "pending",
        ("order", "paid") => ["refunded", "review"].contains(&change.to.as_str()),
        ("order", "review") => change.to != "pending",
        _ => false,
    }
}
