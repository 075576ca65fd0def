//! What the pages show, and that they show nothing else.

use harness::binaries::{Process, ops};
use harness::console::{Console, encoded};
use harness::stripe::{self, get};
use harness::{TestBed, eventually};
use serde_json::{Value, json};

use super::{GROUP, PAYLOAD, dead_event};

/// Events as if they had come one a second, the last one now.
async fn events(bed: &TestBed, from: i32, to: i32) {
    const EVENTS: &str = "
        INSERT INTO webhook_events (id, type, state, livemode, received_at, attempts, finished_at)
        SELECT 'evt_' || n, CASE WHEN n % 2 = 0 THEN 'charge.succeeded' ELSE 'invoice.paid' END, 'processed', true,
            now() - (1000 - n) * interval '1 second', 1, now()
        FROM generate_series($1::integer, $2) n";
    bed.db.execute(EVENTS, &[&from, &to]).await.unwrap();
}

#[tokio::test]
async fn every_page_is_served_with_strict_headers() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    for (path, shown) in [
        ("/", "<h1>Overview</h1>"),
        ("/events", "/events/evt_1\""),
        ("/events/evt_1", "payment_intent.succeeded"),
        ("/dead-letters", GROUP),
        (GROUP, "/events/evt_1\""),
        ("/replays", "Nothing was replayed yet."),
        ("/replays/new?filter=all", "Replay 1 event"),
        ("/reconcile", "<h1>Reconcil"),
        ("/rejections", "Nothing was refused in the last day."),
        ("/audit", "Nothing was done."),
        ("/settings", "CONSOLE_LISTEN"),
        ("/overview/charts.json", "\"received\":["),
    ] {
        let page = console.get(path).await;
        page.is(200).shows(shown);
        let header = |name: &str| page.headers[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
        page.hides("style=\"").hides(" onclick").hides("<script>");
    }
    for path in [
        "/nothing",
        "/events/evt_none",
        "/dead-letters/none",
        "/replays/7",
        "/replays/x",
    ] {
        console.get(path).await.is(404).shows("Not found");
    }
}

