//! Logs, metrics and traces: what they tell, and what they never tell.

use std::sync::{Arc, Mutex};

use harness::binaries::Process;
use harness::stripe::{event, event_id, payment_intent, post, post_with};
use harness::{TestBed, eventually};
use http_body_util::BodyExt;
use hyper::StatusCode;
use serde_json::{Value, json};
use shared::http::Limits;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or_default()
}

#[tokio::test]
async fn one_trace_leads_from_the_webhook_to_its_effects_and_no_line_tells_a_secret() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = Process::gateway(&bed, &[("RUST_LOG", "info,gateway=debug")]).await;
    let worker = Process::worker(&bed, &[]).await;
    let id = event_id();
    let mut intent = payment_intent("ord_1");
    intent["client_secret"] = "canary_client_secret".into();
    intent["receipt_email"] = "canary@example.com".into();
    assert_eq!(
        post(
            gateway.address,
            event(&id, "payment_intent.succeeded", &intent)
        )
        .await
        .status,
        200
    );
    assert_eq!(
        post_with(
            gateway.address,
            "/webhooks/stripe",
            Some("t=1,v1=canary"),
            "canary"
        )
        .await
        .status,
        400
    );
    bed.until_state(&id, "processed").await;
    bed.until_count("SELECT count(*) FROM emails WHERE status = 'sent'", 1)
        .await;

    let accepted = eventually("the gateway's line", async || {
        gateway
            .log()
            .into_iter()
            .find(|line| field(line, "message") == "webhook accepted")
    })
    .await;
    let processed = eventually("the worker's line", async || {
        worker
            .log()
            .into_iter()
            .find(|line| field(line, "message") == "event processed")
    })
    .await;
    for line in [&accepted, &processed] {
        assert_eq!(field(line, "event_id"), id);
        assert_eq!(field(line, "event_type"), "payment_intent.succeeded");
    }
    assert_eq!(processed["attempt"], 1);
    let trace_id = field(&processed, "trace_id");
    assert_eq!(trace_id.len(), 32);
    assert_eq!(
        field(&accepted, "traceparent").split('-').nth(1),
        Some(trace_id)
    );
    let in_database = bed.text("SELECT trace_id FROM event_attempts").await;
    assert_eq!(in_database, trace_id);
    let text = gateway.log_text() + &worker.log_text();
    for secret in [
        "canary",
        "whsec_",
        "buyer@example.com",
        "tollgate-test",
        "v1=",
    ] {
        assert!(!text.contains(secret), "{secret} is logged:\n{text}");
    }
}

