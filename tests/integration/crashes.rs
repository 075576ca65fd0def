//! Fail-points: that the usual programs hold none, and what survives a crash at each of them.

use futures_util::{StreamExt, stream};
use harness::binaries::{program, program_with_failpoints};
use harness::faults::crash::{Claims, POINTS, run};
use tokio::process::Command;

/// Crashes staged at the same time.
const AT_A_TIME: usize = 6;

fn text_of(program: &Command) -> String {
    let bytes = std::fs::read(program.as_std().get_program()).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn the_usual_programs_hold_no_fail_point_and_no_safeguard_can_be_taken_out_of_them() {
    for (name, place) in [
        ("gateway", "gateway.after_commit"),
        ("worker", "worker.before_commit"),
    ] {
        let usual = text_of(&program(name).await);
        let armed = text_of(&program_with_failpoints(name).await);
        for text in [place, "TOLLGATE_CRASH_AT", "TOLLGATE_WITHOUT"] {
            assert!(!usual.contains(text), "{name} holds {text}");
            assert!(armed.contains(text), "the search does not find {text}");
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_place_at_its_first_hits_loses_nothing_and_repeats_nothing() {
    let all = POINTS
        .iter()
        .flat_map(|point| (1..=point.hits).map(move |hit| (*point, hit)));
    let crashes = stream::iter(all).map(|(point, hit)| async move {
        let row = run(point, hit, Claims::AreOver).await;
        (!row.is_clean()).then(|| format!("{} hit {hit}: {}", row.id, row.problem()))
    });
    let broken: Vec<Option<String>> = crashes.buffer_unordered(AT_A_TIME).collect().await;
    let broken: Vec<String> = broken.into_iter().flatten().collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
