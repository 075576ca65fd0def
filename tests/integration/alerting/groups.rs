//! Dead letters: what is told of each, and what operators made of their groups.

use harness::stripe::{event, event_id, payment_intent, post};
use serde_json::json;

use super::*;

/// Has an event die on the whole path, and gives its id.
async fn die(bed: &TestBed, gateway: &RunningGateway, event_type: &str) -> String {
    let id = event_id();
    let body = event(&id, event_type, &json!({ "status": "failed" }));
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&id, "dead").await;
    id
}

async fn dying_worker(bed: &TestBed, mail: &MailServer, more: &[&str]) -> RunningWorker {
    let args = [&["--max-attempts=1"], more].concat();
    worker(bed, mail, &args).await
}

/// Letters of an event type that nobody handles, in a group.
async fn letters(bed: &TestBed, fingerprint: &str, count: i32) {
    const LETTERS: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, attempts, last_error, finished_at)
            SELECT format('evt_%s_%s', $1::text, n), 'a.b', 'dead', 1, 'e', now() FROM generate_series(1, $2::integer) n
            RETURNING id
        )
        INSERT INTO dead_letters (event_id, reason, error, fingerprint) SELECT id, 'panic', 'e', $1 FROM event";
    bed.db
        .execute(LETTERS, &[&fingerprint, &count])
        .await
        .unwrap();
}

async fn sort(bed: &TestBed, fingerprint: &str, state: &str) {
    const SORT: &str = "
        INSERT INTO dead_letter_groups (fingerprint, state, changed_by) VALUES ($1, $2, 'ann')
        ON CONFLICT (fingerprint) DO UPDATE SET state = $2, changed_at = clock_timestamp()";
    bed.db.execute(SORT, &[&fingerprint, &state]).await.unwrap();
}

async fn fingerprint_of(bed: &TestBed, event_id: &str) -> String {
    let sql = "SELECT fingerprint FROM dead_letters WHERE event_id = $1";
    bed.row(sql, &[&event_id]).await.get(0)
}

#[tokio::test]
async fn each_dead_event_about_money_is_told_once_by_itself() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let console = ["--alert-console-url=https://ops.example.com/"];
    let _workers = tokio::join!(
        dying_worker(&bed, &mail, &console),
        dying_worker(&bed, &mail, &console)
    );
    let gateway = RunningGateway::start(&bed, &[]).await;
    let types = [
        "payment_intent.succeeded",
        "checkout.session.completed",
        "charge.refunded",
        "charge.dispute.created",
        "refund.failed",
        "invoice.paid",
        "invoice.payment_failed",
    ];
    let mut dead = Vec::new();
    for event_type in types {
        dead.push((event_type, die(&bed, &gateway, event_type).await));
    }
    let subject = |event_type: &str, id: &str| format!("[dead payment] {event_type} {id}: ");
    for (event_type, id) in &dead {
        until_mailed(&mail, &subject(event_type, id)).await;
    }
    // While the group of the first one fires.
    let second = die(&bed, &gateway, "invoice.paid").await;
    until_mailed(&mail, &subject("invoice.paid", &second)).await;
    dead.push(("invoice.paid", second));
    bed.until_count(
        "SELECT count(*) FROM alert_notices WHERE status <> 'sent'",
        0,
    )
    .await;
    for (event_type, id) in &dead {
        assert_eq!(mails(&mail, &subject(event_type, id)), 1, "{event_type}");
        assert_eq!(mails(&mail, &format!("Next: ops events show {id}")), 1);
        assert_eq!(
            mails(&mail, &format!("https://ops.example.com/events/{id}")),
            1
        );
    }
    // Its group is told by its events.
    assert_eq!(mails(&mail, "[firing] dead_payments"), 0);
    bed.check_invariants().await;
}

