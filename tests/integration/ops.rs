//! The commands, as processes, under the operators' role.

use harness::binaries::{ops, ops_with, program};
use harness::broker::Broker;
use harness::stripe::{event, event_id, payment_intent, post};
use harness::{RunningGateway, RunningWorker, TestBed};
use serde_json::{Value, json};

/// A dead event: its order is unknown.
async fn dead_event(bed: &TestBed, gateway: &RunningGateway, event_type: &str) -> String {
    let id = event_id();
    assert_eq!(
        post(
            gateway.address,
            event(&id, event_type, &payment_intent("ord_1"))
        )
        .await
        .status,
        200
    );
    bed.until_state(&id, "dead").await;
    id
}

async fn start(bed: &TestBed) -> (RunningGateway, RunningWorker) {
    tokio::join!(
        RunningGateway::start(bed, &[]),
        RunningWorker::start(bed, &["--max-attempts=1"])
    )
}

#[tokio::test]
async fn seed_loads_all_or_nothing_and_again_without_effect() {
    let bed = TestBed::new().await;
    let product = json!({ "id": "ga", "kind": "seat", "name": "GA", "unit_amount_cents": 2500, "currency": "usd", "capacity": 9 });
    let yen = json!({ "id": "jp", "kind": "seat", "name": "JP", "unit_amount_cents": 9, "currency": "jpy", "capacity": 9 });
    let order = |id: &str, items: Value| json!({ "id": id, "user_id": "u", "email": "b@example.com", "items": items });
    let good = json!({ "products": [product, yen], "orders": [order("a", json!([{ "product": "ga", "quantity": 2 }])),
        { "id": "w", "email": "w@example.com", "waitlisted": true, "items": [{ "product": "ga", "quantity": 1 }] }] });
    bed.seed(&good).await;
    bed.seed(&good).await;
    assert_eq!(bed.count("SELECT amount_cents FROM orders WHERE id = 'a' AND currency = 'usd' AND status = 'pending'").await, 5_000);
    assert_eq!(
        bed.count("SELECT count(*) FROM registrations WHERE order_id = 'a' AND status = 'pending'")
            .await,
        2
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM registrations WHERE status = 'waitlisted'")
            .await,
        1
    );

    let file = bed.path("bad.json");
    for (items, code, problem) in [
        (
            json!([{ "product": "ga", "quantity": 1 }, { "product": "jp", "quantity": 1 }]),
            2,
            "different currencies",
        ),
        (
            json!([{ "product": "nothing", "quantity": 1 }]),
            2,
            "no product nothing",
        ),
        (json!([{ "product": "ga", "quantity": 0 }]), 2, "quantity"),
        (json!([]), 2, "no items"),
    ] {
        let bad = json!({ "orders": [order("b", json!([{ "product": "ga", "quantity": 1 }])), order("c", items)] });
        std::fs::write(&file, bad.to_string()).unwrap();
        let done = ops(&bed, &["seed", file.to_str().unwrap()]).await;
        done.expect_code(code);
        assert!(done.stderr().contains(problem), "{}", done.stderr());
    }
    let changed = json!({ "orders": [order("b", json!([{ "product": "ga", "quantity": 1 }])), order("a", json!([{ "product": "ga", "quantity": 3 }]))] });
    std::fs::write(&file, changed.to_string()).unwrap();
    ops(&bed, &["seed", file.to_str().unwrap()])
        .await
        .expect_code(6);
    std::fs::write(&file, "{").unwrap();
    ops(&bed, &["seed", file.to_str().unwrap()])
        .await
        .expect_code(2);
    ops(&bed, &["seed", "/nonexistent"]).await.expect_code(2);
    assert_eq!(bed.count("SELECT count(*) FROM orders").await, 2);
}

