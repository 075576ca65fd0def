//! Reconciling with Stripe's list of events: what never came is imported once, whatever happens meanwhile.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use harness::binaries::{Done, Process, ops, ops_with, program};
use harness::console::Console;
use harness::stripe::{client, event, event_id, payment_intent, post};
use harness::stripe_api::{LIVE_KEY, POWERLESS_KEY, RESTRICTED_KEY, StripeApi, TEST_KEY, Trouble};
use harness::{RunningGateway, RunningWorker, TestBed, eventually};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

const DAY: i64 = 86_400;
const EVENTS: &str = "SELECT count(*) FROM webhook_events";
/// What is stored only in part.
const HALVES: &str = "SELECT count(*) FROM webhook_events event FULL JOIN event_payloads body ON body.event_id = event.id
    FULL JOIN reconciled_events origin ON origin.event_id = event.id FULL JOIN outbox message ON message.event_id = event.id
    WHERE event.id IS NULL OR body.event_id IS NULL OR origin.event_id IS NULL OR message.event_id IS NULL";
/// Stripe says that asking again is no use: so no test waits for tries.
const FINAL: (&str, &str) = ("stripe-should-retry", "false");

fn down() -> Trouble {
    Trouble::Status(500, vec![FINAL])
}

/// An event's text as Stripe made it so long ago.
fn made(id: &str, event_type: &str, object: &Value, seconds_ago: i64) -> String {
    let mut made: Value = serde_json::from_str(&event(id, event_type, object)).unwrap();
    made["created"] = json!(Timestamp::now().as_second() - seconds_ago);
    format!("{made:#}")
}

/// So many events that nobody handles, one a second, the last one a minute ago.
fn happen(api: &StripeApi, count: i64) {
    for n in 0..count {
        let id = format!("evt_{n:04}");
        api.happened(&made(&id, "some.type", &json!({}), 60 + count - n));
    }
}

