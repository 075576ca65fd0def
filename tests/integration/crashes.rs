//! Fail-points: that the usual programs hold none, and what survives a crash at each of them.

use harness::binaries::{program, program_with_failpoints};
use tokio::process::Command;

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
