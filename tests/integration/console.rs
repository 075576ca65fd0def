//! The console over plain HTTP, without JavaScript, under the operators' role.

use harness::binaries::{Process, run};
use harness::console::{Console, encoded, users_file};
use harness::stripe::{event, event_id, get, payment_intent, post};
use harness::{RunningWorker, TestBed};
use serde_json::{Value, json};

/// Events as if they had come one a second, the last one now.
async fn events(bed: &TestBed, from: i32, to: i32) {
    const EVENTS: &str = "
        INSERT INTO webhook_events (id, type, state, livemode, received_at, attempts, finished_at)
        SELECT 'evt_' || n, CASE WHEN n % 2 = 0 THEN 'charge.succeeded' ELSE 'invoice.paid' END, 'processed', true,
            now() - (1000 - n) * interval '1 second', 1, now()
        FROM generate_series($1::integer, $2) n";
    bed.db.execute(EVENTS, &[&from, &to]).await.unwrap();
}

/// A dead event with this payload and error.
async fn dead_event(bed: &TestBed, id: &str, error: &str, payload: &str) {
    const DEAD: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, livemode, attempts, last_error, finished_at)
            VALUES ($1, 'payment_intent.succeeded', 'dead', false, 1, $2, now()) RETURNING id
        ), body AS (INSERT INTO event_payloads (event_id, body) SELECT id, convert_to($3, 'UTF8') FROM event
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, error, worker)
            SELECT id, 1, now(), 'permanent', 'order_not_found', $2, 'worker-1' FROM event
        ) INSERT INTO dead_letters (event_id, reason, error, fingerprint)
        SELECT id, 'order_not_found', $2, 'f00dfeedf00dfeed' FROM event";
    bed.db
        .execute(DEAD, &[&id, &error, &payload])
        .await
        .unwrap();
}

const PAYLOAD: &str = r#"{"id":"evt_1","data":{"object":{"id":"pi_1","amount": 12345678901234567890,"client_secret":"pi_1_secret_abc",
 "receipt_email":"jane@example.com","metadata":{"order_id":"ord_1","note":"call Jane"}}}}"#;
const GROUP: &str = "/dead-letters/f00dfeedf00dfeed";

#[tokio::test]
async fn every_page_is_served_with_strict_headers() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    for path in [
        "/",
        "/events",
        "/events/evt_1",
        "/dead-letters",
        GROUP,
        "/replays",
        "/replays/new?filter=all",
        "/reconcile",
        "/rejections",
        "/audit",
        "/overview/charts.json",
    ] {
        let page = console.get(path).await;
        page.is(200);
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
        console.get(path).await.is(404);
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
async fn changes_from_elsewhere_and_other_hosts_are_refused() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    let (path, form) = ("/events/evt_1/retry", [("reason", "mended")]);
    let (origin, own) = console.origin();
    for headers in [
        vec![],
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "none")],
        vec![("sec-fetch-site", "cross-site"), (origin, own.as_str())],
        vec![(origin, "http://evil.example")],
        vec![(origin, "null")],
    ] {
        console.post_with(path, &form, &headers).await.is(403);
    }
    assert_eq!(bed.state("evt_1").await, "dead");
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 0);
    for host in [
        "evil.example",
        "evil.example:9090",
        "127.0.0.1.evil.example",
    ] {
        console.get_with("/", &[("host", host)]).await.is(421);
    }
    console
        .get_with("/", &[("host", "localhost:1")])
        .await
        .is(200);
    // A GET changes nothing.
    console.get(path).await.is(404);
    console
        .post_with(path, &form, &[(origin, &own)])
        .await
        .is(303);
    assert_eq!(bed.state("evt_1").await, "received");
}

fn basic(name: &str, password: &str) -> String {
    use base64::Engine;
    let credentials = format!("{name}:{password}");
    format!(
        "Basic {}",
        base64::prelude::BASE64_STANDARD.encode(credentials)
    )
}

