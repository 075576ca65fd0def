//! What becomes of events: each outcome of the worker, on the whole path from webhook to effects.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use harness::broker::Broker;
use harness::stripe::{charge, event, event_id, payment_intent, post, session};
use harness::{RunningGateway, RunningWorker, TestBed};
use serde_json::{Value, json};
use worker::event::Event;
use worker::handlers::{Failure, Handler, Outcome, Registry};

/// Sends an event and returns its id.
async fn send(gateway: &RunningGateway, event_type: &str, object: &Value) -> String {
    let id = event_id();
    assert_eq!(
        post(gateway.address, event(&id, event_type, object))
            .await
            .status,
        200
    );
    id
}

async fn start(bed: &TestBed) -> (RunningGateway, RunningWorker) {
    tokio::join!(
        RunningGateway::start(bed, &[]),
        RunningWorker::start(bed, &[])
    )
}

const PAID: &str = "SELECT count(*) FROM orders WHERE status = 'paid'";
const ACTIVE: &str = "SELECT count(*) FROM registrations WHERE status = 'active'";
const VALID: &str = "SELECT count(*) FROM tickets WHERE status = 'valid'";

#[tokio::test]
async fn a_success_pays_activates_issues_tickets_and_mails() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let id = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    bed.until_state(&id, "processed").await;
    assert_eq!(
        (
            bed.count(PAID).await,
            bed.count(ACTIVE).await,
            bed.count(VALID).await
        ),
        (1, 2, 2)
    );
    let payment = bed.row("SELECT order_id, provider, provider_payment_ref, status, amount_cents, currency FROM payments", &[]).await;
    let payment: Vec<String> = (0..4).map(|column| payment.get(column)).collect();
    assert_eq!(payment, ["ord_1", "stripe", "pi_ord_1", "succeeded"]);
    assert_eq!(
        bed.text("SELECT kind || ' ' || recipient FROM emails")
            .await,
        "order_paid buyer@example.com"
    );
    let attempt = bed
        .row(
            "SELECT number, outcome, error, worker, trace_id FROM event_attempts",
            &[],
        )
        .await;
    assert_eq!(
        (attempt.get::<_, i32>(0), attempt.get::<_, &str>(1)),
        (1, "processed")
    );
    assert_eq!(attempt.get::<_, Option<&str>>(2), None);
    assert_eq!(attempt.get::<_, &str>(4).len(), 32);
    bed.check_invariants().await;
}

