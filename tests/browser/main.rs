//! The console in a real browser: headless Chromium, driven over WebDriver. Run it with `./deploy/test --browser`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chromium;
mod scenery;

use chromium::Browser;
use harness::binaries::Process;
use harness::console::{Console, users_file};
use harness::stripe::{event, payment_intent, post};
use harness::{RunningWorker, TestBed};
use serde_json::json;

const PASSWORD: &str = "correct-horse";
/// Events of the group that is replayed.
const GROUP: usize = 300;

struct Stage {
    bed: TestBed,
    gateway: Process,
    _worker: RunningWorker,
    console: Console,
}

/// Everything runs; some events are dead because their orders are not there yet.
async fn stage(dead: usize) -> Stage {
    let bed = TestBed::new().await;
    let (gateway, worker) = tokio::join!(
        Process::gateway(&bed, &[]),
        RunningWorker::start(&bed, &["--max-attempts=1"])
    );
    for n in 0..dead {
        let mut intent = payment_intent(&format!("ord_{n}"));
        intent["receipt_email"] = json!("jane@example.com");
        intent["description"] = json!("<script>document.title = 'owned'</script>");
        let body = event(&format!("evt_{n}"), "payment_intent.succeeded", &intent);
        assert_eq!(post(gateway.address, body).await.status, 200);
    }
    let dead = i64::try_from(dead).unwrap();
    bed.until_count("SELECT count(*) FROM dead_letters", dead)
        .await;
    let file = bed.path("users");
    users_file(&file, &[("olga", "operator", PASSWORD)]).await;
    let (gateway_admin, worker_admin) = (
        format!("http://{}", gateway.admin_address),
        format!("http://{}", worker.admin_address),
    );
    let console = Console::start(
        &bed,
        &[
            ("CONSOLE_USERS_FILE", file.to_str().unwrap()),
            ("CONSOLE_GATEWAY_ADMIN", &gateway_admin),
            ("CONSOLE_WORKER_ADMIN", &worker_admin),
        ],
    )
    .await;
    Stage {
        bed,
        gateway,
        _worker: worker,
        console,
    }
}

async fn seed(bed: &TestBed, orders: usize) {
    let order = |n| json!({ "id": format!("ord_{n}"), "email": "b@example.com", "items": [{ "product": "ga", "quantity": 2 }] });
    bed.seed(&json!({
        "products": [{ "id": "ga", "kind": "seat", "name": "GA", "unit_amount_cents": 2500, "currency": "usd", "capacity": 1000 }],
        "orders": (0..orders).map(order).collect::<Vec<_>>(),
    }))
    .await;
}

#[tokio::test]
async fn a_failed_event_is_found_read_and_retried() {
    let stage = stage(3).await;
    let browser = Browser::start(Screen::Desk).await;
    browser.sign_in(&stage.console, "olga", PASSWORD).await;
    browser.until("#live-state", "live").await;
    assert_eq!(browser.count(".uplot canvas").await, 3);

    browser.open("/events").await;
    browser.press("/").await;
    browser.fill("#filter", "state:dead id:evt_1\n").await;
    browser.until("tbody tr", "evt_1").await;
    browser.press("j").await;
    browser.click("tbody tr.at a").await;
    browser.until("h1", "payment_intent.succeeded").await;
    browser
        .until(".notice .error", "no order is known by")
        .await;
    let payload = browser.text(".payload").await;
    assert!(
        payload.contains("\"receipt_email\": \"[redacted]\""),
        "{payload}"
    );
    assert!(payload.contains("<script>"), "{payload}");
    assert!(!browser.title().await.contains("owned"));

    seed(&stage.bed, 3).await;
    browser
        .fill("#retry-reason", "the order was restored")
        .await;
    browser.click(".notice .button.primary").await;
    stage.bed.until_state("evt_1", "processed").await;
    browser.open("/events/evt_1").await;
    browser.until("h1", "processed").await;
    browser.until("main", "2 × valid").await;
    browser.until("main", "the order was restored").await;
    browser.stop().await;
    drop(stage.gateway);
}