#[tokio::test]
async fn roles_bound_what_each_user_may_do() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let file = bed.path("users");
    let users = [
        ("ann", "admin", "ann's password"),
        ("olga", "operator", "olga's password"),
        ("vic", "viewer", "vic's password"),
    ];
    users_file(&file, &users).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    let refused = console.get("/").await;
    refused.is(401).hides("Overview");
    assert!(refused.headers.contains_key("www-authenticate"));
    console
        .get_with("/", &[("authorization", &basic("vic", "wrong"))])
        .await
        .is(401);
    console
        .get_with("/", &[("authorization", &basic("nobody", "x"))])
        .await
        .is(401);

    let send = async |name: &str, path: &str, form: &[(&str, &str)]| {
        let (_, _, password) = users.iter().find(|user| user.0 == name).unwrap();
        let credentials = basic(name, password);
        let headers = [
            ("authorization", credentials.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        console.post_with(path, form, &headers).await
    };
    let reason = ("reason", "the order is there now");
    let vic = basic("vic", "vic's password");
    let seen = console
        .get_with("/events/evt_1", &[("authorization", &vic)])
        .await;
    seen.is(200).hides("Retry now").hides("Reveal</button>");
    for (path, form) in [
        ("/events/evt_1/retry", vec![reason]),
        ("/events/evt_1/reveal", vec![reason]),
        (GROUP, vec![("state", "ignored")]),
        (
            "/replays",
            vec![("filter", "all"), ("plan_hash", "x"), reason],
        ),
        ("/replays/1/cancel", vec![reason]),
    ] {
        send("vic", path, &form)
            .await
            .is(403)
            .hides("jane@example.com");
    }
    let forced = [
        ("filter", "all"),
        ("plan_hash", "x"),
        ("force", "1"),
        reason,
    ];
    send("olga", "/replays", &forced).await.is(403);
    send("ann", "/replays", &forced).await.is(409);
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 0);
    send("olga", "/events/evt_1/retry", &[reason]).await.is(303);
    let by_olga = "SELECT count(*) FROM audit_log WHERE actor = 'olga' AND action = 'event.retry'";
    assert_eq!(bed.count(by_olga).await, 1);
    // Colours are nobody's business.
    send(
        "vic",
        "/theme",
        &[("theme", "dark"), ("back", "//evil.example")],
    )
    .await
    .is(303);
}

#[tokio::test]
async fn guessing_passwords_is_cut_short() {
    let bed = TestBed::new().await;
    let file = bed.path("users");
    users_file(&file, &[("ann", "admin", "ann's password")]).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    let sign_in = async |password: &str| {
        let credentials = basic("ann", password);
        let headers = [("authorization", credentials.as_str())];
        console.get_with("/", &headers).await.status
    };
    assert_eq!(sign_in("ann's password").await, 200);
    let mut last = 0;
    for guess in 0..20 {
        last = sign_in(&format!("guess {guess}")).await;
    }
    assert_eq!(last, 429);
    // Who signed in before is not kept out by it.
    assert_eq!(sign_in("ann's password").await, 200);
}

#[tokio::test]
async fn read_only_and_proxied_consoles_hold_to_it() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(
        &bed,
        &[
            ("CONSOLE_READ_ONLY", "true"),
            ("CONSOLE_PROXY_HEADER", "x-user"),
            ("CONSOLE_PROXY_SECRET", "0123456789abcdef"),
        ],
    )
    .await;
    console.get("/").await.is(403);
    console.get_with("/", &[("x-user", "ann")]).await.is(403);
    let wrong = [
        ("x-user", "ann"),
        ("x-console-proxy-secret", "0123456789abcdeX"),
    ];
    console.get_with("/", &wrong).await.is(403);
    let ann = [
        ("x-user", "ann"),
        ("x-console-role", "admin"),
        ("x-console-proxy-secret", "0123456789abcdef"),
        ("sec-fetch-site", "same-origin"),
    ];
    let page = console.get_with("/events/evt_1", &ann).await;
    page.is(200).shows("read-only").hides("Retry now");
    for path in ["/events/evt_1/retry", "/events/evt_1/reveal", GROUP] {
        let form = [("reason", "because"), ("state", "ignored")];
        console.post_with(path, &form, &ann).await.is(403);
    }
    assert_eq!(bed.state("evt_1").await, "dead");
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 0);
}

#[tokio::test]
async fn an_address_for_others_needs_a_way_to_sign_in() {
    let variables = [
        ("DATABASE_URL", "postgres://u@127.0.0.1/d"),
        ("CONSOLE_LISTEN", "0.0.0.0:0"),
        ("CONSOLE_READ_ONLY", "perhaps"),
    ];
    let refused = run("ops", &["console"], &variables).await;
    let problems = refused.expect_code(2).stderr();
    for problem in ["CONSOLE_LISTEN", "CONSOLE_USERS_FILE", "CONSOLE_READ_ONLY"] {
        assert!(problems.contains(problem), "{problems}");
    }
}

