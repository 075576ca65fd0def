//! `ops events`.

use harness::TestBed;
use harness::binaries::ops;
use harness::stripe::{charge, event, event_id, payment_intent, post};
use serde_json::{Value, json};

use super::{dead_event, start};

/// The ids that `ops events list` prints.
async fn listed(bed: &TestBed, args: &[&str]) -> Vec<String> {
    let args: Vec<&str> = ["events", "list", "--json"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    let done = ops(bed, &args).await;
    done.expect_code(0);
    let events = done.json()["events"].as_array().unwrap().clone();
    events
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn events_are_listed_and_shown() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let dead = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    let ignored = event_id();
    let body = event(&ignored, "some.type", &json!({}));
    assert_eq!(post(gateway.address, body.clone()).await.status, 200);
    bed.until_state(&ignored, "ignored").await;

    let (dead, ignored) = (dead.as_str(), ignored.as_str());
    assert_eq!(listed(&bed, &[]).await, [ignored, dead]);
    assert_eq!(listed(&bed, &["--state", "dead"]).await, [dead]);
    assert_eq!(listed(&bed, &["--type", "payment_intent.*"]).await, [dead]);
    assert_eq!(
        listed(&bed, &["--since", "1h", "--limit", "1"]).await,
        [ignored]
    );
    assert!(listed(&bed, &["--type", "some_type"]).await.is_empty());
    ops(&bed, &["events", "list", "--state", "nonsense"])
        .await
        .expect_code(2);

    let shown = ops(&bed, &["events", "show", dead, "--json"]).await.json();
    assert_eq!(shown["event"]["state"], "dead");
    assert_eq!(
        shown["event"]["attempt_log"][0]["error_kind"],
        "order_not_found"
    );
    let raw = ["events", "show", ignored, "--raw"];
    for (more, reason) in [
        (&[][..], "no reason given"),
        (&["--reason=ticket 7"], "ticket 7"),
    ] {
        let raw = [&raw[..], &["--actor=ann"], more].concat();
        assert_eq!(ops(&bed, &raw).await.expect_code(0).stdout(), body);
        let seen = "SELECT concat_ws(' ', actor, action, reason, details ->> 'event_ids')
            FROM audit_log ORDER BY id DESC LIMIT 1";
        assert_eq!(
            bed.text(seen).await,
            format!("ann event.reveal {reason} [\"{ignored}\"]")
        );
    }
    assert!(
        ops(&bed, &["events", "show", dead])
            .await
            .stdout()
            .contains("order_not_found")
    );
    ops(&bed, &["events", "show", "evt_none"])
        .await
        .expect_code(3);
}

#[tokio::test]
async fn a_dead_event_is_retried_with_a_reason_that_is_audited() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let id = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    bed.seed_order("ord_1").await;
    ops(&bed, &["events", "retry", &id]).await.expect_code(2);
    ops(&bed, &["events", "retry", &id, "--reason", " "])
        .await
        .expect_code(2);
    ops(&bed, &["events", "retry", "evt_none", "--reason", "x"])
        .await
        .expect_code(3);
    let args = [
        "events",
        "retry",
        &id,
        "--reason",
        "the order is there now",
        "--actor",
        "ann",
    ];
    ops(&bed, &args).await.expect_code(0);
    bed.until_state(&id, "processed").await;
    ops(&bed, &["events", "retry", &id, "--reason", "x"])
        .await
        .expect_code(4);
    let audit = bed
        .row(
            "SELECT actor, action, reason FROM audit_log WHERE action <> 'seed'",
            &[],
        )
        .await;
    let audit: Vec<String> = (0..3).map(|column| audit.get(column)).collect();
    assert_eq!(audit, ["ann", "event.retry", "the order is there now"]);
    bed.check_invariants().await;
}