async fn reconcile_with(bed: &TestBed, args: &[&str], variables: &[(&str, &str)]) -> Done {
    let ops_url = bed.ops_url();
    let mut all = vec![("DATABASE_URL", ops_url.as_str()), ("OPS_ACTOR", "olga")];
    all.extend(variables);
    let args: Vec<&str> = ["reconcile", "--json", "--rate=500"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    ops_with(bed, &args, &all).await
}

async fn reconcile(bed: &TestBed, api: &StripeApi, args: &[&str]) -> Done {
    let variables = [
        ("STRIPE_SECRET_KEY", TEST_KEY),
        ("STRIPE_API_URL", api.url.as_str()),
        ("STRIPE_API_TIMEOUT", "2s"),
    ];
    reconcile_with(bed, args, &variables).await
}

/// Pages, listed, known, imported.
fn figures(done: &Done) -> [i64; 4] {
    let report = &done.expect_code(0).json()["reconciliation"];
    ["pages", "listed", "known", "imported"].map(|name| report[name].as_i64().unwrap())
}

/// A run as a process that goes on beside the test.
async fn start_reconcile(bed: &TestBed, api: &StripeApi) -> tokio::process::Child {
    let mut command = program("ops").await;
    command
        .args(["reconcile", "--rate=500"])
        .env("DATABASE_URL", bed.ops_url())
        .env("STRIPE_SECRET_KEY", TEST_KEY)
        .env("STRIPE_API_URL", &api.url)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until a run waits for its second page.
async fn until_second_page(bed: &TestBed, api: &StripeApi) {
    bed.until_count(EVENTS, 100).await;
    eventually("the second page is asked for", async || {
        (api.asked().len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_that_never_came_is_imported_byte_for_byte_and_fulfilled_once() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    bed.seed_order("ord_1").await;
    let id = event_id();
    let created = Timestamp::now().as_second() - 3 * DAY;
    let text = format!(
        "{{ \"id\":\"{id}\",\n\t\"object\" : \"event\", \"created\":{created},\"livemode\":false, \"x\": 1.50e1, \
         \"big\":12345678901234567890123, \"type\":\"payment_intent.succeeded\",\"caf\\u00e9\":\"é\",\"data\":{{\"object\":{}}} }}",
        payment_intent("ord_1")
    );
    api.happened(&text);
    let done = reconcile(&bed, &api, &[]).await;
    assert_eq!(figures(&done), [1, 1, 0, 1]);
    let types = &done.json()["reconciliation"]["types"];
    assert_eq!(*types, json!({ "payment_intent.succeeded": 1 }));
    let stored = bed.row("SELECT body FROM event_payloads", &[]).await;
    assert_eq!(stored.get::<_, Vec<u8>>(0), text.as_bytes());
    let audit = "SELECT concat_ws(' ', actor, action, details ->> 'reconciliation') FROM audit_log WHERE action <> 'seed'";
    assert_eq!(bed.text(audit).await, "olga reconcile 1");

    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &[])
    );
    bed.until_state(&id, "processed").await;
    let answer = post(gateway.address, text).await;
    assert_eq!(
        (answer.status, &answer.body["duplicate"]),
        (200, &json!(true))
    );
    let done = reconcile(&bed, &api, &[]).await;
    assert_eq!(figures(&done), [1, 1, 1, 0]);
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 2);
    assert_eq!(bed.text("SELECT status FROM orders").await, "paid");
    bed.check_invariants().await;
}

#[tokio::test]
async fn what_is_known_is_left_as_it_is() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &["--max-attempts=1"])
    );
    for (id, event_type, state) in [
        ("evt_dead", "payment_intent.succeeded", "dead"),
        ("evt_ignored", "some.type", "ignored"),
    ] {
        let text = made(id, event_type, &payment_intent("ord_none"), 60);
        assert_eq!(post(gateway.address, text.clone()).await.status, 200);
        // Its endpoint answered, but Stripe did not hear it.
        api.happened(&text);
        bed.until_state(id, state).await;
    }
    bed.until_count("SELECT count(*) FROM outbox", 0).await;
    let all =
        "SELECT string_agg(concat(event, body, (SELECT count(*) FROM outbox)), '' ORDER BY id)
        FROM webhook_events event JOIN event_payloads body ON event_id = id";
    let before = bed.text(all).await;
    assert_eq!(figures(&reconcile(&bed, &api, &[]).await), [1, 2, 2, 0]);
    assert_eq!(bed.text(all).await, before);
    assert_eq!(bed.count("SELECT count(*) FROM reconciled_events").await, 0);
}

#[tokio::test]
async fn the_whole_list_is_walked_within_the_window_and_thirty_days() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 250);
    for (id, days) in [("evt_29d", 29), ("evt_31d", 31)] {
        api.happened(&made(id, "some.type", &json!({}), days * DAY));
    }
    api.happened(&made("evt_taken", "some.type", &json!({}), 60));
    api.delivered("evt_taken");
    // Its webhook is on its way.
    api.happened(&made("evt_new", "some.type", &json!({}), 10));

    let dry = reconcile(&bed, &api, &["--since=24h", "--dry-run"]).await;
    assert_eq!(figures(&dry), [3, 250, 0, 250]);
    assert_eq!(bed.count(EVENTS).await, 0);
    assert_eq!(bed.count("SELECT count(*) FROM reconciliations").await, 0);

    let done = reconcile(&bed, &api, &["--since=24h"]).await;
    assert_eq!(figures(&done), [3, 250, 0, 250]);
    let asked = api.asked();
    let last: HashMap<String, String> = asked.last().unwrap().query.clone();
    assert_eq!(
        (last["limit"].as_str(), last["delivery_success"].as_str()),
        ("100", "false")
    );
    assert_eq!(last["starting_after"], "evt_0050");
    assert_eq!(
        asked.last().unwrap().authorization,
        format!("Bearer {TEST_KEY}")
    );

    let done = reconcile(&bed, &api, &[]).await;
    assert_eq!(figures(&done), [3, 251, 250, 1]);
    let done = reconcile(&bed, &api, &["--all"]).await;
    assert_eq!(figures(&done), [3, 252, 251, 1]);
    assert_eq!(bed.state("evt_31d").await + &bed.state("evt_new").await, "");
    assert_eq!(bed.count(HALVES).await, 0);
    reconcile(&bed, &api, &["--since=31d"]).await.expect_code(2);
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 250);
    let limited = Trouble::Status(429, vec![("retry-after", "2")]);
    api.trouble([limited]);
    assert_eq!(figures(&reconcile(&bed, &api, &[]).await), [3, 250, 0, 250]);
    let asked = api.asked();
    let waited = asked[1].at - asked[0].at;
    assert!(waited >= Duration::from_secs(2), "{waited:?}");

    api.limit_rate(2);
    assert_eq!(figures(&reconcile(&bed, &api, &[]).await), [3, 250, 250, 0]);

    let patience = Trouble::Status(429, vec![("retry-after", "3600")]);
    api.trouble([patience]);
    let done = reconcile(&bed, &api, &[]).await;
    done.expect_code(7);
    assert!(done.stderr().contains("429"), "{}", done.stderr());
}