#[tokio::test]
async fn failures_of_any_group_count_together() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    for n in 1..=5 {
        letters(&bed, &format!("f{n}"), 1).await;
    }
    letters(&bed, "noise", 50).await;
    sort(&bed, "noise", "ignored").await;
    let _workers = tokio::join!(worker(&bed, &mail, &[]), worker(&bed, &mail, &[]));
    bed.db.batch_execute(LATE).await.unwrap();
    until_mailed(&mail, "[firing] backlog_age").await;
    assert_eq!(mails(&mail, "repeated_failures"), 0);
    letters(&bed, "f6", 1).await;
    until_mailed(
        &mail,
        "[firing] repeated_failures: 6 events died within an hour: 1 panic",
    )
    .await;
    sort(&bed, "f6", "ignored").await;
    for n in 1..=3 {
        sort(&bed, &format!("f{n}"), "ignored").await;
    }
    until_mailed(&mail, "[resolved] repeated_failures").await;
    assert_eq!(mails(&mail, "[firing] repeated_failures"), 1);
}

#[tokio::test]
async fn what_operators_made_of_a_group_decides_what_is_told_of_it() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let _worker = dying_worker(&bed, &mail, &["--alert-repeat=1s"]).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let first = die(&bed, &gateway, "invoice.paid").await;
    let group = fingerprint_of(&bed, &first).await;
    until_mailed(&mail, &first).await;
    until_mailed(&mail, "[still firing] dead_payments").await;
    // Acknowledged: not repeated, while something else is.
    sort(&bed, &group, "acknowledged").await;
    bed.db.batch_execute(LATE).await.unwrap();
    until_mailed(&mail, "[firing] backlog_age").await;
    let before = mails(&mail, "[still firing] dead_payments");
    until_mailed(&mail, "[still firing] backlog_age").await;
    assert_eq!(mails(&mail, "[still firing] dead_payments"), before);
    // A new event is news all the same.
    let second = die(&bed, &gateway, "invoice.paid").await;
    until_mailed(&mail, &second).await;
    // Ignored: over, and nothing is told of what dies then.
    sort(&bed, &group, "ignored").await;
    until_mailed(&mail, "[resolved] dead_payments").await;
    let ignored = die(&bed, &gateway, "invoice.paid").await;
    bed.until_count("SELECT count(*) FROM dead_letters WHERE told_at IS NULL", 0)
        .await;
    // Resolved: told again when it comes back.
    sort(&bed, &group, "resolved").await;
    let back = die(&bed, &gateway, "invoice.paid").await;
    until_mailed(&mail, &back).await;
    until_mailed(
        &mail,
        &format!("1 events died since their group was resolved: invalid_payload (group {group})"),
    )
    .await;
    assert_eq!(mails(&mail, &ignored), 0);
}

#[tokio::test]
async fn many_dead_payments_at_once_are_one_mail_that_names_each() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    letters(&bed, "f00d", 30).await;
    bed.db
        .batch_execute("UPDATE dead_letters SET about_money = true")
        .await
        .unwrap();
    let _workers = tokio::join!(worker(&bed, &mail, &[]), worker(&bed, &mail, &[]));
    until_mailed(&mail, "notices] [dead payment] a.b evt_f00d_1: panic").await;
    bed.until_count(
        "SELECT count(*) FROM alert_notices WHERE status = 'queued'",
        0,
    )
    .await;
    for n in 1..=30 {
        assert_eq!(
            mails(&mail, &format!("[dead payment] a.b evt_f00d_{n}: panic")),
            1
        );
    }
}

#[tokio::test]
async fn a_mismatch_is_told_once_as_something_to_decide() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let mail = MailServer::start().await;
    let _worker = dying_worker(&bed, &mail, &[]).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let mut object = payment_intent("ord_1");
    object["amount_received"] = json!(1234);
    let id = event_id();
    let body = event(&id, "payment_intent.succeeded", &object);
    assert_eq!(post(gateway.address, body).await.status, 200);
    until_mailed(&mail, "[decide] amount_mismatch").await;
    let other = die(&bed, &gateway, "invoice.paid").await;
    until_mailed(&mail, &other).await;
    assert_eq!(mails(&mail, &id), 1);
}

#[tokio::test]
async fn on_empty_tables_nothing_fires() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    // Told by a look at the rules, so there was one.
    let raise = "INSERT INTO alerts (kind, key, message) VALUES ('review', 'ord_1', 'look here')";
    bed.db.batch_execute(raise).await.unwrap();
    until_mailed(&mail, "[decide] review: look here").await;
    assert_eq!(
        mails(&mail, "Next: ops events list --filter object:ord_1"),
        1
    );
    assert_eq!(bed.count("SELECT count(*) FROM alert_states").await, 0);
    assert_eq!(mail.mails().len(), 2);
}
