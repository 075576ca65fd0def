//! Mirrors of subscriptions and invoices: the newest news wins, whatever arrives last.

use harness::stripe::{event_id, post};
use harness::{RunningGateway, RunningWorker, TestBed};
use serde_json::{Value, json};

fn event_at(created: i64, event_type: &str, object: &Value) -> (String, String) {
    let id = event_id();
    let event = json!({ "id": id, "object": "event", "created": created, "livemode": false, "type": event_type,
        "data": { "object": object } });
    (id, event.to_string())
}

fn subscription(id: &str, status: &str) -> Value {
    json!({ "id": id, "customer": "cus_1", "status": status, "cancel_at_period_end": false,
        "items": { "data": [{ "current_period_end": 1_800_000_000 }] } })
}

async fn process(bed: &TestBed, gateway: &RunningGateway, (id, body): (String, String)) {
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&id, "processed").await;
}

#[tokio::test]
async fn a_subscription_is_as_its_newest_event_says_in_any_order() {
    const SECOND: i64 = 1_700_000_000;
    let bed = TestBed::new().await;
    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &[])
    );
    let orders = [
        [0, 1, 2, 3],
        [3, 2, 1, 0],
        [2, 3, 0, 1],
        [1, 3, 2, 0],
        [3, 0, 1, 2],
    ];
    for (n, order) in orders.iter().enumerate() {
        let id = format!("sub_{n}");
        // Created, active and past due in one second; then deleted.
        let events = [
            event_at(
                SECOND,
                "customer.subscription.created",
                &subscription(&id, "incomplete"),
            ),
            event_at(
                SECOND,
                "customer.subscription.updated",
                &subscription(&id, "active"),
            ),
            event_at(
                SECOND + 60,
                "customer.subscription.updated",
                &subscription(&id, "past_due"),
            ),
            event_at(
                SECOND + 60,
                "customer.subscription.deleted",
                &subscription(&id, "canceled"),
            ),
        ];
        for index in order {
            process(&bed, &gateway, events[*index].clone()).await;
        }
    }
    let mirrored =
        "SELECT count(*) FROM subscriptions WHERE status = 'canceled' AND customer = 'cus_1'
        AND current_period_end = to_timestamp(1800000000)";
    assert_eq!(bed.count(mirrored).await, 5);
    let started = subscription("sub_new", "active");
    process(
        &bed,
        &gateway,
        event_at(SECOND, "customer.subscription.updated", &started),
    )
    .await;
    let created = subscription("sub_new", "incomplete");
    process(
        &bed,
        &gateway,
        event_at(SECOND, "customer.subscription.created", &created),
    )
    .await;
    assert_eq!(
        bed.text("SELECT status FROM subscriptions WHERE id = 'sub_new'")
            .await,
        "active"
    );
}

#[tokio::test]
async fn a_failed_invoice_is_mirrored_and_told_unless_it_was_paid_since() {
    const SECOND: i64 = 1_700_000_000;
    let bed = TestBed::new().await;
    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &[])
    );
    let invoice = |id: &str| {
        json!({ "id": id, "number": format!("N-{id}"), "customer": "cus_1", "customer_email": "c@example.com",
            "currency": "jpy", "amount_due": 900, "amount_paid": 900,
            "parent": { "subscription_details": { "subscription": "sub_1" } } })
    };
    process(
        &bed,
        &gateway,
        event_at(SECOND, "invoice.payment_failed", &invoice("in_1")),
    )
    .await;
    process(
        &bed,
        &gateway,
        event_at(SECOND, "invoice.paid", &invoice("in_1")),
    )
    .await;
    process(
        &bed,
        &gateway,
        event_at(SECOND, "invoice.paid", &invoice("in_2")),
    )
    .await;
    process(
        &bed,
        &gateway,
        event_at(SECOND, "invoice.payment_failed", &invoice("in_2")),
    )
    .await;
    let paid = "SELECT count(*) FROM invoices WHERE status = 'paid' AND subscription_id = 'sub_1' AND amount_cents = 900";
    assert_eq!(bed.count(paid).await, 2);
    let mail = "SELECT string_agg(kind || ' ' || recipient || ' ' || (content->>'amount') || ' ' || (content->>'order_id'), ', ')
        FROM emails";
    assert_eq!(
        bed.text(mail).await,
        "invoice_failed c@example.com 900 JPY N-in_1"
    );
}