#[tokio::test]
async fn events_are_found_by_the_ids_of_their_objects() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let (paid, refunded) = (event_id(), event_id());
    for (id, event_type, object) in [
        (&paid, "payment_intent.succeeded", payment_intent("ord_1")),
        (&refunded, "charge.refunded", charge("ord_1", 5000)),
    ] {
        let body = event(id, event_type, &object);
        assert_eq!(post(gateway.address, body).await.status, 200);
        bed.until_state(id, "processed").await;
    }
    let dead = event_id();
    let body = event(&dead, "payment_intent.succeeded", &payment_intent("ord_2"));
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&dead, "dead").await;
    assert_eq!(
        listed(&bed, &["--filter", "object:pi_ord_1"]).await,
        [refunded.as_str(), paid.as_str()]
    );
    let both = ["--filter", "object:pi_ord_1,ord_2 state:dead"];
    assert_eq!(listed(&bed, &both).await, [dead.as_str()]);
    assert!(listed(&bed, &["--filter", "object:none"]).await.is_empty());
    let letters = ops(
        &bed,
        &["dead-letters", "list", "--filter=object:ord_2", "--json"],
    )
    .await;
    assert_eq!(letters.json()["dead_letters"][0]["event_id"], dead.as_str());
    let plan = [
        "dead-letters",
        "replay",
        "--dry-run",
        "--filter=object:ord_2",
        "--json",
    ];
    assert_eq!(ops(&bed, &plan).await.json()["plan"]["count"], 1);
}

#[tokio::test]
async fn a_timeline_tells_attempts_deaths_and_what_people_did() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let id = dead_event(&bed, &gateway, "payment_intent.succeeded").await;
    let retry = ["events", "retry", &id, "--reason=try it", "--actor=ann"];
    ops(&bed, &retry).await.expect_code(0);
    bed.until_count("SELECT count(*) FROM dead_letters", 2)
        .await;
    bed.until_state(&id, "dead").await;
    bed.seed_order("ord_1").await;
    let replay = [
        "dead-letters",
        "replay",
        "--all",
        "--yes",
        "--actor=bob",
        "--reason=orders are there",
    ];
    ops(&bed, &replay).await.expect_code(0);
    bed.until_state(&id, "processed").await;
    bed.until_count("SELECT count(*) FROM replays WHERE state = 'finished'", 1)
        .await;
    let told = ops(&bed, &["events", "timeline", &id, "--json"]).await;
    told.expect_code(0);
    let moments = told.json()["timeline"].as_array().unwrap().clone();
    let words: Vec<String> = moments
        .iter()
        .map(|moment| {
            let who = moment["actor"].as_str().unwrap_or_default();
            format!("{} {who}", moment["what"].as_str().unwrap())
        })
        .collect();
    let words: Vec<&str> = words
        .iter()
        .map(|words| words.trim())
        .filter(|word| *word != "created")
        .collect();
    assert_eq!(
        words,
        [
            "received",
            "attempt",
            "dead",
            "replayed ann",
            "attempt",
            "dead",
            "replayed bob",
            "attempt",
            "processed"
        ]
    );
    assert_eq!(
        moments
            .iter()
            .filter(|moment| moment["replay"] == 1)
            .count(),
        1
    );
    let table = ops(&bed, &["events", "timeline", &id]).await.stdout();
    assert!(
        table.contains("put back by replay #1") && table.contains("try it"),
        "{table}"
    );
    ops(&bed, &["events", "timeline", "evt_none"])
        .await
        .expect_code(3);
}

#[tokio::test]
async fn a_timeline_tells_that_a_message_waits_to_be_published() {
    let bed = TestBed::new().await;
    let (gateway, worker) = start(&bed).await;
    worker.stop().await.unwrap();
    let id = event_id();
    let body = event(&id, "some.type", &json!({}));
    assert_eq!(post(gateway.address, body).await.status, 200);
    let last = async || {
        let told = ops(&bed, &["events", "timeline", &id, "--json"]).await;
        let moments = told.expect_code(0).json()["timeline"].clone();
        moments.as_array().unwrap().last().unwrap()["what"].clone()
    };
    bed.until_count("SELECT count(*) FROM outbox", 0).await;
    assert_eq!(last().await, "received");
    // As after a broker that went away for longer than the gateway tries.
    let unpublished = format!(
        "INSERT INTO outbox (event_id, available_at) VALUES ('{id}', now()), ('{id}', now() + interval '1 hour')"
    );
    bed.db.batch_execute(&unpublished).await.unwrap();
    assert_eq!(last().await, "unpublished");
    bed.db.batch_execute("DELETE FROM outbox").await.unwrap();
    let planned = format!(
        "INSERT INTO outbox (event_id, available_at) VALUES ('{id}', now() + interval '1 hour')"
    );
    bed.db.batch_execute(&planned).await.unwrap();
    assert_eq!(last().await, "received");
}

