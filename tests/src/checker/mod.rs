//! Judges a run by what was sent and what came of it, in the manner of Jepsen's total-queue: attempts, acknowledged,
//! lost, duplicated, recovered, unexpected; and by effects per key, money, attempts and progress. Pure.

mod events;
mod history;
mod mails;
mod moves;
mod orders;
mod replays;
mod snapshot;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeSet;

pub use history::{Delivery, Fate, Forgery, History, Outcome, Sent, Told};
pub use snapshot::{AttemptRow, EventRow, MailRow, Move, OrderRow, ReplayRow, Snapshot};
pub use verdict::{Allowed, Defect, Verdict};

/// Judges a run.
pub fn check(history: &History, snapshot: &Snapshot, allowed: Allowed) -> Verdict {
    let failed = |delivery: &&Delivery| delivery.outcome != Outcome::Acknowledged;
    let mut verdict = Verdict {
        attempts: history.sent.len(),
        forged: history.forgeries.len(),
        unavailable_ms: unavailable_ms(&history.deliveries),
        longest_answer_ms: longest_answer_ms(&history.deliveries),
        failed_deliveries: history.deliveries.iter().filter(failed).count(),
        ..Verdict::default()
    };
    let acknowledged = with_outcome(history, Outcome::Acknowledged);
    events::check(&mut verdict, history, snapshot, &acknowledged);
    events::check_attempts(&mut verdict, snapshot);
    if !allowed.burnt_attempts {
        events::check_burnt(&mut verdict, snapshot);
    }
    events::check_fates(&mut verdict, history, snapshot);
    events::check_forgeries(&mut verdict, history);
    orders::check(&mut verdict, history, snapshot, &acknowledged);
    mails::check(&mut verdict, snapshot, allowed);
    replays::check(&mut verdict, snapshot);
    moves::check(&mut verdict, snapshot);
    for (what, left) in snapshot.waiting.iter().filter(|(_, left)| *left > 0) {
        verdict.fail(Defect::Leftover(format!("{left} {what}")));
    }
    for product in &snapshot.oversold {
        verdict.fail(Defect::Oversold(product.clone()));
    }
    if verdict.longest_answer_ms > allowed.answer_ms {
        verdict.fail(Defect::Slow(verdict.longest_answer_ms));
    }
    if verdict.processed < allowed.progress {
        verdict.fail(Defect::NoProgress(verdict.processed));
    }
    verdict
}

fn with_outcome(history: &History, outcome: Outcome) -> BTreeSet<&str> {
    let wanted = |delivery: &&Delivery| delivery.outcome == outcome;
    let deliveries = history.deliveries.iter().filter(wanted);
    deliveries
        .map(|delivery| delivery.event_id.as_str())
        .collect()
}

fn longest_answer_ms(deliveries: &[Delivery]) -> u64 {
    let took = deliveries.iter().map(|delivery| delivery.took_ms);
    took.max().unwrap_or_default()
}

/// The longest stretch from a failed delivery to the next acknowledged one.
fn unavailable_ms(deliveries: &[Delivery]) -> u64 {
    let (mut longest, mut failing_since) = (0, None);
    for delivery in deliveries {
        match (delivery.outcome, failing_since) {
            (Outcome::Acknowledged, Some(since)) => {
                longest = longest.max(delivery.at_ms.saturating_sub(since));
                failing_since = None;
            }
            (Outcome::Acknowledged, None) | (_, Some(_)) => {}
            (_, None) => failing_since = Some(delivery.at_ms),
        }
    }
    longest
}