#[tokio::test]
async fn trigger_sends_events_that_fulfill_an_order() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let url = format!("http://{}/webhooks/stripe", gateway.address);
    let trigger = async |event_type: &str, more: &[&str]| {
        let args: Vec<&str> = ["trigger", event_type, "--url", &url, "--json"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        let done = ops(&bed, &args).await;
        done.expect_code(0);
        done.json()["triggered"].clone()
    };
    for (event_type, status) in [
        ("payment_intent.payment_failed", "cancelled"),
        ("payment_intent.succeeded", "paid"),
        ("checkout.session.completed", "paid"),
        ("charge.refunded", "refunded"),
    ] {
        let sent = trigger(event_type, &["--order", "ord_1"]).await;
        bed.until_state(sent["id"].as_str().unwrap(), "processed")
            .await;
        assert_eq!(
            bed.text("SELECT status FROM orders").await,
            status,
            "{event_type}"
        );
    }
    let repeated = trigger("invoice.paid", &["--repeat", "5"]).await;
    assert_eq!(
        (
            repeated["accepted"].as_u64(),
            repeated["answer"]["duplicate"].as_bool()
        ),
        (Some(5), Some(true))
    );
    let unknown = trigger("brand.new", &["--id", "evt_brand_new"]).await;
    bed.until_state(unknown["id"].as_str().unwrap(), "ignored")
        .await;
    bed.check_invariants().await;

    let printed = ops(&bed, &["trigger", "charge.refunded", "--print"]).await;
    assert_eq!(printed.json()["type"], "charge.refunded");
    ops(&bed, &["trigger", "x", "--url", "http://127.0.0.1:9/"])
        .await
        .expect_code(7);
    ops_with(&bed, &["trigger", "x"], &[("STRIPE_WEBHOOK_SECRET", "")])
        .await
        .expect_code(2);
}

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
    assert_eq!(
        ops(&bed, &["events", "show", ignored, "--raw"])
            .await
            .stdout(),
        body
    );
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
        .row("SELECT actor, action, reason FROM audit_log", &[])
        .await;
    let audit: Vec<String> = (0..3).map(|column| audit.get(column)).collect();
    assert_eq!(audit, ["ann", "event.retry", "the order is there now"]);
    bed.check_invariants().await;
}

#[tokio::test]
async fn lists_go_on_page_by_page_and_as_lines() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, received_at)
             SELECT 'evt_' || n, CASE WHEN n > 20 THEN 'b.two' ELSE 'a.one' END, now() - n % 3 * interval '1 minute'
             FROM generate_series(1, 25) n;
             INSERT INTO dead_letters (reason, error, fingerprint, message, died_at)
             SELECT 'undecodable', 'e', 'f', 'm', now() - n % 3 * interval '1 minute' FROM generate_series(1, 25) n",
        )
        .await
        .unwrap();
    for (list, name) in [("events", "events"), ("dead-letters", "dead_letters")] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let mut args = vec![list, "list", "--limit", "10", "--json"];
            args.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor]));
            let page = ops(&bed, &args).await.json();
            assert_eq!(page["schema"], 1);
            let rows = page[name].as_array().unwrap();
            seen.extend(rows.iter().map(|row| row["id"].to_string()));
            pages += 1;
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let all = ops(&bed, &[list, "list", "--ndjson"]).await.stdout();
        let all: Vec<Value> = all
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(all.iter().all(|row| row["schema"] == 1));
        let all: Vec<String> = all.iter().map(|row| row["id"].to_string()).collect();
        assert_eq!((seen, pages, all.len()), (all.clone(), 3, 25), "{list}");
        ops(&bed, &[list, "list", "--cursor", "nonsense"])
            .await
            .expect_code(2);
    }
    let filter = ["--filter", "type:b.*,c.three since:1d state:received"];
    assert_eq!(listed(&bed, &filter).await.len(), 5);
    let twice = [
        "events",
        "list",
        "--filter",
        "state:dead",
        "--state",
        "dead",
    ];
    ops(&bed, &twice).await.expect_code(2);
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_fault_and_a_full_disk_is() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let list = async |stdout: std::process::Stdio| {
        let mut command = program("ops").await;
        command.args(["events", "list"]).stdout(stdout);
        command
            .env("DATABASE_URL", bed.ops_url())
            .stderr(std::process::Stdio::piped());
        // `output()` would replace stdout.
        let child = command.spawn().unwrap();
        let output = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(list(writer.into()).await, (Some(0), String::new()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let (code, problem) = list(full.unwrap().into()).await;
    assert_eq!(code, Some(1), "{problem}");
    assert!(problem.contains("cannot be written"), "{problem}");
}

#[tokio::test]
async fn completions_are_printed_for_each_shell() {
    let bed = TestBed::new().await;
    for shell in ["bash", "zsh", "fish"] {
        let done = ops(&bed, &["completions", shell]).await;
        done.expect_code(0);
        assert!(done.stdout().contains("dead-letters"), "{shell}");
    }
    ops(&bed, &["completions", "none"]).await.expect_code(2);
}

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

#[tokio::test]
async fn doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let bed = TestBed::new().await;
    let (gateway, worker) = start(&bed).await;
    gateway.until_ready().await;
    let (public, admin, work) = (
        gateway.address.to_string(),
        gateway.admin_address.to_string(),
        worker.admin_address.to_string(),
    );
    let variables = [
        ("GATEWAY_LISTEN", public.as_str()),
        ("GATEWAY_ADMIN_LISTEN", &admin),
        ("WORKER_ADMIN_LISTEN", &work),
        ("STRIPE_LIVEMODE", "false"),
    ];
    let healthy = ops_with(&bed, &["doctor", "--json"], &variables).await;
    healthy.expect_code(0);
    let findings = healthy.json()["findings"].as_array().unwrap().clone();
    assert!(
        findings.len() >= 15 && findings.iter().all(|finding| finding["state"] != "failed"),
        "{findings:?}"
    );
    assert!(
        findings
            .iter()
            .all(|finding| (finding["state"] == "ok") == finding["mend"].is_null()),
        "{findings:?}"
    );

    bed.db
        .batch_execute("DELETE FROM refinery_schema_history WHERE version = 2")
        .await
        .unwrap();
    let ill = ops_with(&bed, &["doctor"], &[("STRIPE_WEBHOOK_SECRET", "")]).await;
    ill.expect_code(1);
    assert!(
        ill.stdout().contains("run `ops migrate`")
            && ill.stdout().contains("STRIPE_WEBHOOK_SECRET"),
        "{}",
        ill.stdout()
    );
    let away = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x"),
        ("AMQP_URL", "amqp://127.0.0.1:1"),
    ];
    ops_with(&bed, &["doctor"], &away).await.expect_code(7);
    ops_with(&bed, &["events", "list"], &away)
        .await
        .expect_code(7);
    ops_with(&bed, &["events", "list"], &[("DATABASE_URL", "")])
        .await
        .expect_code(2);
    let gateway_url = bed.gateway_url();
    ops_with(&bed, &["events", "list"], &[("DATABASE_URL", &gateway_url)])
        .await
        .expect_code(5);
}

