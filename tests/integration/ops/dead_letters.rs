//! `ops dead-letters`.

use harness::TestBed;
use harness::binaries::ops;
use harness::broker::Broker;
use serde_json::Value;

use super::{dead_event, start};

/// Runs `ops dead-letters` and returns its JSON, if the exit code is 0 as expected.
async fn dead_letters(bed: &TestBed, args: &[&str], code: i32) -> Value {
    let args: Vec<&str> = ["dead-letters"]
        .iter()
        .chain(args)
        .chain(&["--json"])
        .copied()
        .collect();
    let done = ops(bed, &args).await;
    done.expect_code(code);
    if code == 0 { done.json() } else { Value::Null }
}

const UNRESOLVED: &str = "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL";

#[tokio::test]
async fn dead_letters_are_listed_grouped_and_shown() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let one = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    dead_event(&bed, &gateway, "payment_intent.payment_failed").await;
    let list = dead_letters(&bed, &["list"], 0).await;
    assert_eq!(list["dead_letters"].as_array().unwrap().len(), 3);
    let list = dead_letters(&bed, &["list", "--type", "*.payment_failed"], 0).await;
    assert_eq!(list["dead_letters"].as_array().unwrap().len(), 1);
    let groups = dead_letters(&bed, &["groups"], 0).await["groups"].clone();
    assert_eq!(
        (groups[0]["count"].as_i64(), groups[1]["count"].as_i64()),
        (Some(2), Some(1))
    );
    let shown = dead_letters(&bed, &["show", &one], 0).await;
    assert_eq!(shown["dead_letter"]["reason"], "order_not_found");
    dead_letters(&bed, &["show", "999999"], 3).await;
}

#[tokio::test]
async fn nothing_is_replayed_without_reason_consent_or_target() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let id = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    dead_letters(&bed, &["replay", &id], 2).await;
    dead_letters(&bed, &["replay", "--reason", "x"], 2).await;
    dead_letters(&bed, &["replay", &id, "--all", "--reason", "x"], 2).await;
    dead_letters(&bed, &["replay", "--all", "--reason", "x"], 4).await;
    dead_letters(&bed, &["replay", "evt_none", "--reason", "x"], 3).await;
    let preview = dead_letters(&bed, &["replay", "--all", "--reason", "x", "--dry-run"], 0).await;
    assert_eq!(preview["plan"]["count"], 1);
    assert_eq!(bed.count(UNRESOLVED).await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 0);
}

#[tokio::test]
async fn dead_letters_are_replayed_and_discarded_with_an_audit_entry_each() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let one = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    let two = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    let failed = dead_event(&bed, &gateway, "payment_intent.payment_failed").await;
    bed.seed_order("ord_1").await;
    dead_letters(&bed, &["discard", &failed, "--reason", "a test"], 0).await;
    assert_eq!(bed.state(&failed).await, "discarded");
    let filter = [
        "replay",
        "--type",
        "payment_intent.succ*",
        "--since",
        "1h",
        "--yes",
        "--reason",
        "the order is seeded",
    ];
    let replayed = dead_letters(&bed, &filter, 0).await;
    assert_eq!(replayed["replay"]["planned"], 2);
    for id in [&one, &two] {
        bed.until_state(id, "processed").await;
    }
    assert_eq!(
        bed.count("SELECT count(*) FROM dead_letters WHERE resolution = 'replayed'")
            .await,
        2
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM audit_log WHERE action IN ('dead_letters.discard', 'replay.planned')")
            .await,
        2,
        "one discard, one replay planned"
    );
    // A second replay of the same finds nothing to do.
    dead_letters(&bed, &["replay", &one, "--reason", "again"], 3).await;
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_replayed_event_may_die_again_and_some_letters_cannot_be_replayed() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let id = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    Broker::connect(&bed).await.publish_raw(b"nonsense").await;
    bed.until_count("SELECT count(*) FROM dead_letters", 2)
        .await;
    ops(
        &bed,
        &[
            "dead-letters",
            "replay",
            "--all",
            "--yes",
            "--follow",
            "--reason",
            "try it again",
        ],
    )
    .await
    .expect_code(8);
    bed.until_count(
        "SELECT count(*) FROM dead_letters WHERE event_id IS NOT NULL",
        2,
    )
    .await;
    bed.until_state(&id, "dead").await;
    assert_eq!(
        bed.count("SELECT attempts::bigint FROM webhook_events")
            .await,
        2
    );
    ops(
        &bed,
        &[
            "dead-letters",
            "discard",
            "--all",
            "--yes",
            "--reason",
            "give up",
        ],
    )
    .await
    .expect_code(0);
    assert_eq!(
        bed.count("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL")
            .await,
        0
    );
    bed.check_invariants().await;
}
