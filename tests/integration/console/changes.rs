//! What operators change: retries, replays, groups, and giving up.

use harness::binaries::Process;
use harness::console::Console;
use harness::stripe::{event, event_id, payment_intent, post};
use harness::{RunningWorker, TestBed};

use super::{GROUP, PAYLOAD, dead_event};

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
    for state in ["resolved", "ignored"] {
        let form = [("state", state), ("note", " ")];
        console
            .post(GROUP, &form)
            .await
            .is(400)
            .shows("takes a note");
    }
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
    let everything = [
        ("filter", ""),
        ("plan_hash", hash.as_str()),
        ("reason", "all of them"),
    ];
    console.post("/replays", &everything).await.is(400);
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
async fn a_dead_event_and_a_group_are_discarded_with_a_reason_that_is_kept() {
    let bed = TestBed::new().await;
    for n in 1..=3 {
        dead_event(&bed, &format!("evt_{n}"), "no order", PAYLOAD).await;
    }
    bed.db
        .batch_execute(
            "INSERT INTO dead_letters (reason, error, fingerprint, message) VALUES ('undecodable', 'e', 'f00dfeedf00dfeed', 'm')",
        )
        .await
        .unwrap();
    let console = Console::start(&bed, &[]).await;
    let one = "/events/evt_1/discard";
    console.post(one, &[("reason", " ")]).await.is(400);
    assert_eq!(bed.state("evt_1").await, "dead");
    console.post(one, &[("reason", "not ours")]).await.is(303);
    assert_eq!(bed.state("evt_1").await, "discarded");
    console.post(one, &[("reason", "again")]).await.is(409);
    let page = console.get("/events/evt_1").await;
    page.shows("not ours").shows("discarded").hides("Retry now");

    let all = format!("{GROUP}/discard");
    let shown = console.get(GROUP).await;
    shown.shows("Discard all 3 open letters");
    let send = async |count: &str| {
        console
            .post(&all, &[("count", count), ("reason", "closed")])
            .await
    };
    send("2").await.is(409);
    send("x").await.is(400);
    assert_eq!(bed.state("evt_2").await, "dead");
    send("3").await.is(303);
    assert_eq!(bed.state("evt_3").await, "discarded");
    send("3").await.is(409);
    assert_eq!(
        bed.count("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL")
            .await,
        0
    );
    let audit = bed
        .text("SELECT string_agg(reason || ' ' || (details->>'done'), ', ' ORDER BY id) FROM audit_log WHERE action = 'dead_letters.discard' AND actor = 'tester'")
        .await;
    assert_eq!(audit, "not ours 1, closed 3");
}