#[tokio::test]
async fn a_body_is_printed_with_personal_data_covered() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let id = event_id();
    let mut intent = payment_intent("ord_1");
    intent["receipt_email"] = json!("jane@example.com");
    let body = event(&id, "some.type", &intent);
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&id, "ignored").await;
    let shown = ops(&bed, &["events", "show", &id, "--redacted"]).await;
    shown.expect_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout()).unwrap();
    assert_eq!(shown["data"]["object"]["receipt_email"], "[redacted]");
    assert_eq!(shown["data"]["object"]["amount"], intent["amount"]);
    let both = ["events", "show", &id, "--redacted", "--raw", "--reason=x"];
    ops(&bed, &both).await.expect_code(2);
    ops(&bed, &["events", "show", "evt_none", "--redacted"])
        .await
        .expect_code(3);
}

/// Dead events that came at one moment, five thousand for each beginning, and a few of each are of live mode.
async fn many_of_one_moment(bed: &TestBed, collation: &str, beginnings: &[&str]) {
    let order =
        format!("ALTER TABLE webhook_events ALTER COLUMN id TYPE text COLLATE \"{collation}\"");
    bed.db.batch_execute(&order).await.unwrap();
    const EVENTS: &str = "
        INSERT INTO webhook_events (id, type, state, livemode, received_at, attempts, last_error, finished_at)
        SELECT beginning || lpad(n::text, 4, '0'), 'some.type', 'dead', n % 100 = 0, '2026-01-02T03:04:05Z', 1, 'no order', now()
        FROM unnest($1::text[]) beginning, generate_series(1, 5000) n";
    bed.db.execute(EVENTS, &[&beginnings]).await.unwrap();
}

#[tokio::test]
async fn lists_lose_no_event_where_text_is_not_ordered_by_bytes() {
    let bed = TestBed::new().await;
    let beginnings = ["evt_A", "evt_b", "evt_C", "evt_D"];
    many_of_one_moment(&bed, "en-x-icu", &beginnings).await;
    let live = "--filter=state:dead livemode:true";
    for limit in ["--limit=300", "--limit=199", "--limit=200"] {
        let mut found = listed(&bed, &[live, limit]).await;
        let most: usize = limit.trim_start_matches("--limit=").parse().unwrap();
        assert_eq!(found.len(), most.min(200), "{limit}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), most.min(200), "{limit}");
    }
    // The range of these holds all ids that begin with small letters.
    assert!(listed(&bed, &["--filter=id:EVT_"]).await.is_empty());
    assert_eq!(
        listed(&bed, &["--filter=id:evt_D49*", "--limit=200"])
            .await
            .len(),
        100
    );
}

#[tokio::test]
async fn ids_are_found_by_their_beginnings_where_letters_are_sorted_together() {
    let bed = TestBed::new().await;
    // In Danish `aa` comes after `z`.
    many_of_one_moment(&bed, "da-x-icu", &["evt_aa", "evt_ab"]).await;
    for (filter, count) in [("id:evt_a49…", 0), ("id:evt_aa49…", 100), ("id:evt_a", 300)] {
        let filter = format!("--filter={filter}");
        let found = listed(&bed, &[&filter, "--limit=300"]).await;
        assert_eq!(found.len(), count, "{filter}");
    }
    let live = "--filter=id:evt_a livemode:true";
    assert_eq!(listed(&bed, &[live, "--limit=300"]).await.len(), 100);
    assert_eq!(
        listed(&bed, &["--filter=id:evt_aa0077"]).await,
        ["evt_aa0077"]
    );
}
