//! What each database role may do, and what not.

use harness::TestBed;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

async fn denied(url: &str, statements: &[&str]) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    for statement in statements {
        let error = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(
            error.code(),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE),
            "{statement}: {error}"
        );
    }
}

#[tokio::test]
async fn the_gateway_cannot_read_bodies_forge_states_or_touch_orders() {
    let bed = TestBed::new().await;
    denied(
        &bed.gateway_url(),
        &[
            "SELECT body FROM event_payloads",
            "SELECT state FROM webhook_events",
            "INSERT INTO webhook_events (id, type, state) VALUES ('evt_1', 'a', 'processed')",
            "UPDATE webhook_events SET state = 'processed'",
            "UPDATE webhook_events SET id = 'x'",
            "DELETE FROM webhook_events",
            "UPDATE event_payloads SET body = ''",
            "SELECT traceparent FROM outbox",
            "SELECT * FROM orders",
            "INSERT INTO event_attempts (event_id, number) VALUES ('evt_1', 1)",
            "SELECT * FROM dead_letters",
            "SELECT * FROM audit_log",
            "SELECT count FROM rejections",
            "UPDATE rejections SET count = 1",
            "DELETE FROM rejections",
            "SELECT reconcile_import(1, '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
            "INSERT INTO reconciliations (started_by, scheduled, since) VALUES ('a', true, now())",
        ],
    )
    .await;
}

#[tokio::test]
async fn the_worker_cannot_change_bodies_history_or_the_audit_log() {
    let bed = TestBed::new().await;
    denied(
        &bed.worker_url(),
        &[
            "UPDATE event_payloads SET body = ''",
            "INSERT INTO webhook_events (id, type) VALUES ('evt_1', 'a')",
            "UPDATE webhook_events SET deliveries = 0",
            "UPDATE dead_letters SET error = ''",
            "INSERT INTO replays (reason) VALUES ('a longer reason')",
            "UPDATE replays SET planned_count = 1",
            "INSERT INTO replay_items (replay_id) VALUES (1)",
            "UPDATE replay_items SET event_id = ''",
            "DELETE FROM replay_items",
            "UPDATE event_attempts SET outcome = 'processed'",
            "DELETE FROM event_attempts",
            "DELETE FROM dead_letters",
            "INSERT INTO audit_log (actor, action, reason) VALUES ('a', 'b', 'c')",
            "SELECT reason FROM audit_log",
            "INSERT INTO rejections (id, cause, count, client) VALUES ('a', 'b', 1, '::1')",
            "INSERT INTO money_moves (provider_payment_ref, currency, captured_cents, refunded_cents) VALUES ('a', 'usd', 1, 0)",
            "UPDATE money_moves SET captured_cents = 0",
            "INSERT INTO event_payloads (event_id, body) VALUES ('evt_1', '')",
            "INSERT INTO reconciled_events VALUES ('evt_1', 1)",
            "UPDATE reconciliations SET since = now()",
            "DELETE FROM reconciliations",
            "DELETE FROM orders",
            "UPDATE products SET unit_amount_cents = 0",
        ],
    )
    .await;
}

#[tokio::test]
async fn nobody_changes_the_audit_log_whatever_their_role() {
    let bed = TestBed::new().await;
    const ABLE: &str = "
        SELECT count(*) FROM pg_roles CROSS JOIN unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS word
        WHERE rolname LIKE 'tollgate%' AND (has_table_privilege(rolname, 'audit_log', word)
            OR word = 'UPDATE' AND has_any_column_privilege(rolname, 'audit_log', word))";
    assert_eq!(bed.count(ABLE).await, 0);
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tollgate%'";
    assert!(bed.count(roles).await >= 4);
    bed.db
        .batch_execute("INSERT INTO audit_log (actor, action, reason) VALUES ('a', 'b', 'c')")
        .await
        .unwrap();
    for statement in [
        "UPDATE audit_log SET actor = 'someone else'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ] {
        let error = bed.db.batch_execute(statement).await.expect_err(statement);
        assert_eq!(
            error.code(),
            Some(&SqlState::RESTRICT_VIOLATION),
            "{statement}: {error}"
        );
    }
}

#[tokio::test]
async fn operators_cannot_rewrite_history_or_effects() {
    let bed = TestBed::new().await;
    denied(
        &bed.ops_url(),
        &[
            "UPDATE audit_log SET actor = 'someone else'",
            "DELETE FROM audit_log",
            "TRUNCATE audit_log",
            "UPDATE event_payloads SET body = ''",
            "DELETE FROM event_attempts",
            "DELETE FROM replays",
            "INSERT INTO webhook_events (id, type) VALUES ('evt_1', 'a')",
            "INSERT INTO event_payloads (event_id, body) VALUES ('evt_1', '')",
            "UPDATE reconciliations SET started_by = 'someone else'",
            "DELETE FROM reconciled_events",
            "UPDATE replays SET created_by = 'someone else'",
            "UPDATE replay_items SET outcome = 'processed'",
            "UPDATE orders SET status = 'paid'",
            "UPDATE tickets SET status = 'valid'",
        ],
    )
    .await;
}