#[tokio::test]
async fn passing_trouble_of_stripe_is_sat_out() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 101);
    api.trouble([
        Trouble::Status(500, vec![]),
        Trouble::Cut,
        Trouble::WebPage,
        Trouble::Half,
        Trouble::Slow(Duration::from_secs(20)),
    ]);
    assert_eq!(figures(&reconcile(&bed, &api, &[]).await), [2, 101, 0, 101]);
    assert_eq!(bed.count(HALVES).await, 0);
}

#[tokio::test]
async fn lasting_trouble_of_stripe_is_told_and_the_next_run_completes_the_work() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 250);
    api.trouble([Trouble::Slow(Duration::ZERO), down()]);
    let done = reconcile(&bed, &api, &[]).await;
    done.expect_code(7);
    assert!(
        done.stderr().contains("Stripe answers 500"),
        "{}",
        done.stderr()
    );
    assert!(done.stderr().contains("request req_"), "{}", done.stderr());
    // One page is there, and all of it.
    assert_eq!(bed.count(EVENTS).await, 100);
    assert_eq!(bed.count(HALVES).await, 0);
    let run =
        "SELECT concat_ws(' ', state, pages, imported, error) FROM reconciliations WHERE id = ";
    let told = bed.text(&format!("{run} 1")).await;
    assert!(
        told.starts_with("failed 1 100 Stripe answers 500"),
        "{told}"
    );

    let nobody = [
        ("STRIPE_SECRET_KEY", TEST_KEY),
        ("STRIPE_API_URL", "http://127.0.0.1:1"),
    ];
    let done = reconcile_with(&bed, &[], &nobody).await;
    done.expect_code(7);
    assert!(
        done.stderr().contains("cannot be reached"),
        "{}",
        done.stderr()
    );
    api.trouble([Trouble::Status(400, vec![])]);
    reconcile(&bed, &api, &[]).await.expect_code(1);

    assert_eq!(
        figures(&reconcile(&bed, &api, &[]).await),
        [3, 250, 100, 150]
    );
    assert_eq!(bed.count(HALVES).await, 0);
}