#[tokio::test]
async fn a_group_is_replayed_with_plan_reason_pause_and_resume() {
    let stage = stage(GROUP).await;
    seed(&stage.bed, GROUP).await;
    let browser = Browser::start(Screen::Desk).await;
    browser.sign_in(&stage.console, "olga", PASSWORD).await;
    browser.open("/dead-letters").await;
    browser.click("tbody tr a").await;
    browser.click(".top .button.primary").await;
    browser.until("h1", "Plan a replay").await;
    browser.fill("#filter", "type:payment_intent.*\n").await;
    browser.until("#planned", &GROUP.to_string()).await;
    browser.fill("#reason", "the orders were restored").await;
    browser.click("#start ~ form button").await;
    browser.until("#state", "running").await;
    browser.fill("#reason", "wait a little").await;
    browser.click("button[formaction$=pause]").await;
    browser.until("#state", "paused").await;
    let processed = "SELECT count(*) FROM webhook_events WHERE state = 'processed'";
    assert!(stage.bed.count(processed).await < i64::try_from(GROUP).unwrap());
    assert!(browser.requests().await > 0, "it is looked at");
    browser.hide_tab().await;
    browser.requests().await;
    assert_eq!(browser.requests().await, 0, "nobody looks");
    browser.fill("#reason", "go on").await;
    browser.click("button[formaction$=resume]").await;
    browser.until("#state", "finished").await;
    browser
        .until("#progress", &format!("{GROUP} of {GROUP} put back"))
        .await;
    stage
        .bed
        .until_count(processed, i64::try_from(GROUP).unwrap())
        .await;
    stage.bed.check_invariants().await;
    browser.stop().await;
}

/// Somewhere between a phone and a desk.
#[derive(Clone, Copy)]
enum Screen {
    Desk,
    Phone,
}

/// Every page: its picture's name, and its path.
async fn pages(bed: &TestBed) -> Vec<(&'static str, String)> {
    let group = bed
        .text(
            "SELECT fingerprint FROM dead_letters WHERE event_id IS NOT NULL AND resolved_at IS NULL
             GROUP BY 1 ORDER BY count(*) DESC LIMIT 1",
        )
        .await;
    let dead = bed
        .text("SELECT min(event_id) FROM dead_letters WHERE reason = 'mail_refused'")
        .await;
    let running = bed.count("SELECT max(id) FROM replays").await;
    vec![
        ("overview", "/".to_owned()),
        ("events", "/events".to_owned()),
        ("events-none", "/events?filter=type:none".to_owned()),
        ("problem", "/events?filter=colour:red".to_owned()),
        ("event-dead", "/events/evt_1".to_owned()),
        ("event-tried-often", format!("/events/{dead}")),
        ("event-processed", "/events/evt_ord_9_paid".to_owned()),
        ("groups", "/dead-letters".to_owned()),
        ("group", format!("/dead-letters/{group}")),
        ("replays", "/replays".to_owned()),
        ("plan", "/replays/new?filter=all".to_owned()),
        ("replay", "/replays/1".to_owned()),
        ("reconcile", "/reconcile".to_owned()),
        ("replay-running", format!("/replays/{running}")),
        ("rejections", "/rejections".to_owned()),
        ("audit", "/audit".to_owned()),
        ("settings", "/settings".to_owned()),
        ("not-found", "/nothing".to_owned()),
    ]
}

#[tokio::test]
async fn every_page_is_accessible_in_both_colours_on_a_desk_and_on_a_phone() {
    let stage = stage(4).await;
    stage.bed.seed_order("ord_9").await;
    for body in scenery::story("ord_9") {
        assert_eq!(post(stage.gateway.address, body).await.status, 200);
    }
    seed(&stage.bed, 1).await;
    let browser = Browser::start(Screen::Desk).await;
    browser.sign_in(&stage.console, "olga", PASSWORD).await;
    browser.open("/replays/new?filter=id:evt_0").await;
    browser.fill("#reason", "the order was restored").await;
    browser.click("#start ~ form button").await;
    browser.until("#state", "finished").await;
    scenery::fill(&stage.bed).await;
    let pages = pages(&stage.bed).await;
    let mut findings = look_at(&browser, &pages, "desk").await;
    browser.stop().await;
    let phone = Browser::start(Screen::Phone).await;
    phone.sign_in(&stage.console, "olga", PASSWORD).await;
    findings.extend(look_at(&phone, &pages, "phone").await);
    for (name, path) in &pages {
        phone.open(path).await;
        if phone.is_wider_than_its_screen().await {
            findings.push(format!("{name} must be moved sideways on a phone"));
        }
    }
    phone.stop().await;
    assert!(findings.is_empty(), "{findings:#?}");
}

/// Keeps a picture of each page in both colours, and tells what keeps people from using it.
async fn look_at(browser: &Browser, pages: &[(&str, String)], screen: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for theme in ["light", "dark"] {
        browser.open("/").await;
        browser
            .click(&format!(".theme button[value={theme}]"))
            .await;
        browser.until(".theme [aria-pressed=true]", theme).await;
        for (name, path) in pages {
            browser.open(path).await;
            let found = browser.serious_findings().await;
            let told = |line| format!("{path} in {theme} on a {screen}: {line}");
            findings.extend(found.into_iter().map(told));
            browser.picture(&format!("{name}-{screen}-{theme}")).await;
        }
    }
    findings
}
