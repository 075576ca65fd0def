//! An installation as it looks after a busy day: events in every state, groups, replays, and what operators did. Long
//! ids and errors are among them, as they are in life.

use harness::TestBed;
use harness::stripe::{charge, event, payment_intent};

const EVENTS: &str = "
    WITH shape (state, type, error, attempts) AS (VALUES
        ('processed', 'payment_intent.succeeded', NULL, 1), ('processed', 'charge.refunded', NULL, 2),
        ('ignored', 'customer.subscription.trial_will_end', NULL, 1), ('received', 'invoice.payment_failed', NULL, 0),
        ('retrying', 'checkout.session.completed', 'the product''s seats were busy for longer than 5s', 3),
        ('discarded', 'payment_intent.payment_failed', 'no order is known by the ids of this event', 1)
    ), event AS (
        INSERT INTO webhook_events (id, type, state, livemode, api_version, account, attempts, deliveries, last_error,
            created_at, received_at, due_at, finished_at)
        SELECT format('evt_1Qx%s%s', upper(substr(md5(n::text), 1, 20)), n), type, state, n % 7 <> 0, '2025-09-30.clover',
            CASE WHEN n % 5 = 0 THEN 'acct_1032D82eZvKYlo2C' END, attempts, 1 + (n % 11 = 0)::integer * 3, error,
            at - interval '1.4 seconds', at, CASE state WHEN 'retrying' THEN now() + interval '7 minutes' END,
            CASE WHEN state NOT IN ('received', 'retrying') THEN at + make_interval(secs => 0.02 + n % 17 * 0.11) END
        FROM generate_series(1, 1800) n
        JOIN LATERAL (SELECT now() - make_interval(secs => 60 + 2 * n + 50 * sin(n)) AS at) time ON true
        JOIN shape ON shape.state = CASE WHEN n % 97 = 0 THEN 'retrying' WHEN n % 61 = 0 THEN 'discarded'
            WHEN n % 23 = 0 THEN 'ignored' WHEN n < 6 THEN 'received' ELSE 'processed' END
            AND (shape.state <> 'processed' OR (n % 4 = 0) = (shape.type = 'charge.refunded'))
        RETURNING id, attempts, received_at, state
    ) INSERT INTO event_attempts (event_id, number, started_at, finished_at, outcome, error_kind, error, worker, trace_id)
    SELECT id, number, received_at, received_at + interval '15 milliseconds',
        CASE WHEN number < attempts OR state = 'retrying' THEN 'transient' ELSE 'processed' END,
        CASE WHEN number < attempts OR state = 'retrying' THEN 'busy' END,
        CASE WHEN number < attempts OR state = 'retrying' THEN 'the product''s seats were busy for longer than 5s' END,
        'worker-7f9c5d-x2k', md5(id) FROM event, generate_series(1, attempts) number";

const DEAD: &str = "
    WITH event AS (
        INSERT INTO webhook_events (id, type, state, livemode, api_version, attempts, last_error, received_at, finished_at)
        SELECT format('evt_3Dead%s%s', upper(substr(md5($1::text || n), 1, 18)), n), $2, 'dead', true, '2025-09-30.clover', 12, $3,
            now() - make_interval(mins => 13 * n), now() - make_interval(mins => 13 * n - 5)
        FROM generate_series(1, $4::integer) n RETURNING id, finished_at
    ), body AS (INSERT INTO event_payloads (event_id, body) SELECT id, '{}' FROM event
    ), attempt AS (
        INSERT INTO event_attempts (event_id, number, started_at, finished_at, outcome, error_kind, error, worker, trace_id)
        SELECT id, number, finished_at - make_interval(secs => 300 - 25 * number),
            finished_at - make_interval(secs => 300 - 25 * number - 0.04 * number),
            CASE number WHEN 12 THEN 'permanent' ELSE 'transient' END, $5, $3, 'worker-7f9c5d-x2k', md5(id)
        FROM event, generate_series(1, 12) number
    ) INSERT INTO dead_letters (event_id, reason, error, fingerprint, died_at)
    SELECT id, $5, $3, left(md5($1), 16), finished_at FROM event";

/// A very long error, as libraries make them.
const LONG: &str = "the mail server refused: 550-5.7.1 [203.0.113.9] Our system has detected that this message is likely unsolicited. \
    To reduce the amount of it this message has been blocked; visit https://support.example.com/mail/?p=UnsolicitedMessageErrorPleaseReadThisVeryLongPageAboutIt";

