//! Orders, seats and money on the whole path: every way in which money moves, capacity, holds and the waitlist.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use harness::stripe::{charge, event, event_id, payment_intent, post, session};
use harness::{RunningGateway, RunningWorker, SEAT_TIMES, TestBed};
use serde_json::{Value, json};
use shared::database::{self, Durability, PoolSettings};
use shared::money::Money;
use shared::orders::cart::CartLine;
use shared::orders::store::creation::Buyer;
use shared::orders::store::desk::Desk;
use shared::orders::{Fact, News, OrderStatus};

async fn start(bed: &TestBed, args: &[&str]) -> (RunningGateway, RunningWorker) {
    tokio::join!(
        RunningGateway::start(bed, &[]),
        RunningWorker::start(bed, args)
    )
}

/// Sends an event and waits until it is processed.
async fn process(bed: &TestBed, gateway: &RunningGateway, event_type: &str, object: &Value) {
    let id = event_id();
    assert_eq!(
        post(gateway.address, event(&id, event_type, object))
            .await
            .status,
        200
    );
    bed.until_state(&id, "processed").await;
}

/// Loads orders of one seat each at 50.00 USD; some of them wait.
async fn seed_seats(bed: &TestBed, capacity: usize, orders: &[String], waiting: &[&str]) {
    let order = |id: &String| {
        json!({ "id": id, "email": format!("{id}@example.com"), "waitlisted": waiting.contains(&id.as_str()),
            "items": [{ "product": "seat", "quantity": 1 }] })
    };
    let product = json!({ "id": "seat", "kind": "seat", "name": "Seat", "unit_amount_cents": 5000,
        "currency": "usd", "capacity": capacity });
    let orders: Vec<Value> = orders.iter().map(order).collect();
    bed.seed(&json!({ "products": [product], "orders": orders }))
        .await;
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn seats(bed: &TestBed, status: &str) -> i64 {
    let sql = "SELECT count(*) FROM registrations WHERE status = $1";
    bed.row(sql, &[&status]).await.get(0)
}

#[tokio::test]
async fn partial_refunds_are_told_and_the_order_stays_paid() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed, &[]).await;
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    // Cumulative, and the older one comes last.
    process(&bed, &gateway, "charge.refunded", &charge("ord_1", 3_000)).await;
    process(&bed, &gateway, "charge.refunded", &charge("ord_1", 1_000)).await;
    assert_eq!(bed.text("SELECT status FROM orders").await, "paid");
    assert_eq!(
        bed.count("SELECT refunded_cents FROM payments").await,
        3_000
    );
    let mails =
        "SELECT string_agg(kind || ' ' || (content->>'amount'), ', ' ORDER BY id) FROM emails";
    assert_eq!(
        bed.text(mails).await,
        "order_paid 50.00 USD, partly_refunded 30.00 USD"
    );
    process(&bed, &gateway, "charge.refunded", &charge("ord_1", 5_000)).await;
    assert_eq!(bed.text("SELECT status FROM orders").await, "refunded");
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE kind = 'order_refunded'")
            .await,
        1
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_refund_before_its_payment_ends_the_same() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed, &[]).await;
    let mut refund = charge("ord_1", 5_000);
    refund["metadata"] = json!({ "order_id": "ord_1" });
    process(&bed, &gateway, "charge.refunded", &refund).await;
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    assert_eq!(bed.text("SELECT status FROM orders").await, "refunded");
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 0);
    assert_eq!(seats(&bed, "cancelled").await, 2);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_charge_alone_is_enough_and_changes_nothing_beside_the_intent() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed, &[]).await;
    let mut only = charge("ord_1", 0);
    only["metadata"] = json!({ "order_id": "ord_1" });
    process(&bed, &gateway, "charge.succeeded", &only).await;
    assert_eq!(bed.text("SELECT status FROM orders").await, "paid");
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    process(
        &bed,
        &gateway,
        "checkout.session.completed",
        &session("ord_1"),
    )
    .await;
    assert_eq!(bed.count("SELECT count(*) FROM payments").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 2);
    assert_eq!(bed.count("SELECT count(*) FROM emails").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn what_needs_a_person_goes_to_review_with_one_alert() {
    let bed = TestBed::new().await;
    for order in ["twice", "unrefunded", "disputed"] {
        bed.seed_order(order).await;
    }
    let (gateway, _worker) = start(&bed, &[]).await;
    for order in ["twice", "unrefunded", "disputed"] {
        process(
            &bed,
            &gateway,
            "payment_intent.succeeded",
            &payment_intent(order),
        )
        .await;
    }
    let mut second = payment_intent("twice");
    second["id"] = "pi_second".into();
    process(&bed, &gateway, "payment_intent.succeeded", &second).await;
    process(&bed, &gateway, "payment_intent.succeeded", &second).await;

    process(
        &bed,
        &gateway,
        "charge.refunded",
        &charge("unrefunded", 5_000),
    )
    .await;
    let refund = json!({ "id": "re_1", "status": "failed", "payment_intent": "pi_unrefunded", "amount": 5000 });
    process(&bed, &gateway, "refund.failed", &refund).await;
    assert_eq!(
        bed.text("SELECT id || ' ' || status FROM refunds").await,
        "re_1 failed"
    );

    let dispute = |status: &str| json!({ "id": "dp_1", "status": status, "payment_intent": "pi_disputed", "metadata": {} });
    process(
        &bed,
        &gateway,
        "charge.dispute.created",
        &dispute("needs_response"),
    )
    .await;
    let disputed = "SELECT status FROM orders WHERE id = 'disputed'";
    assert_eq!(bed.text(disputed).await, "paid");
    process(&bed, &gateway, "charge.dispute.closed", &dispute("lost")).await;

    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'review'")
            .await,
        3
    );
    let alerts = "SELECT string_agg(kind || ' ' || key, ', ' ORDER BY id) FROM alerts";
    let expected = "review twice:pi_second, review unrefunded:pi_unrefunded, dispute disputed:pi_disputed, \
                    review disputed:pi_disputed";
    assert_eq!(bed.text(alerts).await, expected);
    // The double payment was fulfilled once; the lost dispute took the tickets, the failed refund left them void.
    let tickets = "SELECT string_agg(order_id || ' ' || status, ', ' ORDER BY order_id)
        FROM (SELECT DISTINCT order_id, status FROM tickets) t";
    assert_eq!(
        bed.text(tickets).await,
        "disputed void, twice valid, unrefunded void"
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE order_id = 'twice'")
            .await,
        1
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_closed_checkout_frees_the_seats_at_once_and_the_waitlist_is_served() {
    let bed = TestBed::new().await;
    seed_seats(
        &bed,
        1,
        &names(&["first", "second", "third"]),
        &["second", "third"],
    )
    .await;
    let (gateway, _worker) = start(&bed, &["--seat-offer=1h"]).await;
    let mut expired = session("first");
    expired["payment_intent"] = Value::Null;
    expired["payment_status"] = "unpaid".into();
    process(&bed, &gateway, "checkout.session.expired", &expired).await;
    let all = "SELECT string_agg(order_id || ' ' || status, ', ' ORDER BY id) FROM registrations";
    assert_eq!(
        bed.text(all).await,
        "first cancelled, second offered, third waitlisted"
    );
    let mail = "SELECT kind || ' ' || recipient FROM emails WHERE content->>'until' IS NOT NULL";
    assert_eq!(bed.text(mail).await, "seat_offered second@example.com");

    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("second"),
    )
    .await;
    assert_eq!(
        bed.text(all).await,
        "first cancelled, second active, third waitlisted"
    );
    process(&bed, &gateway, "charge.refunded", &charge("second", 5_000)).await;
    assert_eq!(
        bed.text(all).await,
        "first cancelled, second cancelled, third offered"
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn an_offer_that_is_not_taken_passes_to_the_next() {
    let bed = TestBed::new().await;
    seed_seats(
        &bed,
        1,
        &names(&["first", "second", "third"]),
        &["second", "third"],
    )
    .await;
    let (gateway, _worker) = start(&bed, &["--seat-offer=1s"]).await;
    process(
        &bed,
        &gateway,
        "payment_intent.canceled",
        &payment_intent("first"),
    )
    .await;
    bed.until_count(
        "SELECT count(*) FROM emails WHERE kind = 'seat_offered' AND order_id = 'third'",
        1,
    )
    .await;
    bed.until_count(
        "SELECT count(*) FROM registrations WHERE status = 'cancelled'",
        3,
    )
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE kind = 'seat_offered'")
            .await,
        2
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn seats_are_held_after_a_failure_and_then_given_on() {
    let bed = TestBed::new().await;
    seed_seats(&bed, 1, &names(&["first", "second"]), &["second"]).await;
    let (gateway, worker) = start(&bed, &["--seat-hold=1h"]).await;
    process(
        &bed,
        &gateway,
        "payment_intent.payment_failed",
        &payment_intent("first"),
    )
    .await;
    let all = "SELECT string_agg(order_id || ' ' || status, ', ' ORDER BY id) FROM registrations";
    assert_eq!(bed.text(all).await, "first pending, second waitlisted");
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE held_until > now() + interval '50 minutes'")
            .await,
        1
    );
    bed.db.execute("UPDATE orders SET held_until = now() - interval '1 second' WHERE held_until IS NOT NULL", &[]).await.unwrap();
    bed.until_count(
        "SELECT count(*) FROM registrations WHERE status = 'offered' AND order_id = 'second'",
        1,
    )
    .await;
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("second"),
    )
    .await;

    // The first buyer's card works after all, too late: the money is here, the seat is gone.
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("first"),
    )
    .await;
    assert_eq!(
        bed.text("SELECT status FROM orders WHERE id = 'first'")
            .await,
        "review"
    );
    assert_eq!(
        bed.text("SELECT kind || ' ' || key FROM alerts ORDER BY id DESC LIMIT 1")
            .await,
        "paid_but_unfulfillable first"
    );
    assert_eq!(bed.text(all).await, "first cancelled, second active");
    worker.stop().await.unwrap();
    bed.check_invariants().await;
}

/// Sends one event per order, 32 at a time.
async fn storm(
    gateway: &RunningGateway,
    event_type: &str,
    orders: &[String],
    object: impl Fn(&str) -> Value,
) {
    let send = |order: &String| {
        let id = format!("evt_{order}_{event_type}");
        let body = event(&id, event_type, &object(order));
        async move { assert_eq!(post(gateway.address, body).await.status, 200) }
    };
    stream::iter(orders.iter().map(send))
        .buffer_unordered(32)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn five_hundred_buyers_of_a_hundred_seats_never_oversell_and_lose_none() {
    const BUYERS: usize = 500;
    const SEATS: i64 = 100;
    let bed = TestBed::new().await;
    let orders: Vec<String> = (0..BUYERS).map(|n| format!("ord_{n}")).collect();
    seed_seats(&bed, 100, &orders, &[]).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let _workers = join_all((0..8).map(|_| RunningWorker::start(&bed, &["--concurrency=4"]))).await;
    storm(
        &gateway,
        "payment_intent.succeeded",
        &orders,
        payment_intent,
    )
    .await;
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state = 'processed'",
        500,
    )
    .await;
    assert_eq!(seats(&bed, "active").await, SEATS);
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'paid'")
            .await,
        SEATS
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'review'")
            .await,
        400
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM alerts WHERE kind = 'paid_but_unfulfillable'")
            .await,
        400
    );

    // Everyone gets the money back at once: the seats are free, every payment is settled.
    storm(&gateway, "charge.refunded", &orders, |order| {
        charge(order, 5_000)
    })
    .await;
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state = 'processed'",
        1_000,
    )
    .await;
    assert_eq!(seats(&bed, "active").await, 0);
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'refunded'")
            .await,
        500
    );
    assert_eq!(
        bed.count("SELECT sum(amount_cents - refunded_cents)::bigint FROM payments")
            .await,
        0
    );
    assert_eq!(
        bed.count("SELECT max(attempts)::bigint FROM webhook_events")
            .await,
        1
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_seat_that_goes_while_its_buyer_waits_for_it_is_not_sold_twice() {
    const WAITING: &str = "
        SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()";
    let bed = TestBed::new().await;
    seed_seats(&bed, 1, &names(&["first", "second"]), &[]).await;
    let (gateway, _worker) = start(&bed, &[]).await;
    // The last seat is sold, and that is not committed yet.
    let sell = "
        BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('seat', 1));
        UPDATE registrations SET status = 'active' WHERE order_id = 'first'";
    bed.db.batch_execute(sell).await.unwrap();
    let id = event_id();
    let body = event(&id, "payment_intent.succeeded", &payment_intent("second"));
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_count(WAITING, 1).await;
    bed.db.batch_execute("COMMIT").await.unwrap();
    bed.until_state(&id, "processed").await;
    let second = "
        SELECT concat_ws(' ', status, (SELECT count(*) FROM tickets), (SELECT count(*) FROM emails),
            (SELECT string_agg(kind, ',') FROM alerts), (SELECT max(attempts) FROM webhook_events))
        FROM orders WHERE id = 'second'";
    let expected = "review 0 0 paid_but_unfulfillable 1";
    assert_eq!(bed.text(second).await, expected);
}