#[tokio::test]
async fn a_key_that_is_not_for_here_is_refused_and_never_shown() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let file = bed.path("key");
    std::fs::write(&file, format!("{RESTRICTED_KEY}\n")).unwrap();
    let file = file.to_str().unwrap();
    let url = ("STRIPE_API_URL", api.url.as_str());
    for (variables, code, problem) in [
        (vec![("STRIPE_SECRET_KEY", LIVE_KEY)], 4, "of live mode"),
        (
            vec![("STRIPE_SECRET_KEY", TEST_KEY), ("STRIPE_LIVEMODE", "true")],
            4,
            "of test mode",
        ),
        (
            vec![
                ("STRIPE_SECRET_KEY_FILE", file),
                ("STRIPE_LIVEMODE", "true"),
            ],
            4,
            "STRIPE_SECRET_KEY_FILE",
        ),
        (
            vec![("STRIPE_SECRET_KEY_FILE", "/nowhere")],
            2,
            "cannot be read",
        ),
        (
            vec![
                ("STRIPE_SECRET_KEY_FILE", file),
                ("STRIPE_SECRET_KEY", TEST_KEY),
            ],
            2,
            "choose one",
        ),
        (
            vec![("STRIPE_SECRET_KEY", "pk_test_fakestripe")],
            2,
            "not a secret key",
        ),
        (vec![], 2, "STRIPE_SECRET_KEY"),
        (
            vec![
                ("STRIPE_SECRET_KEY", TEST_KEY),
                ("STRIPE_API_URL", "http://api.stripe.com"),
            ],
            2,
            "in clear",
        ),
    ] {
        let variables: Vec<_> = [url].into_iter().chain(variables).collect();
        let done = reconcile_with(&bed, &[], &variables).await;
        done.expect_code(code);
        assert!(done.stderr().contains(problem), "{}", done.stderr());
        assert!(!done.stderr().contains("fakestripe"), "{}", done.stderr());
    }
    assert!(api.asked().is_empty());

    for (key, code) in [("sk_test_unknown", 5), (POWERLESS_KEY, 5)] {
        let done = reconcile_with(&bed, &[], &[url, ("STRIPE_SECRET_KEY", key)]).await;
        done.expect_code(code);
        assert!(!done.stderr().contains(key), "{}", done.stderr());
    }
    let done = reconcile_with(&bed, &[], &[url, ("STRIPE_SECRET_KEY_FILE", file)]).await;
    assert_eq!(figures(&done), [1, 0, 0, 0]);
}

#[tokio::test]
async fn events_of_the_other_mode_end_the_run_and_nothing_of_their_page_is_kept() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 3);
    let live = made("evt_live", "some.type", &json!({}), 60)
        .replace("\"livemode\": false", "\"livemode\": true");
    api.happened(&live);
    api.mix_modes();
    let done = reconcile(&bed, &api, &[]).await;
    done.expect_code(4);
    assert!(
        done.stderr().contains("evt_live is not of test mode"),
        "{}",
        done.stderr()
    );
    assert_eq!(bed.count(EVENTS).await, 0);
}

#[tokio::test]
async fn an_event_without_identity_is_left_out_and_told() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 2);
    api.happened(&made("evt_odd", "some.type", &json!({}), 90).replace("\"evt_odd\"", "7"));
    let done = reconcile(&bed, &api, &[]).await;
    done.expect_code(8);
    assert_eq!(done.json()["reconciliation"]["unreadable"], 1);
    assert_eq!(bed.count(EVENTS).await, 2);
}

#[tokio::test]
async fn of_two_runs_at_once_one_is_refused() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 10);
    let slow = Trouble::Slow(Duration::from_millis(1_500));
    api.trouble([slow.clone(), slow]);
    let (one, other) = tokio::join!(reconcile(&bed, &api, &[]), reconcile(&bed, &api, &[]));
    let refused = if one.stdout().is_empty() {
        &one
    } else {
        &other
    };
    refused.expect_code(6);
    assert!(
        refused
            .stderr()
            .contains("a reconciliation of olga runs since"),
        "{}",
        refused.stderr()
    );
    assert_eq!(api.asked().len(), 1);
    assert_eq!(
        bed.count("SELECT imported::bigint FROM reconciliations")
            .await,
        10
    );
}

#[tokio::test]
async fn a_run_killed_in_the_middle_is_completed_by_the_next() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 250);
    api.trouble([
        Trouble::Slow(Duration::ZERO),
        Trouble::Slow(Duration::from_secs(60)),
    ]);
    let mut child = start_reconcile(&bed, &api).await;
    until_second_page(&bed, &api).await;
    child.kill().await.unwrap();
    reconcile(&bed, &api, &[]).await.expect_code(6);
    // As if half a minute had passed.
    let age = "UPDATE reconciliations SET beat_at = beat_at - interval '31 seconds'";
    bed.db.execute(age, &[]).await.unwrap();
    assert_eq!(
        figures(&reconcile(&bed, &api, &[]).await),
        [3, 250, 100, 150]
    );
    assert_eq!(bed.count(HALVES).await, 0);
    let first = "SELECT concat_ws(' ', state, imported, error) FROM reconciliations WHERE id = 1";
    assert_eq!(
        bed.text(first).await,
        "failed 100 its process ended or was cut off"
    );
}

