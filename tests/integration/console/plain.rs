//! The whole of an operator's work over plain HTTP, as a browser without scripts does it: pages, links and forms.

use harness::binaries::Process;
use harness::console::{Console, Page, users_file};
use harness::stripe::{event, payment_intent, post};
use harness::{RunningWorker, TestBed, eventually};
use serde_json::json;

use super::access::basic;

/// Events whose orders are not there yet.
const GROUP: usize = 300;
const PASSWORD: &str = "correct-horse";

/// Somebody who is signed in.
struct Visitor<'a> {
    console: &'a Console,
    credentials: String,
}

impl Visitor<'_> {
    async fn get(&self, path: &str) -> Page {
        let headers = [("authorization", self.credentials.as_str())];
        self.console.get_with(path, &headers).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Page {
        let headers = [
            ("authorization", self.credentials.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        self.console.post_with(path, form, &headers).await
    }
}

fn field(page: &Page, name: &str) -> String {
    let rest = page.text.split(&format!("name=\"{name}\" value=\"")).nth(1);
    rest.unwrap().split('"').next().unwrap().to_owned()
}

const DEAD: &str = "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL";

/// The events come, and die.
async fn die(bed: &TestBed, gateway: &Process) {
    for n in 0..GROUP {
        let mut intent = payment_intent(&format!("ord_{n}"));
        intent["receipt_email"] = json!("jane@example.com");
        let body = event(&format!("evt_{n}"), "payment_intent.succeeded", &intent);
        assert_eq!(post(gateway.address, body).await.status, 200);
    }
    bed.until_count(DEAD, i64::try_from(GROUP).unwrap()).await;
}

/// Their orders are there.
async fn restore(bed: &TestBed) {
    let order = |n| json!({ "id": format!("ord_{n}"), "email": "b@example.com", "items": [{ "product": "ga", "quantity": 2 }] });
    bed.seed(&json!({
        "products": [{ "id": "ga", "kind": "seat", "name": "GA", "unit_amount_cents": 2500, "currency": "usd", "capacity": 1000 }],
        "orders": (0..GROUP).map(order).collect::<Vec<_>>(),
    }))
    .await;
}

/// The rest of the group: plan, reason, pause, resume.
async fn replay_the_rest(bed: &TestBed, olga: &Visitor<'_>) {
    let group = olga.get("/dead-letters").await.link("<tbody");
    let plan = olga.get(&group).await.link("button primary");
    let plan = olga.get(&plan).await;
    plan.is(200).shows(&format!("Replay {} events", GROUP - 1));
    let (filter, hash) = (field(&plan, "filter"), field(&plan, "plan_hash"));
    let start = [
        ("filter", filter.as_str()),
        ("plan_hash", &hash),
        ("rate", "60"),
        ("reason", "the orders were restored"),
    ];
    let started = olga.post("/replays", &start).await;
    started.is(303);
    let path = started.headers["location"].to_str().unwrap().to_owned();
    bed.until_some("SELECT cursor::bigint FROM replays").await;
    let why = [("reason", "wait a little")];
    olga.post(&format!("{path}/pause"), &why).await.is(303);
    olga.get(&path)
        .await
        .shows(">paused<")
        .shows("wait a little");
    bed.until_count("SELECT in_flight::bigint FROM replays", 0)
        .await;
    let open = bed.count(DEAD).await;
    assert!(open > 0, "it was over before it was paused");
    let why = [("reason", "go on")];
    olga.post(&format!("{path}/resume"), &why).await.is(303);
    eventually("the replay is over", async || {
        let page = olga.get(&path).await;
        page.is(200).text.contains(">finished<").then_some(())
    })
    .await;
    olga.get(&path)
        .await
        .shows(&format!("{0} of {0} put back", GROUP - 1));
}

#[tokio::test]
async fn a_failed_event_is_read_and_retried_and_its_group_replayed_without_a_script() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = tokio::join!(
        Process::gateway(&bed, &[]),
        RunningWorker::start(&bed, &["--max-attempts=1"])
    );
    die(&bed, &gateway).await;
    let file = bed.path("users");
    users_file(&file, &[("olga", "operator", PASSWORD)]).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    console.get("/events").await.is(401);
    let olga = Visitor {
        console: &console,
        credentials: basic("olga", PASSWORD),
    };

    // Found by a filter, with its error, and its payload covered.
    let found = olga.get("/events?filter=state%3Adead+id%3Aevt_1").await;
    found.is(200).hides("/events/evt_2");
    let path = found.link("<tbody");
    let shown = olga.get(&path).await;
    shown
        .shows("order_not_found")
        .shows("no order is known by")
        .shows("[redacted]")
        .hides("jane@example.com");

    restore(&bed).await;
    let reason = [("reason", "the order was restored")];
    olga.post(&format!("{path}/retry"), &reason).await.is(303);
    bed.until_state("evt_1", "processed").await;
    olga.get(&path)
        .await
        .shows("2 × valid")
        .shows("the order was restored");

    replay_the_rest(&bed, &olga).await;
    let processed = "SELECT count(*) FROM webhook_events WHERE state = 'processed'";
    assert_eq!(bed.count(processed).await, i64::try_from(GROUP).unwrap());
    let audited = "SELECT count(*) FROM audit_log WHERE actor = 'olga' AND action IN ('event.retry', 'replay.planned')";
    assert_eq!(bed.count(audited).await, 2);
    bed.check_invariants().await;
}