#[tokio::test]
async fn refunds_and_offers_at_the_same_time_neither_lock_up_nor_oversell() {
    const SEATS: usize = 20;
    let bed = TestBed::new().await;
    let buyers: Vec<String> = (0..SEATS).map(|n| format!("buyer_{n}")).collect();
    let waiters: Vec<String> = (0..SEATS).map(|n| format!("waiter_{n}")).collect();
    let all: Vec<String> = buyers.iter().chain(&waiters).cloned().collect();
    let waiting: Vec<&str> = waiters.iter().map(String::as_str).collect();
    seed_seats(&bed, SEATS, &all, &waiting).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let _workers = join_all((0..4).map(|_| RunningWorker::start(&bed, &["--concurrency=8"]))).await;
    let (bed, gateway) = (&bed, &gateway);
    join_all(buyers.iter().map(|order| async move {
        let object = payment_intent(order);
        process(bed, gateway, "payment_intent.succeeded", &object).await;
    }))
    .await;
    assert_eq!(seats(bed, "active").await, 20);
    // Refunds free seats while those who get them pay at once.
    let refunds = join_all(buyers.iter().map(|order| async move {
        let object = charge(order, 5_000);
        process(bed, gateway, "charge.refunded", &object).await;
    }));
    let payments = join_all(waiters.iter().map(|order| async move {
        let offered = format!(
            "SELECT count(*) FROM registrations WHERE order_id = '{order}' AND status = 'offered'"
        );
        bed.until_count(&offered, 1).await;
        let object = payment_intent(order);
        process(bed, gateway, "payment_intent.succeeded", &object).await;
    }));
    tokio::join!(refunds, payments);
    assert_eq!(
        (seats(bed, "active").await, seats(bed, "cancelled").await),
        (20, 20)
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'paid'")
            .await,
        20
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE kind = 'seat_offered'")
            .await,
        20
    );
    bed.check_invariants().await;
}