#[tokio::test]
async fn a_run_that_was_given_up_imports_nothing_more() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 150);
    api.trouble([
        Trouble::Slow(Duration::ZERO),
        Trouble::Slow(Duration::from_secs(4)),
    ]);
    let mut frozen = start_reconcile(&bed, &api).await;
    until_second_page(&bed, &api).await;
    let age = "UPDATE reconciliations SET beat_at = beat_at - interval '31 seconds'";
    bed.db.execute(age, &[]).await.unwrap();
    // The list ends for the other one before it has all: what is left is the first one's to import, if it could.
    assert_eq!(
        figures(&reconcile(&bed, &api, &["--since=100s"]).await)[3],
        0
    );
    let code = frozen.wait().await.unwrap().code();
    assert_ne!(code, Some(0));
    assert_eq!(bed.count(EVENTS).await, 100);
    assert_eq!(
        bed.count("SELECT imported::bigint FROM reconciliations WHERE id = 1")
            .await,
        100
    );
}

#[tokio::test]
async fn an_interrupted_run_says_so_and_makes_room_at_once() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 150);
    api.trouble([
        Trouble::Slow(Duration::ZERO),
        Trouble::Slow(Duration::from_secs(60)),
    ]);
    let mut child = start_reconcile(&bed, &api).await;
    until_second_page(&bed, &api).await;
    let pid = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().await.unwrap().code(), Some(143));
    let how = "SELECT concat_ws(' ', state, error) FROM reconciliations";
    assert_eq!(bed.text(how).await, "failed interrupted");
    assert_eq!(
        figures(&reconcile(&bed, &api, &[]).await),
        [2, 150, 100, 50]
    );
}

#[tokio::test]
async fn webhooks_that_come_while_their_events_are_imported_make_no_difference() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &[])
    );
    let texts: Vec<String> = (0..400)
        .map(|n| made(&format!("evt_{n:04}"), "some.type", &json!({}), 60))
        .collect();
    texts.iter().for_each(|text| api.happened(text));
    let deliver = async {
        for chunk in texts.chunks(20) {
            let posts = chunk.iter().map(|text| post(gateway.address, text.clone()));
            let answers = futures_util::future::join_all(posts).await;
            assert!(answers.iter().all(|answer| answer.status == 200));
        }
    };
    let (done, ()) = tokio::join!(reconcile(&bed, &api, &[]), deliver);
    let [_, listed, known, imported] = figures(&done);
    assert_eq!((listed, known + imported), (400, 400));
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state = 'ignored'",
        400,
    )
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM reconciled_events").await,
        imported
    );
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 400);
    // Each webhook is counted, and each import.
    let deliveries = bed
        .count("SELECT sum(deliveries)::bigint FROM webhook_events")
        .await;
    assert_eq!(deliveries, 400 + imported);
    bed.check_invariants().await;
}

fn schedule<'a>(key: &'a str, url: &'a str) -> Vec<&'a str> {
    vec![key, url, "--reconcile-every=300ms"]
}