const DONE: &str = "
    INSERT INTO dead_letters (reason, error, fingerprint, message, died_at)
    SELECT 'undecodable', 'this message names no event: expected value at line 1 column 1', 'aaaabbbbccccdddd', 'nonsense',
        now() - make_interval(hours => n) FROM generate_series(1, 3) n;
    INSERT INTO dead_letter_groups (fingerprint, state, note, changed_by, changed_at)
    SELECT min(fingerprint), 'acknowledged', 'Anna asked the shop: orders of the old system were not moved yet. Ticket OPS-412.', 'anna', now()
    FROM dead_letters WHERE reason = 'order_not_found';
    INSERT INTO replays (created_by, reason, filter, plan_hash, planned_count, rate_per_s, changed_by, changed_why)
    VALUES ('olga', 'the orders of the old system were moved over last night', '{\"type\": [\"payment_intent.*\"], \"since\": \"2026-01-02T03:04:05Z\"}',
        '61ad84f94f0f5ba5', 12480, 200, 'olga', 'the orders of the old system were moved over last night');
    UPDATE replays SET state = 'running', started_at = now() - interval '62 seconds', changed_by = 'worker 1'
    WHERE id = (SELECT max(id) FROM replays);
    UPDATE replays SET state = 'finished', cursor = 12480, processed = 12311, dead_again = 121, skipped = 48, finished_at = now(),
        changed_by = 'worker 1', changed_why = 'every event has an outcome' WHERE id = (SELECT max(id) FROM replays);
    INSERT INTO replays (created_by, reason, filter, plan_hash, planned_count, rate_per_s, changed_by, changed_why)
    VALUES ('olga@shop.example.com', 'seats were added to the product: try those again that found none', '{\"fingerprint\": [\"0123456789abcdef\"]}',
        '93bd1c0ab32a5cc0', 3120, 20, 'olga@shop.example.com', 'seats were added');
    UPDATE replays SET state = 'running', started_at = now() - interval '62 seconds', paced_at = now() + interval '1 day',
        changed_by = 'worker 7f9c5d' WHERE id = (SELECT max(id) FROM replays);
    INSERT INTO replay_items (replay_id, position, event_id, dead_letter_id, outcome, replayed_at, finished_at)
    SELECT (SELECT max(id) FROM replays), row_number() OVER (ORDER BY received_at), id, 1, CASE WHEN row_number() OVER (ORDER BY received_at) <= 1230 THEN 'processed' ELSE 'waiting' END,
        CASE WHEN row_number() OVER (ORDER BY received_at) <= 1230 THEN received_at END,
        CASE WHEN row_number() OVER (ORDER BY received_at) <= 1230 THEN received_at + interval '80 milliseconds' END
    FROM webhook_events ORDER BY received_at LIMIT 1700;
    UPDATE replays SET cursor = 1240, processed = 1180, dead_again = 46, skipped = 4, in_flight = 10 WHERE id = (SELECT max(id) FROM replays);
    INSERT INTO alert_states (rule, key, state, message, since) VALUES
        ('repeated_failures', '0123456789abcdef', 'firing', '137 events of one group died within the last hour: order_not_found', now() - interval '7 minutes'),
        ('backlog_age', '', 'firing', 'a new event waits for its first attempt for 94 s', now() - interval '40 seconds');
    INSERT INTO rejections (id, at, cause, count, client)
    SELECT 'rej_' || n, now() - make_interval(mins => 9 * n),
        (ARRAY['signature_mismatch', 'signature_missing', 'signature_stale', 'payload_too_large'])[1 + n % 4], 1 + n % 13, '203.0.113.9'
    FROM generate_series(1, 70) n;
    INSERT INTO audit_log (at, actor, action, reason, details)
    SELECT now() - make_interval(mins => 17 * n::integer), CASE n % 3 WHEN 0 THEN 'anna' WHEN 1 THEN 'olga@shop.example.com' ELSE 'ben' END,
        CASE n % 4 WHEN 0 THEN 'event.reveal' WHEN 1 THEN 'event.retry' WHEN 2 THEN 'group.change' ELSE 'dead_letters.discard' END,
        CASE n % 3 WHEN 0 THEN 'ticket OPS-' || n WHEN 1 THEN 'the order was restored from the backup of last night, and the buyer was told so'
            ELSE 'not ours: the account was closed' END,
        jsonb_build_object('event_ids', jsonb_build_array(id), 'state_before', 'dead')
    FROM (SELECT id, row_number() OVER () AS n FROM webhook_events WHERE state = 'dead' LIMIT 40) dead";

/// Fills the tables.
pub async fn fill(bed: &TestBed) {
    bed.db.batch_execute(EVENTS).await.unwrap();
    for (event_type, error, count, kind) in [
        (
            "payment_intent.succeeded",
            "no order is known by the ids of this event",
            137,
            "order_not_found",
        ),
        ("checkout.session.completed", LONG, 23, "mail_refused"),
        (
            "charge.dispute.funds_withdrawn",
            "amount 12,500 USD is unlike the order's 1,250 USD",
            2,
            "amount_mismatch",
        ),
    ] {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&kind, &event_type, &error, &count, &kind];
        bed.db.execute(DEAD, &params).await.unwrap();
    }
    bed.db.batch_execute(DONE).await.unwrap();
}

/// Bodies of one order's events, oldest first.
pub fn story(order: &str) -> [String; 2] {
    [
        event(
            &format!("evt_{order}_paid"),
            "payment_intent.succeeded",
            &payment_intent(order),
        ),
        event(
            &format!("evt_{order}_refunded"),
            "charge.refunded",
            &charge(order, 5000),
        ),
    ]
}