/// Sends an event that must die at once, and returns why it did.
async fn die(bed: &TestBed, gateway: &RunningGateway, event_type: &str, object: &Value) -> String {
    let id = event_id();
    assert_eq!(
        post(gateway.address, event(&id, event_type, object))
            .await
            .status,
        200
    );
    bed.until_state(&id, "dead").await;
    let letter = "SELECT reason FROM dead_letters JOIN webhook_events e ON e.id = event_id
        WHERE event_id = $1 AND attempts = 1";
    bed.row(letter, &[&id]).await.get(0)
}

#[tokio::test]
async fn an_authorisation_makes_an_order_of_the_cart_and_marks_one_that_is_there() {
    let bed = TestBed::new().await;
    bed.seed_order("known").await;
    let course = json!({ "id": "rust", "kind": "course", "name": "Rust", "unit_amount_cents": 5000, "currency": "usd" });
    bed.seed(&json!({ "products": [course] })).await;
    let (gateway, _worker) = start(&bed, &[]).await;
    let authorised = |order: &str, cart: &str| {
        let mut intent = payment_intent(order);
        intent["metadata"] = json!({ "order_id": order, "cart": cart, "email": "new@example.com", "user_id": "u_2" });
        intent
    };
    let capturable = "payment_intent.amount_capturable_updated";
    let cart = r#"[{"product":"ga","quantity":2,"unit_amount_cents":2500}]"#;
    process(&bed, &gateway, capturable, &authorised("new", cart)).await;
    process(&bed, &gateway, capturable, &authorised("new", cart)).await;
    process(&bed, &gateway, capturable, &payment_intent("known")).await;
    let orders =
        "SELECT string_agg(concat_ws(' ', id, o.status, o.email, p.status), ', ' ORDER BY id)
        FROM orders o JOIN payments p ON p.order_id = o.id";
    let expected =
        "known pending buyer@example.com authorized, new pending new@example.com authorized";
    assert_eq!(bed.text(orders).await, expected);
    assert_eq!(seats(&bed, "pending").await, 4);
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("new"),
    )
    .await;
    assert_eq!(
        bed.text("SELECT status FROM orders WHERE id = 'new'").await,
        "paid"
    );

    let mut without = payment_intent("other");
    for (cart, reason) in [
        (json!(r#"[{"product":"nothing"}]"#), "unknown_product"),
        (json!(r#"[{"product":"ga","price":1}]"#), "wrong_price"),
        (
            json!(r#"[{"product":"ga","quantity":1}]"#),
            "amount_mismatch",
        ),
        (json!("nonsense"), "invalid_cart"),
        // A course without an account to belong to.
        (json!(r#"[{"product":"rust"}]"#), "missing_metadata"),
        (Value::Null, "missing_cart"),
    ] {
        without["metadata"] =
            json!({ "order_id": "other", "email": "a@example.com", "cart": cart });
        assert_eq!(die(&bed, &gateway, capturable, &without).await, reason);
    }
    assert_eq!(bed.count("SELECT count(*) FROM orders").await, 2);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_paid_course_that_no_account_can_have_is_for_a_person() {
    let bed = TestBed::new().await;
    let course = json!({ "id": "rust", "kind": "course", "name": "Rust", "unit_amount_cents": 5000, "currency": "usd" });
    bed.seed(&json!({ "products": [course], "orders": [{ "id": "ord_1", "user_id": "u_1", "email": "a@example.com",
        "items": [{ "product": "rust", "quantity": 1 }] }] }))
    .await;
    // A shop that writes its orders itself.
    let forget = "UPDATE orders SET user_id = NULL";
    bed.db.execute(forget, &[]).await.unwrap();
    let (gateway, _worker) = start(&bed, &[]).await;
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("ord_1"),
    )
    .await;
    let order =
        "SELECT concat_ws(', ', o.status, status_reason, a.kind, a.message) FROM orders o, alerts a
        WHERE a.kind = 'paid_but_unfulfillable'";
    assert_eq!(
        bed.text(order).await,
        "review, paid, but it cannot be fulfilled, paid_but_unfulfillable, \
        paid, but its course has no account to belong to"
    );
    assert_eq!(bed.count("SELECT count(*) FROM emails").await, 0);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_course_bought_straight_away_is_bought_once() {
    let bed = TestBed::new().await;
    bed.seed(&json!({ "products": [{ "id": "rust", "kind": "course", "name": "Rust", "unit_amount_cents": 5000,
        "currency": "usd" }] }))
    .await;
    let (gateway, _worker) = start(&bed, &[]).await;
    let bought = |session_id: &str, metadata: Value| {
        let mut session = session(session_id);
        session["client_reference_id"] = Value::Null;
        session["customer_details"] = json!({ "email": "student@example.com" });
        session["metadata"] = metadata;
        session
    };
    let completed = "checkout.session.completed";
    let first = bought("one", json!({ "courseId": "rust", "userId": "u_1" }));
    process(&bed, &gateway, completed, &first).await;
    process(&bed, &gateway, completed, &first).await;
    let second = bought("two", json!({ "course_id": "rust", "user_id": "u_2" }));
    process(&bed, &gateway, completed, &second).await;
    let purchases = "SELECT string_agg(concat_ws(' ', user_id, course_id, order_id), ', ' ORDER BY user_id) FROM course_purchases";
    assert_eq!(
        bed.text(purchases).await,
        "u_1 rust cs_test_one, u_2 rust cs_test_two"
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE recipient = 'student@example.com'")
            .await,
        2
    );

    for (metadata, reason) in [
        (json!({ "courseId": "rust" }), "missing_metadata"),
        (json!({ "userId": "u_1" }), "missing_metadata"),
        (
            json!({ "courseId": "cobol", "userId": "u_1" }),
            "unknown_product",
        ),
    ] {
        assert_eq!(
            die(&bed, &gateway, completed, &bought("three", metadata)).await,
            reason
        );
    }
    // A refund takes the course back.
    process(&bed, &gateway, "charge.refunded", &charge("one", 5_000)).await;
    assert_eq!(bed.text(purchases).await, "u_2 rust cs_test_two");
    bed.check_invariants().await;
}

/// Two orders of one buyer pay for the same course. The second one is paid twice, which is for a person; the buyer is
/// entitled by it all the same when the first one is refunded.
#[tokio::test]
async fn a_course_is_kept_by_an_order_that_a_person_still_looks_at() {
    let bed = TestBed::new().await;
    let order = |id: &str| json!({ "id": id, "user_id": "u_1", "email": "a@example.com", "items": [{ "product": "rust", "quantity": 1 }] });
    bed.seed(&json!({ "products": [{ "id": "rust", "kind": "course", "name": "Rust", "unit_amount_cents": 5000,
        "currency": "usd" }], "orders": [order("one"), order("two")] }))
    .await;
    let (gateway, _worker) = start(&bed, &[]).await;
    let paid = "payment_intent.succeeded";
    for intent in [payment_intent("one"), payment_intent("two")] {
        process(&bed, &gateway, paid, &intent).await;
    }
    let mut again = payment_intent("two");
    again["id"] = "pi_again".into();
    process(&bed, &gateway, paid, &again).await;
    let orders = "SELECT string_agg(status, ' ' ORDER BY id) FROM orders";
    assert_eq!(bed.text(orders).await, "paid review");
    process(&bed, &gateway, "charge.refunded", &charge("one", 5_000)).await;
    assert_eq!(bed.text(orders).await, "refunded review");
    let purchases = "SELECT string_agg(concat_ws(' ', user_id, course_id, order_id), ', ') FROM course_purchases";
    assert_eq!(bed.text(purchases).await, "u_1 rust two");
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_landing_page_that_races_the_webhook_finds_the_same_purchase() {
    let bed = TestBed::new().await;
    bed.seed(&json!({ "products": [{ "id": "rust", "kind": "course", "name": "Rust", "unit_amount_cents": 5000,
        "currency": "usd" }] }))
    .await;
    let (gateway, _worker) = start(&bed, &[]).await;
    let mut bought = session("one");
    bought["client_reference_id"] = Value::Null;
    bought["metadata"] = json!({ "courseId": "rust", "userId": "u_1" });
    bought["customer_details"] = json!({ "email": "student@example.com" });
    let webhook = process(&bed, &gateway, "checkout.session.completed", &bought);
    let settings = PoolSettings {
        application_name: "landing-page",
        size: 8,
        wait: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
        durability: Durability::Full,
        generic_plans: true,
    };
    let pool = database::pool(&bed.worker_url().parse().unwrap(), &settings);
    let verify = || async {
        let mut client = pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        let buyer = Buyer {
            user_id: Some("u_1".to_owned()),
            email: "student@example.com".to_owned(),
        };
        let line = CartLine {
            product: "rust".to_owned(),
            quantity: 1,
            unit_amount_cents: None,
        };
        let paid = News::Succeeded(Money::new(5_000, "usd"));
        let fact = Fact {
            reference: "pi_one".to_owned(),
            news: paid,
        };
        let desk = Desk { times: SEAT_TIMES };
        let status = desk
            .create_and_apply(&tx, "cs_test_one", (&buyer, &[line]), &fact)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        status
    };
    let (answers, ()) = tokio::join!(join_all((0..8).map(|_| verify())), webhook);
    assert!(
        answers.iter().all(|status| *status == OrderStatus::Paid),
        "{answers:?}"
    );
    assert_eq!(bed.count("SELECT count(*) FROM course_purchases").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM payments").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM emails").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn raised_capacity_is_offered_and_a_new_payment_after_a_refund_gets_new_tickets() {
    let bed = TestBed::new().await;
    seed_seats(&bed, 1, &names(&["first", "second"]), &["second"]).await;
    let (gateway, _worker) = start(&bed, &[]).await;
    process(
        &bed,
        &gateway,
        "payment_intent.succeeded",
        &payment_intent("first"),
    )
    .await;
    assert_eq!(seats(&bed, "waitlisted").await, 1);
    bed.db
        .execute("UPDATE products SET capacity = 2", &[])
        .await
        .unwrap();
    bed.until_count(
        "SELECT count(*) FROM registrations WHERE status = 'offered'",
        1,
    )
    .await;

    process(&bed, &gateway, "charge.refunded", &charge("first", 5_000)).await;
    let mut again = payment_intent("first");
    again["id"] = "pi_again".into();
    process(&bed, &gateway, "payment_intent.succeeded", &again).await;
    assert_eq!(
        bed.text("SELECT status FROM orders WHERE id = 'first'")
            .await,
        "paid"
    );
    let tickets =
        "SELECT string_agg(status, ' ' ORDER BY id) FROM tickets WHERE order_id = 'first'";
    assert_eq!(bed.text(tickets).await, "void valid");
    assert_eq!(
        bed.count("SELECT count(*) FROM emails WHERE kind = 'order_paid'")
            .await,
        2
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn new_fields_and_values_break_no_handler() {
    let bed = TestBed::new().await;
    let (gateway, _worker) = start(&bed, &["--max-attempts=1"]).await;
    let values = json!({ "created": 1_700_000_000, "livemode": false, "payment_intent": "pi_x", "charge": "ch_x",
        "refund": "re_x", "dispute": "dp_x", "session": "cs_x", "customer": "cus_x", "subscription": "sub_x",
        "invoice": "in_x", "amount": 5000, "amount_refunded": 5000, "fully_refunded": true, "currency": "usd",
        "email": "x@example.com", "metadata": {}, "expires_at": 1_800_000_000, "failure_code": "brand_new" });
    let mut sent = Vec::new();
    for event_type in ops::events::types().filter(|event_type| *event_type != "thin") {
        let id = event_id();
        let mut values = values.as_object().unwrap().clone();
        values.insert("event_id".to_owned(), id.clone().into());
        let body = ops::events::render(event_type, &values).unwrap();
        let mut body: Value = serde_json::from_str(&body).unwrap();
        let object = body["data"]["object"].as_object_mut().unwrap();
        object.insert("brand_new".to_owned(), json!({ "deep": [{ "er": 1e300 }] }));
        for name in [
            "status",
            "payment_status",
            "cancellation_reason",
            "failure_reason",
        ] {
            object
                .entry(name)
                .and_modify(|value| *value = "brand_new".into());
        }
        for optional in [
            "metadata",
            "last_payment_error",
            "customer_details",
            "parent",
            "items",
        ] {
            object.remove(optional);
        }
        assert_eq!(post(gateway.address, body.to_string()).await.status, 200);
        sent.push(id);
    }
    assert!(sent.len() > 20);
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state NOT IN ('received', 'retrying')",
        sent.len() as i64,
    )
    .await;
    let broken =
        "SELECT count(*) FROM dead_letters WHERE reason NOT IN ('order_not_found', 'missing_cart')";
    assert_eq!(
        bed.count(broken).await,
        0,
        "{}",
        bed.text("SELECT string_agg(reason || ': ' || error, '; ') FROM dead_letters")
            .await
    );
    bed.check_invariants().await;
}