#[tokio::test]
async fn metrics_count_with_bounded_labels() {
    let bed = TestBed::new().await;
    let gateway = Process::gateway(&bed, &[]).await;
    let worker = Process::worker(&bed, &[("RESCUE_AFTER", "1s")]).await;
    let id = event_id();
    for n in 0..3 {
        let event_type = format!("type.of.{n}");
        assert_eq!(
            post(gateway.address, event(&event_id(), &event_type, &json!({})))
                .await
                .status,
            200
        );
    }
    assert_eq!(
        post(gateway.address, event(&id, "x", &json!({})))
            .await
            .status,
        200
    );
    assert_eq!(
        post(gateway.address, event(&id, "x", &json!({})))
            .await
            .status,
        200
    );
    assert_eq!(
        post_with(gateway.address, "/webhooks/stripe", None, "{}")
            .await
            .status,
        400
    );
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state = 'ignored'",
        4,
    )
    .await;
    let metrics = async |process: &Process| {
        let url = format!("http://{}/metrics", process.admin_address);
        harness::stripe::client()
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    let text = metrics(&gateway).await;
    for line in [
        r#"tollgate_webhooks_total{outcome="accepted"} 4"#,
        r#"tollgate_webhooks_total{outcome="duplicate"} 1"#,
        r#"tollgate_webhooks_total{outcome="signature_missing"} 1"#,
        "tollgate_webhook_duration_seconds_count 6",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let text = eventually("the worker's metrics", async || {
        let text = metrics(&worker).await;
        text.contains("tollgate_backlog_events 0").then_some(text)
    })
    .await;
    assert!(
        text.contains(r#"tollgate_attempts_total{outcome="ignored",type="other"} 4"#),
        "{text}"
    );
    assert!(!text.contains("type.of"), "{text}");
}

#[tokio::test]
async fn gauges_tell_what_waits() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, attempts, budget_from, due_at, received_at, last_error) VALUES
                ('evt_new', 'a.b', 'retrying', 1, 0, now() + interval '1 hour', now() - interval '100 seconds', 'e'),
                ('evt_replayed', 'a.b', 'retrying', 6, 5, now() + interval '1 hour', now() - interval '9 days', 'e');
             INSERT INTO webhook_events (id, type, state, attempts, last_error, finished_at)
             VALUES ('evt_dead', 'a.b', 'dead', 1, 'e', now()), ('evt_gone', 'a.b', 'discarded', 1, 'e', now());
             INSERT INTO dead_letters (event_id, reason, error, fingerprint, resolved_at, resolution)
             VALUES ('evt_dead', 'timeout', 'e', 'f00d', NULL, NULL), ('evt_gone', 'timeout', 'e', 'f00d', now(), 'discarded');
             INSERT INTO replays (created_by, reason, filter, plan_hash, planned_count, rate_per_s, state, cursor, skipped,
                started_at, changed_by, changed_why)
             VALUES ('ann', 'they may go now', '{}', 'h', 3, 20, 'paused', 1, 1, now(), 'ann', 'later')",
        )
        .await
        .unwrap();
    let worker = Process::worker(&bed, &[("RESCUE_AFTER", "10s")]).await;
    let lines = [
        "tollgate_backlog_events 2",
        "tollgate_backlog_oldest_age_seconds 1",
        "tollgate_open_dead_letters 1",
        "tollgate_events_to_replay 2",
        "tollgate_unpublished_messages 0",
        "tollgate_attempts_under_way 0",
    ];
    let text = eventually("the gauges", async || {
        let text = worker.metrics().await.unwrap();
        text.contains(lines[0]).then_some(text)
    })
    .await;
    for line in lines {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

/// Takes OTLP over HTTP, and keeps the bodies by path.
async fn collector() -> (String, Arc<Mutex<Vec<(String, Vec<u8>)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    let kept = received.clone();
    let limits = Limits {
        max_connections: 16,
        header_timeout: std::time::Duration::from_secs(30),
        drain: std::time::Duration::ZERO,
    };
    tokio::spawn(shared::http::serve(
        listener,
        limits,
        CancellationToken::new(),
        move |_, request| {
            let kept = kept.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request
                    .into_body()
                    .collect()
                    .await
                    .unwrap()
                    .to_bytes()
                    .to_vec();
                kept.lock().unwrap().push((path, body));
                shared::http::json(StatusCode::OK, "{}")
            }
        },
    ));
    (url, received)
}

#[tokio::test]
async fn traces_and_metrics_are_exported_where_the_standard_variables_ask_for_it() {
    let bed = TestBed::new().await;
    let (url, received) = collector().await;
    let export = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let gateway = Process::gateway(&bed, &export).await;
    let _worker = Process::worker(&bed, &export).await;
    let id = event_id();
    assert_eq!(
        post(gateway.address, event(&id, "some.type", &json!({})))
            .await
            .status,
        200
    );
    bed.until_state(&id, "ignored").await;
    let trace_id = bed.text("SELECT trace_id FROM event_attempts").await;
    let trace_id = hex::decode(trace_id).unwrap();
    let sent = |path: &str, parts: &[&[u8]]| {
        let holds =
            |body: &[u8], part: &[u8]| body.windows(part.len()).any(|window| window == part);
        let received = received.lock().unwrap();
        received
            .iter()
            .any(|(at, body)| at == path && parts.iter().all(|part| holds(body, part)))
    };
    eventually("the webhook's span", async || {
        sent(
            "/v1/traces",
            &[b"tollgate-gateway", b"webhook", id.as_bytes(), &trace_id],
        )
        .then_some(())
    })
    .await;
    eventually("the attempt's span, in the same trace", async || {
        sent("/v1/traces", &[b"tollgate-worker", b"process", &trace_id]).then_some(())
    })
    .await;
    eventually("metrics", async || {
        sent("/v1/metrics", &[b"tollgate_webhooks"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_is_away_slows_nothing() {
    let bed = TestBed::new().await;
    let export = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
    let mut gateway = Process::gateway(&bed, &export).await;
    assert_eq!(
        post(gateway.address, event(&event_id(), "some.type", &json!({})))
            .await
            .status,
        200
    );
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code().await, Some(0));
}