#[tokio::test]
async fn two_events_of_one_payment_fulfill_once() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let intent = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    let checkout = send(&gateway, "checkout.session.completed", &session("ord_1")).await;
    let again = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    for id in [&intent, &checkout, &again] {
        bed.until_state(id, "processed").await;
    }
    assert_eq!(
        (
            bed.count(VALID).await,
            bed.count("SELECT count(*) FROM emails").await
        ),
        (2, 1)
    );
    assert_eq!(bed.count("SELECT count(*) FROM payments").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_failure_cancels_with_its_reason_and_a_later_success_pays() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let failed = send(
        &gateway,
        "payment_intent.payment_failed",
        &payment_intent("ord_1"),
    )
    .await;
    bed.until_state(&failed, "processed").await;
    let reason = bed
        .text("SELECT status || ': ' || status_reason FROM orders")
        .await;
    assert_eq!(reason, "cancelled: Your card has insufficient funds.");
    assert_eq!(bed.text("SELECT kind FROM emails").await, "payment_failed");
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 0);

    let paid = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    bed.until_state(&paid, "processed").await;
    assert_eq!((bed.count(PAID).await, bed.count(VALID).await), (1, 2));
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_full_refund_revokes_and_frees_the_seats() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let paid = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    bed.until_state(&paid, "processed").await;
    let partly = send(&gateway, "charge.refunded", &charge("ord_1", 2_000)).await;
    bed.until_state(&partly, "processed").await;
    assert_eq!((bed.count(PAID).await, bed.count(VALID).await), (1, 2));

    let refunded = send(&gateway, "charge.refunded", &charge("ord_1", 5_000)).await;
    bed.until_state(&refunded, "processed").await;
    assert_eq!(bed.text("SELECT status FROM orders").await, "refunded");
    assert_eq!(
        bed.count("SELECT count(*) FROM registrations WHERE status = 'cancelled'")
            .await,
        2
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM tickets WHERE status = 'void'")
            .await,
        2
    );
    assert_eq!(
        bed.count("SELECT refunded_cents FROM payments WHERE status = 'refunded'")
            .await,
        5_000
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE kind = 'order_refunded'")
            .await,
        1
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn an_order_is_found_by_each_of_its_names() {
    let bed = TestBed::new().await;
    let order = |id: &str, reference: Value| {
        json!({ "id": id, "user_id": "u", "email": "b@example.com", "provider_checkout_ref": reference,
            "items": [{ "product": "rust", "quantity": 1 }] })
    };
    bed.seed(&json!({
        "products": [{ "id": "rust", "kind": "course", "name": "Rust", "unit_amount_cents": 5000, "currency": "usd" }],
        "orders": [order("a", Value::Null), order("b", Value::Null), order("c", "pi_c".into()), order("d", "cs_d".into())],
    }))
    .await;
    let (gateway, _worker) = start(&bed).await;
    let mut by_camel_case = payment_intent("a");
    by_camel_case["metadata"] = json!({ "orderId": "a" });
    let mut by_intent = payment_intent("c");
    by_intent["metadata"] = json!({});
    let mut by_session = session("d");
    by_session["id"] = "cs_d".into();
    by_session["client_reference_id"] = Value::Null;
    let events = [
        ("payment_intent.succeeded", by_camel_case),
        ("checkout.session.completed", session("b")),
        ("payment_intent.succeeded", by_intent),
        ("checkout.session.completed", by_session),
    ];
    for (event_type, object) in &events {
        let id = send(&gateway, event_type, object).await;
        bed.until_state(&id, "processed").await;
    }
    assert_eq!(bed.count(PAID).await, 4);
    // One buyer, one course: it is bought once, whatever was paid.
    assert_eq!(bed.count("SELECT count(*) FROM course_purchases").await, 1);
}

#[tokio::test]
async fn what_is_not_for_us_is_ignored() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let unknown = send(&gateway, "some.new.type", &json!({})).await;
    let mut unpaid = session("ord_1");
    unpaid["payment_status"] = "unpaid".into();
    let unpaid = send(&gateway, "checkout.session.completed", &unpaid).await;
    let live = event_id();
    let body = event(&live, "payment_intent.succeeded", &payment_intent("ord_1"));
    assert_eq!(
        post(
            gateway.address,
            body.replace("\"livemode\": false", "\"livemode\": true")
        )
        .await
        .status,
        200
    );
    let unhandled = event_id();
    let body = event(&unhandled, "some.new.type", &json!({}));
    let body = body.replace("\"livemode\": false", "\"livemode\": true");
    assert_eq!(post(gateway.address, body).await.status, 200);
    // Of an invoice, which tells by itself what became of it.
    let mut renewal = payment_intent("nobody");
    (renewal["metadata"], renewal["invoice"]) = (json!({}), "in_1".into());
    let mut renewals = Vec::new();
    for event_type in ["succeeded", "payment_failed", "canceled"] {
        renewals.push(send(&gateway, &format!("payment_intent.{event_type}"), &renewal).await);
    }
    let renewals = renewals.iter().map(|id| (id, "of_an_invoice"));
    for (id, reason) in [
        (&unknown, "no_handler"),
        (&unpaid, "not_paid_yet"),
        (&live, "wrong_mode"),
        (&unhandled, "wrong_mode"),
    ]
    .into_iter()
    .chain(renewals)
    {
        bed.until_state(id, "ignored").await;
        let row = bed
            .row(
                "SELECT error_kind FROM event_attempts WHERE event_id = $1",
                &[id],
            )
            .await;
        assert_eq!(row.get::<_, &str>(0), reason);
    }
    assert_eq!(bed.text("SELECT status FROM orders").await, "pending");
    bed.check_invariants().await;
}