/// Row F53.
#[tokio::test]
async fn what_happened_while_the_gateway_was_off_for_four_days_is_fulfilled_by_the_schedule() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    bed.seed_order("ord_1").await;
    let paid = event_id();
    api.happened(&made(
        &paid,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
        4 * DAY - 60,
    ));
    for n in 0..120 {
        api.happened(&made(
            &format!("evt_{n:03}"),
            "some.type",
            &json!({}),
            3 * DAY - n * 600,
        ));
    }
    api.happened(&made("evt_old", "some.type", &json!({}), 31 * DAY));
    let (key, url) = (
        format!("--stripe-secret-key={RESTRICTED_KEY}"),
        format!("--stripe-api-url={}", api.url),
    );
    let args = schedule(&key, &url);
    let _workers = tokio::join!(
        RunningWorker::start(&bed, &args),
        RunningWorker::start(&bed, &args)
    );
    bed.until_state(&paid, "processed").await;
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state = 'ignored'",
        120,
    )
    .await;
    assert_eq!(bed.text("SELECT status FROM orders").await, "paid");
    bed.until_some("SELECT count(*) FROM reconciliations WHERE id > 2 AND state = 'finished'")
        .await;
    assert_eq!(bed.count(EVENTS).await, 121);
    assert_eq!(
        bed.count("SELECT sum(imported)::bigint FROM reconciliations")
            .await,
        121
    );
    // The first window is all that Stripe keeps, and the others begin a day before the last one that reached its end.
    let windows = "SELECT count(*) FROM reconciliations WHERE scheduled AND state = 'finished'
        AND abs(extract(epoch FROM started_at - since) - CASE WHEN id = 1 THEN 30 * 86400 ELSE 86400 END) > 60";
    assert_eq!(bed.count(windows).await, 0);
    let at_once = "SELECT count(*) FROM reconciliations a JOIN reconciliations b ON a.id < b.id
        AND b.started_at < a.finished_at";
    assert_eq!(bed.count(at_once).await, 0);
    bed.check_invariants().await;
}

/// Row F51, as far as it is about the only caller that Stripe has.
#[tokio::test]
async fn the_schedule_outlives_an_outage_of_stripe_and_says_so_without_the_key() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 1);
    api.trouble(vec![down(); 10_000]);
    let variables = [
        ("STRIPE_SECRET_KEY", TEST_KEY),
        ("STRIPE_API_URL", &api.url),
        ("RECONCILE_EVERY", "300ms"),
        ("ALERT_MAIL_TO", "oncall@example.com"),
    ];
    let worker = Process::worker(&bed, &variables).await;
    bed.until_some("SELECT count(*) FROM reconciliations WHERE id >= 4 AND state = 'failed'")
        .await;
    let alert = "SELECT count(*) FROM alert_states WHERE rule = 'reconciliation' AND state = ";
    bed.until_some(&format!("{alert} 'firing'")).await;
    assert!(worker.answers("readyz").await);
    api.recover();
    bed.until_state("evt_0000", "ignored").await;
    bed.until_some(&format!("{alert} 'resolved'")).await;

    let metrics = client().get(format!("http://{}/metrics", worker.admin_address));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    for line in [
        "tollgate_reconciliations_total{result=\"failed\"} ",
        "tollgate_reconciliations_total{result=\"finished\"} ",
        "tollgate_reconciled_events_total 1",
    ] {
        let shown = metrics.lines().any(|shown| shown.starts_with(line));
        assert!(shown, "{line}: {metrics}");
    }
    let log = worker.log_text();
    assert!(log.contains("reconciliation failed") && log.contains("events were missed"));
    assert!(!log.contains("fakestripe"), "a key is logged");
}

#[tokio::test]
async fn a_worker_without_a_key_or_a_schedule_asks_nobody() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 1);
    let (key, url) = (
        format!("--stripe-secret-key={TEST_KEY}"),
        format!("--stripe-api-url={}", api.url),
    );
    let off = RunningWorker::start(&bed, &[&key, &url, "--reconcile-every=off"]).await;
    let keyless = RunningWorker::start(&bed, &[&url, "--reconcile-every=50ms"]).await;
    let id = event_id();
    let gateway = RunningGateway::start(&bed, &[]).await;
    post(gateway.address, event(&id, "some.type", &json!({}))).await;
    bed.until_state(&id, "ignored").await;
    off.stop().await.unwrap();
    keyless.stop().await.unwrap();
    assert!(api.asked().is_empty());
}

#[tokio::test]
async fn nobody_imports_outside_of_a_run_and_what_is_over_stays_as_it_is() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    happen(&api, 1);
    assert_eq!(figures(&reconcile(&bed, &api, &[]).await)[3], 1);
    for url in [bed.ops_url(), bed.worker_url()] {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        for statement in [
            "SELECT reconcile_import(1, '{evt_x}', '{a}', '{f}', '{null}', '{null}', '{null}', '{a}')",
            "UPDATE reconciliations SET imported = 0, listed = 0",
        ] {
            let error = client.batch_execute(statement).await.expect_err(statement);
            assert_eq!(error.code(), Some(&SqlState::RESTRICT_VIOLATION), "{error}");
        }
    }
    assert_eq!(bed.count(EVENTS).await, 1);
}

