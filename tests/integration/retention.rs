//! Retention: what is final and old goes, and nothing else.

use harness::{RunningWorker, TestBed};
use tokio_postgres::error::SqlState;

/// An event of each state, `days` old, with body, attempt, and dead letter where it belongs.
async fn events(bed: &TestBed, days: i32) {
    const EVENTS: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, attempts, last_error, received_at, finished_at, due_at, rescue_from)
            SELECT format('evt_%s_%s', state, $1::integer), 'some.type', state, 1, 'e', at,
                CASE WHEN state NOT IN ('received', 'retrying') THEN at END,
                CASE WHEN state = 'retrying' THEN now() + interval '1 hour' END, now() + interval '1 hour'
            FROM unnest(ARRAY['received', 'processed', 'ignored', 'retrying', 'dead', 'discarded']) state,
                (SELECT now() - make_interval(days => $1)) AS t (at)
            RETURNING id, state, received_at
        ), body AS (
            INSERT INTO event_payloads (event_id, received_at, body) SELECT id, received_at, '{}' FROM event
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error, worker)
            SELECT id, 1, received_at, 'permanent', 'e', 'test' FROM event
        )
        INSERT INTO dead_letters (event_id, reason, error, fingerprint, resolved_at, resolution)
        SELECT id, 'r', 'e', 'f', CASE WHEN state = 'discarded' THEN now() END,
            CASE WHEN state = 'discarded' THEN 'discarded' END
        FROM event WHERE state IN ('dead', 'discarded')";
    bed.db.execute(EVENTS, &[&days]).await.unwrap();
}

const EVENTS: &str = "SELECT string_agg(id, ' ' ORDER BY id) FROM webhook_events";
const BODIES: &str = "SELECT string_agg(event_id, ' ' ORDER BY event_id) FROM event_payloads";

#[tokio::test]
async fn bodies_of_old_final_events_are_pruned_and_nothing_else() {
    let bed = TestBed::new().await;
    events(&bed, 10).await;
    events(&bed, 2).await;
    let _worker = RunningWorker::start(&bed, &["--retention-payloads=7d"]).await;
    bed.until_count("SELECT count(*) FROM event_payloads", 9)
        .await;
    assert_eq!(
        bed.text(BODIES).await,
        "evt_dead_10 evt_dead_2 evt_discarded_2 evt_ignored_2 evt_processed_2 evt_received_10 evt_received_2 \
         evt_retrying_10 evt_retrying_2"
    );
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 12);
}

#[tokio::test]
async fn old_final_events_are_pruned_with_all_that_belongs_to_them() {
    let bed = TestBed::new().await;
    events(&bed, 40).await;
    events(&bed, 20).await;
    // More than a batch, and one whose replay does not know its outcome yet.
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             SELECT 'evt_' || n, 'some.type', 'processed', now() - interval '40 days', now() - interval '40 days'
             FROM generate_series(1, 1200) n;
             INSERT INTO replays (created_by, reason, filter, plan_hash, planned_count, rate_per_s, changed_by, changed_why,
                state, started_at) VALUES ('a', 'a long reason', '{}', 'h', 1, 1, 'a', 'a', 'paused', now());
             INSERT INTO replay_items (replay_id, position, event_id, dead_letter_id, outcome, replayed_at)
             VALUES (1, 1, 'evt_1', 1, 'replayed', now())",
        )
        .await
        .unwrap();
    let _worker = RunningWorker::start(&bed, &["--retention-events=31d"]).await;
    bed.until_count("SELECT count(*) FROM webhook_events", 10)
        .await;
    assert_eq!(
        bed.text(EVENTS).await,
        "evt_1 evt_dead_20 evt_dead_40 evt_discarded_20 evt_ignored_20 evt_processed_20 evt_received_20 \
         evt_received_40 evt_retrying_20 evt_retrying_40"
    );
    for table in ["event_payloads", "event_attempts"] {
        let left = format!("SELECT count(*) FROM {table}");
        assert_eq!(bed.count(&left).await, 9, "{table}");
    }
    assert_eq!(bed.count("SELECT count(*) FROM dead_letters").await, 3);
}

#[tokio::test]
async fn old_rejections_and_told_alerts_go_without_being_asked() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "INSERT INTO rejections (id, at, cause, count, client)
             SELECT 'g-' || n, now() - n * interval '1 hour', 'slow_body', 1, '192.0.2.1' FROM generate_series(1, 2000) n;
             INSERT INTO alert_notices (channel, name, subject, body, status, created_at, sent_at)
             SELECT 'mail', 'n' || n, 's', 'b', CASE WHEN n = 1 THEN 'queued' ELSE 'sent' END,
                now() - (101 - n) * interval '1 day', CASE WHEN n > 1 THEN now() END
             FROM generate_series(1, 100) n",
        )
        .await
        .unwrap();
    let _worker = RunningWorker::start(&bed, &[]).await;
    let (rejections, notices) = (
        "SELECT count(*) FROM rejections",
        "SELECT count(*) FROM alert_notices",
    );
    // 30 days of hours, and of the notices 90 days and the one that nobody was told.
    bed.until_count(rejections, 719).await;
    bed.until_count(notices, 90).await;
    let kept = "SELECT count(*) FROM alert_notices WHERE name = 'n1'";
    assert_eq!(bed.count(kept).await, 1);
}

#[tokio::test]
async fn nobody_deletes_what_is_not_final() {
    let bed = TestBed::new().await;
    events(&bed, 40).await;
    for state in ["received", "retrying", "dead"] {
        for delete in [
            format!("DELETE FROM webhook_events WHERE state = '{state}'"),
            format!("DELETE FROM event_payloads WHERE event_id = 'evt_{state}_40'"),
        ] {
            let error = bed.db.batch_execute(&delete).await.expect_err(&delete);
            assert_eq!(
                error.code(),
                Some(&SqlState::RESTRICT_VIOLATION),
                "{delete}"
            );
        }
    }
}

#[tokio::test]
async fn without_a_retention_everything_stays() {
    let bed = TestBed::new().await;
    events(&bed, 300).await;
    let worker = RunningWorker::start(&bed, &[]).await;
    worker.stop().await.unwrap();
    assert_eq!(bed.count("SELECT count(*) FROM event_payloads").await, 6);
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 6);
}