#[tokio::test]
async fn events_are_found_by_the_filter_that_stands_in_the_address() {
    let bed = TestBed::new().await;
    events(&bed, 1, 20).await;
    dead_event(&bed, "evt_dead", "no order is known", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    for (filter, shown, hidden) in [
        ("state:dead", "/events/evt_dead", "/events/evt_7\""),
        ("type:charge.*", "/events/evt_8\"", "/events/evt_7\""),
        ("type:invoice.paid", "/events/evt_7\"", "/events/evt_8\""),
        ("livemode:false", "/events/evt_dead", "/events/evt_8\""),
        ("id:evt_9", "/events/evt_9\"", "/events/evt_8\""),
        ("id:evt_d", "/events/evt_dead\"", "/events/evt_8\""),
        ("id:evt_de…", "/events/evt_dead\"", "/events/evt_8\""),
        ("id:evt_1", "/events/evt_1\"", "/events/evt_11\""),
        ("id:vt_1", "No event fits", "/events/evt_1\""),
        ("state:dead,ignored", "/events/evt_dead", "/events/evt_8\""),
        ("state:dead,processed", "/events/evt_8\"", "No event fits"),
        (
            "reason:order_not_found",
            "/events/evt_dead",
            "/events/evt_8\"",
        ),
        (
            "attempts:1 type:charge.succeeded",
            "/events/evt_8\"",
            "/events/evt_7\"",
        ),
        ("attempts:2", "No event fits", "/events/evt_8\""),
        (
            "fingerprint:f00dfeedf00dfeed",
            "/events/evt_dead",
            "/events/evt_8\"",
        ),
        ("type:nothing.*", "No event fits", "/events/evt_8\""),
    ] {
        let page = console
            .get(&format!("/events?filter={}", encoded(filter)))
            .await;
        page.is(200).shows(shown).hides(hidden);
        page.shows("ops events list --filter");
    }
    let wrong = console.get("/events?filter=colour:red").await;
    wrong.is(400).shows("there is no term `colour`");
}

#[tokio::test]
async fn pages_neither_repeat_nor_lose_events_that_come_meanwhile() {
    let bed = TestBed::new().await;
    events(&bed, 1, 120).await;
    let console = Console::start(&bed, &[]).await;
    let ids = |text: &str| -> Vec<String> {
        text.split("href=\"/events/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .map(str::to_owned)
            .collect()
    };
    let (mut path, mut seen) = ("/events".to_owned(), Vec::new());
    for page in 0..3 {
        let shown = console.get(&path).await;
        shown.is(200);
        seen.extend(ids(&shown.text));
        events(&bed, 200 + page * 10, 205 + page * 10).await;
        if page < 2 {
            path = shown.link("aria-label=\"Pages of events\"");
            if page > 0 {
                path = shown.link("Newest</a>");
            }
        }
    }
    let expected: Vec<String> = (1..=120).rev().map(|n| format!("evt_{n}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_page_looks_at_so_many_events_and_the_next_one_goes_on_from_there() {
    let bed = TestBed::new().await;
    const MANY: &str = "
        INSERT INTO webhook_events (id, type, state, api_version, received_at, finished_at)
        SELECT 'evt_' || n, 'some.type', 'processed', CASE WHEN n % 110000 = 2 THEN 'old' ELSE 'new' END,
            now() - (120000 - n) * interval '1 second', now() FROM generate_series(1, 120000) n;
        ANALYZE webhook_events";
    bed.db.batch_execute(MANY).await.unwrap();
    let console = Console::start(&bed, &[]).await;
    let first = console.get("/events?filter=api_version:old").await;
    first
        .is(200)
        .shows("/events/evt_110002\"")
        .shows("Looked back as far as");
    let second = console.get(&first.link("rel=\"next\"")).await;
    second.is(200).shows("Look further").hides("/events/evt_");
    let third = console.get(&second.link("rel=\"next\"")).await;
    third.is(200).shows("/events/evt_2\"").hides("Looked back");
    let list = ["events", "list", "--filter=api_version:old", "--json"];
    let found = ops(&bed, &list).await.json();
    let ids = [&found["events"][0]["id"], &found["events"][1]["id"]];
    assert_eq!(ids, ["evt_110002", "evt_2"]);
    assert!(found["next"].is_null(), "{found}");
}

#[tokio::test]
async fn payloads_are_covered_until_they_are_revealed_with_a_reason_that_is_kept() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    let covered = console.get("/events/evt_1").await;
    covered
        .is(200)
        .shows("12345678901234567890")
        .shows("[redacted]");
    covered
        .hides("jane@example.com")
        .hides("pi_1_secret_abc")
        .hides("call Jane");

    console
        .post("/events/evt_1/reveal", &[("reason", " ")])
        .await
        .is(400)
        .hides("jane@example.com");
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'event.reveal' AND actor = 'tester' AND reason = 'ticket 7'";
    assert_eq!(bed.count(audited).await, 0);
    let revealed = console
        .post("/events/evt_1/reveal", &[("reason", "ticket 7")])
        .await;
    revealed.is(200).shows("jane@example.com").shows("ticket 7");
    assert_eq!(bed.count(audited).await, 1);
    console
        .get("/events/evt_1")
        .await
        .hides("jane@example.com")
        .shows("event.reveal");
    console
        .get("/audit?action=event.reveal&event=evt_1")
        .await
        .shows("ticket 7");
}

#[tokio::test]
async fn markup_in_payloads_errors_and_notes_stays_text() {
    let bed = TestBed::new().await;
    const ATTACK: &str = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>";
    let payload = json!({ "data": { "object": { "id": ATTACK, "description": ATTACK } } });
    dead_event(&bed, "evt_<b>", ATTACK, &payload.to_string()).await;
    let console = Console::start(&bed, &[]).await;
    let form = [("state", "open"), ("note", ATTACK)];
    console.post(GROUP, &form).await.is(303);
    for path in [
        "/",
        "/events",
        "/events/evt_%3Cb%3E",
        "/dead-letters",
        GROUP,
        "/audit",
        &format!("/events?filter={}", encoded(ATTACK)),
        &format!("/audit?actor={}", encoded(ATTACK)),
    ] {
        console
            .get(path)
            .await
            .hides("<script>alert")
            .hides("<img src=x")
            .hides("<b>");
    }
    let revealed = console
        .post("/events/evt_%3Cb%3E/reveal", &[("reason", ATTACK)])
        .await;
    revealed.is(200).hides("<script>alert").hides("<img src=x");
}

#[tokio::test]
async fn the_overview_is_told_to_all_who_look_without_asking_again() {
    let bed = TestBed::new().await;
    let console = Console::start(&bed, &[]).await;
    let url = format!("http://{}/overview/stream", console.address);
    let mut answer = harness::stripe::client().get(url).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    dead_event(&bed, "evt_new", "no order", PAYLOAD).await;
    let mut told = String::new();
    while !told.contains("evt_new") {
        let chunk = answer.chunk().await.unwrap().expect("the stream goes on");
        told.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(told.contains("event: overview\nid: "), "{told}");
    let charts: Value = get(console.address, "/overview/charts.json").await.body;
    assert_eq!(charts["at"].as_array().unwrap().len(), 60);
}

#[tokio::test]
async fn the_overview_tells_how_soon_webhooks_are_answered() {
    let bed = TestBed::new().await;
    let gateway = Process::gateway(&bed, &[]).await;
    let admin = format!("http://{}", gateway.admin_address);
    let console = Console::start(&bed, &[("CONSOLE_GATEWAY_ADMIN", &admin)]).await;
    console
        .get("/")
        .await
        .shows("Time to the answer</dt><dd>–</dd>");
    eventually("the page tells it", async || {
        let body = stripe::event(&stripe::event_id(), "a.b", &json!({}));
        assert_eq!(stripe::post(gateway.address, body).await.status, 200);
        let page = console.get("/").await;
        page.text
            .contains("Time to the answer</dt><dd>≤ ")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_overview_tells_alerts_refusals_by_cause_and_who_works() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    bed.db
        .batch_execute(
            "INSERT INTO alert_states (rule, key, state, message) VALUES
             ('backlog_age', '', 'firing', 'an event waits for 90 s'), ('rescued', '', 'resolved', 'over since noon');
             INSERT INTO rejections (id, at, cause, count, client) VALUES
             ('a', now(), 'signature_stale', 7, '::1'), ('b', now() - interval '2 hours', 'signature_stale', 30, '::1'),
             ('c', now() - interval '2 days', 'signature_missing', 9, '::1')",
        )
        .await
        .unwrap();
    let console = Console::start(&bed, &[]).await;
    let page = console.get("/").await;
    page.shows("an event waits for 90 s")
        .hides("over since noon");
    let refused = page.text.split("id=\"refused\"").nth(1).unwrap();
    let refused = refused.split("</section>").next().unwrap();
    for shown in ["signature_stale", ">7<", ">37<"] {
        assert!(refused.contains(shown), "{refused}");
    }
    page.hides("signature_missing").shows(">worker-1<");
}

#[tokio::test]
async fn settings_are_shown_without_secrets_and_services_with_their_versions() {
    let bed = TestBed::new().await;
    let gateway = Process::gateway(&bed, &[]).await;
    let gateway_admin = format!("http://{}", gateway.admin_address);
    let console = Console::start(&bed, &[("CONSOLE_GATEWAY_ADMIN", &gateway_admin)]).await;
    let page = console.get("/settings").await;
    page.is(200)
        .shows("CONSOLE_READ_ONLY")
        .shows("a password is given")
        .shows("tollgate_test_ops")
        .shows(env!("CARGO_PKG_VERSION"))
        .shows("no answer")
        .hides("tollgate-test<")
        .hides("tollgate-test@");
    let console = Console::start(
        &bed,
        &[
            ("CONSOLE_PROXY_HEADER", "x-user"),
            ("CONSOLE_PROXY_SECRET", "0123456789abcdef"),
        ],
    )
    .await;
    let ann = [
        ("x-user", "ann"),
        ("x-console-proxy-secret", "0123456789abcdef"),
    ];
    let page = console.get_with("/settings", &ann).await;
    page.is(200).shows("fingerprint").hides("0123456789abcdef");
}

#[tokio::test]
async fn streams_are_bounded_and_pages_go_on_without_them() {
    let bed = TestBed::new().await;
    let console = Console::start(&bed, &[]).await;
    let url = format!("http://{}/overview/stream", console.address);
    let client = harness::stripe::client();
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(client.get(&url).send().await.unwrap());
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let refused = client.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    console.get("/").await.is(200);
    // Who leaves makes room.
    drop(streams);
    harness::eventually("a stream is free", async || {
        let again = client.get(&url).send().await.ok()?;
        (again.status() == 200).then_some(())
    })
    .await;
}