#[tokio::test]
async fn what_can_never_succeed_is_dead_at_the_first_attempt() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let with = |field: &str, value: Value| {
        let mut intent = payment_intent("ord_1");
        intent[field] = value;
        intent
    };
    for (object, reason) in [
        (with("amount_received", 4_999.into()), "amount_mismatch"),
        (with("currency", "eur".into()), "currency_mismatch"),
        (with("currency", 7.into()), "invalid_payload"),
        (json!([]), "invalid_payload"),
        (Value::Null, "invalid_payload"),
    ] {
        let id = send(&gateway, "payment_intent.succeeded", &object).await;
        bed.until_state(&id, "dead").await;
        let letter = bed
            .row(
                "SELECT reason, error, fingerprint FROM dead_letters WHERE event_id = $1",
                &[&id],
            )
            .await;
        assert_eq!(letter.get::<_, &str>(0), reason);
        assert_eq!(letter.get::<_, &str>(2).len(), 16);
        assert_eq!(
            bed.row("SELECT attempts FROM webhook_events WHERE id = $1", &[&id])
                .await
                .get::<_, i32>(0),
            1
        );
    }
    assert_eq!(bed.text("SELECT status FROM orders").await, "pending");
    assert_eq!(
        bed.count("SELECT count(*) FROM alerts WHERE kind LIKE '%_mismatch'")
            .await,
        2
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn an_unknown_order_is_retried_and_found_once_it_is_there() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let _worker = RunningWorker::start(&bed, &["--max-attempts=1000"]).await;
    let id = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    bed.until_state(&id, "retrying").await;
    bed.seed_order("ord_1").await;
    bed.until_state(&id, "processed").await;
    assert_eq!(bed.count(PAID).await, 1);
    assert_eq!(
        bed.text("SELECT string_agg(DISTINCT error_kind, ',') FROM event_attempts")
            .await,
        "order_not_found"
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn attempts_end_with_a_dead_letter() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed).await;
    let id = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("nowhere"),
    )
    .await;
    bed.until_state(&id, "dead").await;
    assert_eq!(
        bed.count("SELECT count(*) FROM event_attempts WHERE outcome = 'transient'")
            .await,
        3
    );
    assert_eq!(
        bed.text("SELECT reason FROM dead_letters").await,
        "order_not_found"
    );
    assert_eq!(bed.count("SELECT count(*) FROM outbox").await, 0);
    bed.check_invariants().await;
}

/// Panics until an order exists, after writing an effect that must not survive.
struct Panicking;

impl Handler for Panicking {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            tx.execute("UPDATE orders SET status = 'paid'", &[])
                .await
                .unwrap();
            panic!("about {}", event.id);
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_panic_counts_as_a_failed_attempt_and_leaves_no_effect() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let worker =
        RunningWorker::start_with(&bed, Registry::default().with("test.panic", Panicking), &[])
            .await;
    let id = send(&gateway, "test.panic", &json!({})).await;
    bed.until_state(&id, "dead").await;
    assert_eq!(bed.text("SELECT reason FROM dead_letters").await, "panic");
    assert_eq!(
        bed.count("SELECT attempts::bigint FROM webhook_events")
            .await,
        3
    );
    assert_eq!(bed.text("SELECT status FROM orders").await, "pending");
    let ignored = send(&gateway, "test.other", &json!({})).await;
    bed.until_state(&ignored, "ignored").await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn two_workers_and_fifty_deliveries_make_one_attempt() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let id = send(
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    let broker = Broker::connect(&bed).await;
    join_all((0..50).map(|_| broker.publish(&id))).await;
    let (_one, _two) = tokio::join!(
        RunningWorker::start(&bed, &[]),
        RunningWorker::start(&bed, &[])
    );
    bed.until_state(&id, "processed").await;
    harness::eventually("the queue is empty", async || {
        (broker.ready().await == 0).then_some(())
    })
    .await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    assert_eq!(
        (
            bed.count(VALID).await,
            bed.count("SELECT count(*) FROM emails").await
        ),
        (2, 1)
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn poison_messages_are_kept_whole_and_their_neighbours_survive() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let broker = Broker::connect(&bed).await;
    let poison: [&[u8]; 4] = [
        b"not json",
        b"\xff\x00",
        b"{\"event_id\":7}",
        b"{\"event_id\":\"evt_not_stored\"}",
    ];
    let mut innocents = Vec::new();
    for bytes in poison {
        innocents.push(send(&gateway, "some.type", &json!({})).await);
        broker.publish_raw(bytes).await;
    }
    let _worker = RunningWorker::start(&bed, &[]).await;
    for id in &innocents {
        bed.until_state(id, "ignored").await;
    }
    bed.until_count("SELECT count(*) FROM dead_letters", 4)
        .await;
    for bytes in poison {
        let kept = bed
            .row(
                "SELECT count(*) FROM dead_letters WHERE message = $1 AND event_id IS NULL",
                &[&bytes],
            )
            .await;
        assert_eq!(kept.get::<_, i64>(0), 1, "{bytes:?}");
    }
    assert_eq!(
        bed.count("SELECT count(*) FROM dead_letters WHERE reason = 'unknown_event'")
            .await,
        1
    );
    bed.check_invariants().await;
}