#[tokio::test]
async fn life_cycles_end_as_their_names_say() {
    let bed = TestBed::new().await;
    // Disputes and refunds name only the payment: they may overtake it, and are tried again.
    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &["--max-attempts=50"])
    );
    let url = format!("http://{}/webhooks/stripe", gateway.address);
    for (lifecycle, status, events) in [
        ("paid", "paid", 3),
        ("paid-then-refunded", "refunded", 5),
        ("paid-then-partly-refunded", "refunded", 3),
        ("failed-then-paid", "paid", 3),
        ("failed-then-canceled", "cancelled", 2),
        ("expired", "cancelled", 1),
        ("delayed-then-paid", "paid", 2),
        ("delayed-then-failed", "cancelled", 2),
        ("authorized-then-paid", "paid", 2),
        ("disputed-then-lost", "review", 3),
        ("refund-failed", "review", 3),
    ] {
        bed.seed_order(lifecycle).await;
        let args = [
            "trigger",
            "lifecycle",
            lifecycle,
            "--order",
            lifecycle,
            "--url",
            &url,
            "--json",
        ];
        let done = ops(&bed, &args).await;
        done.expect_code(0);
        let triggered = done.json()["triggered"].clone();
        let sent = triggered
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![triggered.clone()]);
        assert_eq!(sent.len(), events, "{lifecycle}");
        for event in &sent {
            let id = event["id"].as_str().unwrap();
            harness::eventually(&format!("{lifecycle}: {id} is final"), async || {
                ["processed", "ignored"]
                    .contains(&bed.state(id).await.as_str())
                    .then_some(())
            })
            .await;
        }
        let found = bed
            .row("SELECT status FROM orders WHERE id = $1", &[&lifecycle])
            .await;
        assert_eq!(found.get::<_, &str>(0), status, "{lifecycle}");
    }
    ops(&bed, &["trigger", "lifecycle", "nonsense"])
        .await
        .expect_code(2);
    bed.check_invariants().await;
}
