//! Events: none lost, none unknown, each with the end, the body and the attempts that it must have.

use std::collections::{BTreeMap, BTreeSet};

use super::{AttemptRow, Defect, EventRow, Fate, History, Outcome, Snapshot, Verdict};

/// What was acknowledged is there and final, what is there was sent, and nothing valid was refused for good.
pub fn check(
    verdict: &mut Verdict,
    history: &History,
    snapshot: &Snapshot,
    acknowledged: &BTreeSet<&str>,
) {
    let sent: BTreeSet<&str> = history.sent.iter().map(|sent| sent.id.as_str()).collect();
    let stored = by_id(snapshot);
    let unknown = super::with_outcome(history, Outcome::Unknown);
    verdict.acknowledged = acknowledged.len();
    verdict.unknown = unknown.difference(acknowledged).count();
    for id in acknowledged {
        match stored.get(id) {
            None => verdict.fail(Defect::Lost((*id).to_owned())),
            Some(event) if is_final(&event.state) => continue,
            Some(_) => verdict.fail(Defect::Unfinished((*id).to_owned())),
        }
        verdict.lost += 1;
    }
    let mut ids = BTreeSet::new();
    for event in snapshot
        .events
        .iter()
        .filter(|event| !ids.insert(&event.id))
    {
        verdict.duplicated += 1;
        verdict.fail(Defect::Doubled(format!("{} is stored again", event.id)));
    }
    for (id, event) in &stored {
        if !sent.contains(id) {
            verdict.unexpected += 1;
            verdict.fail(Defect::Unexpected((*id).to_owned()));
        } else if !acknowledged.contains(id) {
            verdict.recovered += 1;
        }
        verdict.processed += usize::from(event.state == "processed");
    }
    for delivery in &history.deliveries {
        if (400..500).contains(&delivery.status) {
            verdict.fail(Defect::Rejected(delivery.event_id.clone()));
        }
    }
}

fn by_id(snapshot: &Snapshot) -> BTreeMap<&str, &EventRow> {
    let events = snapshot.events.iter();
    events.map(|event| (event.id.as_str(), event)).collect()
}

fn is_final(state: &str) -> bool {
    ["processed", "ignored", "dead", "discarded"].contains(&state)
}

/// Attempts are numbered without a gap, and one of them succeeded at the most.
pub fn check_attempts(verdict: &mut Verdict, snapshot: &Snapshot) {
    let mut attempts: BTreeMap<&str, Vec<&AttemptRow>> = BTreeMap::new();
    for attempt in &snapshot.attempts {
        attempts.entry(&attempt.event_id).or_default().push(attempt);
    }
    for event in &snapshot.events {
        let mut made = attempts.remove(event.id.as_str()).unwrap_or_default();
        made.sort_by_key(|attempt| attempt.number);
        let numbers = made.iter().map(|attempt| attempt.number);
        if !numbers.eq(1..=event.attempts) {
            verdict.fail(Defect::Attempts(event.id.clone()));
        }
        let successes = made.iter().filter(|attempt| attempt.outcome == "processed");
        if successes.count() > 1 {
            verdict.duplicated += 1;
            verdict.fail(Defect::Doubled(event.id.clone()));
        }
    }
    for id in attempts.keys() {
        verdict.fail(Defect::Attempts((*id).to_owned()));
    }
}

/// Where nothing was wrong with an event, its first attempt is its last one.
pub fn check_burnt(verdict: &mut Verdict, snapshot: &Snapshot) {
    for attempt in &snapshot.attempts {
        if attempt.outcome == "transient" {
            let (id, kind) = (&attempt.event_id, &attempt.kind);
            verdict.fail(Defect::Burnt(format!("{id} ({kind})")));
        }
    }
}

/// Each event that is final ended as it must, and its body is the one that was sent.
pub fn check_fates(verdict: &mut Verdict, history: &History, snapshot: &Snapshot) {
    let stored = by_id(snapshot);
    let mut last: BTreeMap<&str, &AttemptRow> = BTreeMap::new();
    for attempt in &snapshot.attempts {
        let known = last.entry(&attempt.event_id).or_insert(attempt);
        if attempt.number > known.number {
            *known = attempt;
        }
    }
    for sent in &history.sent {
        let Some(event) = stored.get(sent.id.as_str()) else {
            continue;
        };
        if event.digest != sent.digest {
            verdict.fail(Defect::Altered(sent.id.clone()));
        }
        let kind = last
            .get(sent.id.as_str())
            .map_or("", |attempt| &attempt.kind);
        if is_final(&event.state) && !ended_as(sent.fate, event, kind) {
            verdict.fail(otherwise(sent.fate, event, kind));
        }
    }
}

fn ended_as(fate: Fate, event: &EventRow, kind: &str) -> bool {
    match fate {
        Fate::Done => event.state == "processed",
        Fate::Ignored(why) => event.state == "ignored" && kind == why,
        Fate::Dead(why) => event.state == "dead" && kind == why && event.attempts == 1,
    }
}

fn otherwise(fate: Fate, event: &EventRow, kind: &str) -> Defect {
    let EventRow {
        id,
        state,
        attempts,
        ..
    } = event;
    match (fate, state.as_str()) {
        (Fate::Done | Fate::Ignored(_), "dead") => Defect::Dead(id.clone()),
        _ => Defect::Fate(format!(
            "{id} is {state} ({kind}) after {attempts} attempts, must be {fate:?}"
        )),
    }
}

/// Forged requests are refused, and where they must look alike, so do their answers.
pub fn check_forgeries(verdict: &mut Verdict, history: &History) {
    let mut answers: BTreeMap<u16, &str> = BTreeMap::new();
    for forgery in &history.forgeries {
        let (what, status) = (&forgery.what, forgery.status);
        if !forgery.expected.contains(&status) {
            verdict.fail(Defect::Forgery(format!("{what}, answered with {status}")));
        } else if forgery.alike
            && *answers.entry(status).or_insert(&forgery.answer) != forgery.answer
        {
            verdict.fail(Defect::Forgery(format!(
                "{what}, and the answer tells: {}",
                forgery.answer
            )));
        }
    }
}