#[tokio::test]
async fn a_group_keeps_its_state_until_it_recurs() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    let into = async |state: &str| {
        let form = [("state", state), ("note", "bug 12")];
        console.post(GROUP, &form).await.is(303);
    };
    console.post(GROUP, &[("state", "gone")]).await.is(400);
    into("acknowledged").await;
    console.get("/dead-letters").await.shows("bug 12");
    for (state, reopens) in [("resolved", true), ("ignored", false)] {
        into(state).await;
        let shown = console.get(&format!("/dead-letters?state={state}")).await;
        shown.shows(GROUP);
        console.get("/dead-letters").await.hides(GROUP);
        dead_event(&bed, &format!("evt_{state}"), "no order", PAYLOAD).await;
        let shown = console.get("/dead-letters").await;
        if reopens {
            shown.shows(GROUP).shows("came back");
        } else {
            shown.hides(GROUP);
        }
    }
    assert_eq!(
        bed.count("SELECT count(*) FROM audit_log WHERE action = 'group.change'")
            .await,
        3
    );
}

#[tokio::test]
async fn an_event_is_retried_and_its_order_shows_what_came_of_it() {
    let bed = TestBed::new().await;
    let (gateway, worker) = tokio::join!(
        Process::gateway(&bed, &[]),
        RunningWorker::start(&bed, &["--max-attempts=1"])
    );
    let id = event_id();
    let body = event(&id, "payment_intent.succeeded", &payment_intent("ord_1"));
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&id, "dead").await;
    let (gateway_admin, worker_admin) = (
        format!("http://{}", gateway.admin_address),
        format!("http://{}", worker.admin_address),
    );
    let console = Console::start(
        &bed,
        &[
            ("CONSOLE_GATEWAY_ADMIN", &gateway_admin),
            ("CONSOLE_WORKER_ADMIN", &worker_admin),
        ],
    )
    .await;
    console
        .get("/")
        .await
        .is(200)
        .shows("order_not_found")
        .shows(&id);
    bed.seed_order("ord_1").await;
    let path = format!("/events/{id}");
    let retried = console
        .post(&format!("{path}/retry"), &[("reason", "order restored")])
        .await;
    retried.is(303);
    bed.until_state(&id, "processed").await;
    let page = console.get(&path).await;
    page.shows("attempt 2: processed").shows("50.00 USD");
    page.shows("2 × valid").hides("buyer@example.com");
    page.shows("order restored");
    console
        .post(&format!("{path}/retry"), &[("reason", "again")])
        .await
        .is(409);

    let refund = event_id();
    let body = event(
        &refund,
        "charge.refunded",
        &harness::stripe::charge("ord_1", 5000),
    );
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&refund, "processed").await;
    console.get(&path).await.shows(&format!("/events/{refund}"));
    let refused = harness::stripe::post_with(gateway.address, "/webhooks/stripe", None, "{}").await;
    assert_eq!(refused.status, 400);
    console.get("/rejections").await.shows("signature_missing");
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_group_is_replayed_as_it_was_planned() {
    let bed = TestBed::new().await;
    for n in 0..3 {
        let id = format!("evt_{n}");
        let body = event(
            &id,
            "payment_intent.succeeded",
            &payment_intent(&format!("o{n}")),
        );
        dead_event(&bed, &id, "no order", &body).await;
    }
    let console = Console::start(&bed, &[]).await;
    let plan = console
        .get("/replays/new?filter=fingerprint:f00dfeedf00dfeed&rate=500")
        .await;
    plan.is(200).shows("Replay 3 events");
    let field = |name: &str| {
        let rest = plan.text.split(&format!("name=\"{name}\" value=\"")).nth(1);
        rest.unwrap().split('"').next().unwrap().to_owned()
    };
    let (filter, hash) = (field("filter"), field("plan_hash"));
    let send = async |hash: &str, reason: &str| {
        let form = [
            ("filter", filter.as_str()),
            ("plan_hash", hash),
            ("rate", "500"),
            ("reason", reason),
        ];
        console.post("/replays", &form).await
    };
    send(&hash, "short").await.is(400);
    send("0000000000000000", "orders were restored")
        .await
        .is(409);
    let started = send(&hash, "orders were restored").await;
    started.is(303);
    let path = started.headers["location"].to_str().unwrap().to_owned();
    console.get("/replays").await.shows("orders were restored");
    let _worker = RunningWorker::start(&bed, &["--max-attempts=1"]).await;
    harness::eventually("the replay is over", async || {
        let page = console.get(&path).await;
        (page.is(200).text.contains(">finished<")).then_some(())
    })
    .await;
    let page = console.get(&format!("{path}?outcome=dead_again")).await;
    page.shows("/events/evt_0").shows("3 of 3 put back");
    console
        .post(&format!("{path}/cancel"), &[("reason", "too late")])
        .await
        .is(409);
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
