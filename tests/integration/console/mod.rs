//! The console over plain HTTP, without JavaScript, under the operators' role.

mod access;
mod changes;
mod pages;
mod plain;

use harness::TestBed;

/// A dead event with this payload and error.
pub async fn dead_event(bed: &TestBed, id: &str, error: &str, payload: &str) {
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

/// A payload with personal data, a secret and a number that no float can hold.
pub const PAYLOAD: &str = r#"{"id":"evt_1","data":{"object":{"id":"pi_1","amount": 12345678901234567890,"client_secret":"pi_1_secret_abc",
 "receipt_email":"jane@example.com","metadata":{"order_id":"ord_1","note":"call Jane"}}}}"#;
/// Where the group of these events stands.
pub const GROUP: &str = "/dead-letters/f00dfeedf00dfeed";
