//! Replays: over, adding up, and in the audit log.

use super::{Defect, ReplayRow, Snapshot, Verdict};

/// What it takes: planned, running, and how it ended.
const LEAST_AUDITED: i64 = 3;

/// Every replay is over, its counters are its items', and who did what is told.
pub fn check(verdict: &mut Verdict, snapshot: &Snapshot) {
    for replay in &snapshot.replays {
        if let Some(problem) = problem(replay) {
            verdict.fail(Defect::Replay(format!("{} {problem}", replay.id)));
        }
    }
}

fn problem(replay: &ReplayRow) -> Option<String> {
    let [in_flight, processed, dead_again, skipped] = replay.counted;
    let ended = processed + dead_again + skipped;
    match replay.state.as_str() {
        _ if replay.counted != replay.items => Some(format!(
            "counts {:?}, its items say {:?}",
            replay.counted, replay.items
        )),
        "finished" if ended != replay.planned => {
            Some(format!("ended {ended} of {} events", replay.planned))
        }
        "finished" | "cancelled" if in_flight > 0 => Some(format!("left {in_flight} in flight")),
        "finished" | "cancelled" if replay.audited < LEAST_AUDITED => {
            Some("is not in the audit log".to_owned())
        }
        "finished" | "cancelled" => None,
        state => Some(format!("is {state}")),
    }
}