#[tokio::test]
async fn the_console_shows_reconciliations_and_where_an_event_came_from() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let console = Console::start(&bed, &[]).await;
    console.get("/reconcile").await.is(200).shows("Never done");
    happen(&api, 3);
    reconcile(&bed, &api, &[]).await.expect_code(0);
    api.trouble([down()]);
    reconcile(&bed, &api, &["--all"]).await.expect_code(7);
    let page = console.get("/reconcile").await;
    page.is(200)
        .shows("olga")
        .shows("Stripe answers 500")
        .shows("all events since");
    page.shows("aria-current=\"page\">Reconcile");
    console
        .get("/reconcile?before=2")
        .await
        .hides("Stripe answers 500")
        .shows("#1");
    console.get("/reconcile?before=x").await.is(400);
    eventually("the overview tells it", async || {
        let page = console.get("/").await;
        let shown = page
            .text
            .split("Last reconcile")
            .nth(1)?
            .contains(">failed<");
        shown.then_some(())
    })
    .await;
    console
        .get("/events/evt_0000")
        .await
        .is(200)
        .shows("reconciliation #1");
}

#[tokio::test]
async fn doctor_tries_the_key() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let ops_url = bed.ops_url();
    for (key, state) in [
        (TEST_KEY, "ok"),
        (POWERLESS_KEY, "failed"),
        (LIVE_KEY, "failed"),
    ] {
        let variables = [
            ("DATABASE_URL", ops_url.as_str()),
            ("STRIPE_SECRET_KEY", key),
            ("STRIPE_API_URL", api.url.as_str()),
        ];
        let done = ops_with(&bed, &["doctor", "--json"], &variables).await;
        let findings = done.json()["findings"].as_array().unwrap().clone();
        let finding = findings.iter().find(|finding| finding["check"] == "stripe");
        assert_eq!(finding.unwrap()["state"], state, "{key}");
        assert!(!done.stdout().contains(key));
    }
    let without = ops(&bed, &["doctor", "--json"]).await;
    assert!(
        !without.stdout().contains("\"stripe\""),
        "{}",
        without.stdout()
    );
}

/// The list that these tests trust.
#[tokio::test]
async fn the_staged_list_refuses_and_pages_as_the_documented_one() {
    let api = StripeApi::start().await;
    happen(&api, 5);
    let ask = async |query: &str| {
        let request = client().get(format!("{}/v1/events?{query}", api.url));
        let answer = request.basic_auth(TEST_KEY, Some("")).send().await.unwrap();
        assert!(answer.headers().contains_key("request-id"));
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("delivery_success=no", "delivery_success"),
        ("starting_after=evt_none", "starting_after"),
        (
            "starting_after=evt_0001&ending_before=evt_0003",
            "ending_before",
        ),
        ("colour=red", "colour"),
    ] {
        let (status, body) = ask(query).await;
        assert_eq!(
            (status, body["error"]["param"].as_str()),
            (400, Some(param)),
            "{query}"
        );
    }
    let ids = |body: &Value| -> Vec<String> {
        let data = body["data"].as_array().unwrap().iter();
        data.map(|event| event["id"].as_str().unwrap()[7..].to_owned())
            .collect()
    };
    for (query, expected, has_more) in [
        ("", "4 3 2 1 0", false),
        ("limit=2", "4 3", true),
        ("limit=2&starting_after=evt_0003", "2 1", true),
        ("limit=2&starting_after=evt_0001", "0", false),
        ("limit=2&ending_before=evt_0001", "3 2", true),
        ("delivery_success=true", "", false),
        ("type=other.type", "", false),
    ] {
        let (status, body) = ask(query).await;
        assert_eq!(
            (status, ids(&body).join(" ").as_str()),
            (200, expected),
            "{query}"
        );
        assert_eq!(body["has_more"], has_more, "{query}");
    }
}
