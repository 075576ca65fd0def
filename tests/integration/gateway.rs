//! The gateway's contract, row by row, under the gateway's database role.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use harness::broker::Broker;
use harness::stripe::{
    Answer, SECRET, client, event, event_id, get, payment_intent, post, post_with, send, signature,
};
use harness::{RunningGateway, TestBed, eventually};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::signature::SigningKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn body_of(id: &str) -> String {
    event(id, "payment_intent.succeeded", &payment_intent("ord_1"))
}

#[tokio::test]
async fn a_signed_event_is_answered_and_stored() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (id, other) = (event_id(), event_id());
    let answer = post(gateway.address, body_of(&id)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    let expected = json!({ "received": true, "id": id, "duplicate": false });
    assert_eq!(answer.body, expected);

    let row = bed
        .row("SELECT * FROM webhook_events WHERE id = $1", &[&id])
        .await;
    assert_eq!(row.get::<_, &str>("type"), "payment_intent.succeeded");
    assert_eq!(row.get::<_, &str>("state"), "received");
    assert_eq!(row.get::<_, Option<bool>>("livemode"), Some(false));
    assert_eq!(
        row.get::<_, Option<&str>>("api_version"),
        Some("2025-09-30.clover")
    );
    assert_eq!(
        (
            row.get::<_, i32>("deliveries"),
            row.get::<_, i32>("attempts")
        ),
        (1, 0)
    );

    assert_eq!(
        post(gateway.address, body_of(&id)).await.body["duplicate"],
        true
    );
    assert_eq!(
        post(gateway.address, body_of(&other)).await.body["duplicate"],
        false
    );
    let deliveries = bed
        .row(
            "SELECT deliveries FROM webhook_events WHERE id = $1",
            &[&id],
        )
        .await;
    assert_eq!(deliveries.get::<_, i32>(0), 2);
}

#[tokio::test]
async fn an_accepted_event_is_published_at_once_and_its_outbox_row_cleared() {
    let bed = TestBed::new().await;
    let broker = Broker::connect(&bed).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    gateway.until_ready().await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    let message = eventually("the message is in the queue", async || broker.take().await).await;
    let delivery = &message.delivery;
    let body: Value = serde_json::from_slice(&delivery.data).unwrap();
    assert_eq!(body, json!({ "id": id }));
    assert_eq!(delivery.routing_key.as_str(), "payment_intent.succeeded");
    let properties = &delivery.properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    let message_id = properties.message_id().as_ref().map(|text| text.as_str());
    assert_eq!(message_id, Some(id.as_str()));
    assert!(
        properties
            .headers()
            .as_ref()
            .unwrap()
            .contains_key("traceparent")
    );
    bed.until_count("SELECT count(*) FROM outbox", 0).await;
}

#[tokio::test]
async fn bodies_of_any_api_version_are_stored_byte_for_byte() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/events");
    let mut files = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let body = std::fs::read(&path).unwrap();
        let answer = post(gateway.address, body.clone()).await;
        assert_eq!(answer.status, 200, "{path:?}: {:?}", answer.body);
        let id = answer.body["id"].as_str().unwrap().to_owned();
        let row = bed.row("SELECT body, created_at FROM event_payloads JOIN webhook_events ON id = event_id WHERE id = $1", &[&id]).await;
        assert_eq!(row.get::<_, Vec<u8>>("body"), body, "{path:?}");
        assert!(
            row.get::<_, Option<Timestamp>>("created_at").is_some(),
            "{path:?}"
        );
        files += 1;
    }
    assert_eq!(files, 6);
    assert_eq!(
        bed.count("SELECT count(*) FROM webhook_events WHERE account IS NOT NULL")
            .await,
        1
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM webhook_events WHERE type = 'v1.payment_intent.succeeded'")
            .await,
        1
    );
}

#[tokio::test]
async fn what_does_not_verify_is_refused_alike_and_leaves_nothing() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (body, now) = (body_of(&event_id()), Timestamp::now().as_second());
    let (key, other) = (SigningKey::new(SECRET), SigningKey::new("whsec_other"));
    let good = key.sign(now, body.as_bytes());
    let stale = key.sign(now - 310, body.as_bytes());
    let future = key.sign(now + 310, body.as_bytes());
    let headers = [
        None,
        Some(String::new()),
        Some("garbage".to_owned()),
        Some(good.replace("v1=", "v0=")),
        Some(good.replace("t=", "t=0")),
        Some(format!("t={now},{good}")),
        Some(format!("{good},")),
        Some(other.sign(now, body.as_bytes())),
        Some(key.sign(now, format!("{body} ").as_bytes())),
        Some(stale),
        Some(future),
    ];
    let mut bodies = Vec::new();
    for header in &headers {
        let answer = post_with(
            gateway.address,
            "/webhooks/stripe",
            header.as_deref(),
            body.clone(),
        )
        .await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "invalid_signature"),
            "{header:?}"
        );
        bodies.push(answer.body);
    }
    let request = client()
        .post(format!("http://{}/webhooks/stripe", gateway.address))
        .body(body.clone());
    let twice = send(
        request
            .header("stripe-signature", &good)
            .header("stripe-signature", &good),
    )
    .await;
    assert_eq!((twice.status, twice.code()), (400, "invalid_signature"));
    assert!(
        bodies.iter().all(|body| *body == bodies[0]),
        "the cause shows: {bodies:?}"
    );
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 0);
    assert_eq!(bed.count("SELECT count(*) FROM event_payloads").await, 0);
}

#[tokio::test]
async fn signed_bodies_that_are_no_events_are_refused() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "{\"id\":\"evt_1\"}",
        r#"{"id":1,"type":"a"}"#,
        r#"{"id":"evt_1","type":"a"#,
    ] {
        let answer = post(gateway.address, body).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "invalid_payload"),
            "{body}"
        );
    }
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 0);
}

#[tokio::test]
async fn other_methods_and_paths_have_their_answers() {
    let bed = TestBed::new().await;
    let paths = "--webhook-paths=/webhooks/stripe,/api/payments/webhook";
    let gateway = RunningGateway::start(&bed, &[paths]).await;
    let address = gateway.address;
    let body = body_of(&event_id());
    let second = post_with(
        address,
        "/api/payments/webhook?x=1",
        Some(&signature(body.as_bytes())),
        body,
    )
    .await;
    assert_eq!(second.status, 200);
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let url = format!("http://{address}/webhooks/stripe");
        let answer = send(client().request(method.parse().unwrap(), url)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (405, "method_not_allowed"),
            "{method}"
        );
        assert_eq!(answer.headers["allow"], "POST");
    }
    for path in [
        "/",
        "/webhooks",
        "/webhooks/stripe/",
        "/WEBHOOKS/stripe",
        "/readyz",
        "/metrics",
        "/livez",
    ] {
        let answer = get(address, path).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
    let health = get(address, "/healthz").await;
    assert_eq!(
        (health.status, health.body),
        (200, json!({ "status": "ok" }))
    );
    assert_eq!(post_with(address, "/healthz", None, "").await.status, 405);
}

#[tokio::test]
async fn too_large_a_body_is_refused_without_being_read() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--max-body-bytes=2000"]).await;
    let padded = |length: usize| {
        let body = body_of(&event_id());
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    assert_eq!(post(gateway.address, padded(2_000)).await.status, 200);
    let answer = post(gateway.address, padded(2_001)).await;
    assert_eq!((answer.status, answer.code()), (413, "payload_too_large"));

    // Announced: refused although not one byte of it was sent.
    let head = "POST /webhooks/stripe HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n\r\n";
    assert!(
        talk(&gateway, &[head.as_bytes()])
            .await
            .starts_with("HTTP/1.1 413")
    );
    // Not announced: refused once it is over the limit.
    let head = "POST /webhooks/stripe HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("7d0\r\n{}\r\n", "x".repeat(2_000));
    assert!(
        talk(
            &gateway,
            &[head.as_bytes(), chunk.as_bytes(), chunk.as_bytes()]
        )
        .await
        .starts_with("HTTP/1.1 413")
    );
}

/// Sends parts as they are, and reads until the gateway closes the connection.
async fn talk(gateway: &RunningGateway, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    for part in parts {
        // The gateway may have closed already: then its answer is there to read.
        let _ = stream.write_all(part).await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_clients_are_cut_off_at_the_deadline() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--request-timeout=500ms"]).await;
    let started = Instant::now();
    let (nothing, half_headers, slow_body) = tokio::join!(
        talk(&gateway, &[]),
        talk(&gateway, &[b"POST /webhooks/stripe HTTP/1.1\r\nhost:"]),
        talk(
            &gateway,
            &[b"POST /webhooks/stripe HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"]
        ),
    );
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert!(
        nothing.is_empty() || nothing.starts_with("HTTP/1.1 408"),
        "{nothing}"
    );
    assert!(
        half_headers.is_empty() || half_headers.starts_with("HTTP/1.1 408"),
        "{half_headers}"
    );
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_cut_off() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let requests = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    // Until both sides' buffers are full, nothing fails; then the gateway gives up, and writing fails.
    let writing = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(40), writing)
        .await
        .expect("the connection ends");
}

#[tokio::test]
async fn an_event_whose_sender_left_is_stored_all_the_same() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let id = event_id();
    let body = body_of(&id);
    let head = format!(
        "POST /webhooks/stripe HTTP/1.1\r\nhost: x\r\nstripe-signature: {}\r\ncontent-length: {}\r\n\r\n{body}",
        signature(body.as_bytes()),
        body.len()
    );
    // Another transaction holds the id, so that the insert is under way while the sender leaves.
    let mut blocker = TestBlocker::start(&bed, &id).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollgate-gateway'
        AND wait_event_type = 'Lock' AND datname = current_database()";
    bed.until_count(waiting, 1).await;
    drop(stream);
    blocker.release().await;
    bed.until_state(&id, "received").await;
}

/// Inserts an event in a transaction that is rolled back later.
struct TestBlocker {
    client: tokio_postgres::Client,
}

impl TestBlocker {
    async fn start(bed: &TestBed, id: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(&bed.owner_url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN").await.unwrap();
        client
            .execute(
                "INSERT INTO webhook_events (id, type) VALUES ($1, 'x')",
                &[&id],
            )
            .await
            .unwrap();
        Self { client }
    }

    async fn release(&mut self) {
        self.client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn a_flood_of_forgeries_is_limited_and_a_valid_event_never_is() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--invalid-per-minute=5"]).await;
    for _ in 0..5 {
        assert_eq!(
            post_with(gateway.address, "/webhooks/stripe", Some("t=1,v1=x"), "{}")
                .await
                .status,
            400
        );
    }
    let limited = post_with(gateway.address, "/webhooks/stripe", Some("t=1,v1=x"), "{}").await;
    assert_eq!((limited.status, limited.code()), (429, "rate_limited"));
    let retry_after: u64 = limited.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        200
    );
}

#[tokio::test]
async fn the_status_for_bad_signatures_can_be_401() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--invalid-signature-status=401"]).await;
    let answer = post_with(gateway.address, "/webhooks/stripe", None, "{}").await;
    assert_eq!((answer.status, answer.code()), (401, "invalid_signature"));
}

#[tokio::test]
async fn a_storm_of_duplicates_is_one_event_and_always_200() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (id, client) = (event_id(), client());
    let body = body_of(&id);
    let answers: Vec<Answer> = stream::iter(0..1_000)
        .map(|_| {
            let request = client.post(format!("http://{}/webhooks/stripe", gateway.address));
            send(
                request
                    .header("stripe-signature", signature(body.as_bytes()))
                    .body(body.clone()),
            )
        })
        .buffer_unordered(64)
        .collect()
        .await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.body["duplicate"] == false)
            .count(),
        1
    );
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 1);
    assert_eq!(
        bed.count("SELECT deliveries::bigint FROM webhook_events")
            .await,
        1_000
    );
    assert_eq!(bed.count("SELECT count(*) FROM event_payloads").await, 1);
}

#[tokio::test]
async fn every_secret_of_the_list_may_sign() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--webhook-secret=whsec_old, whsec_new"]).await;
    let now = Timestamp::now().as_second();
    for (secret, status) in [("whsec_old", 200), ("whsec_new", 200), ("whsec_other", 400)] {
        let body = body_of(&event_id());
        let header = SigningKey::new(secret).sign(now, body.as_bytes());
        let answer = post_with(gateway.address, "/webhooks/stripe", Some(&header), body).await;
        assert_eq!(answer.status, status, "{secret}");
    }
}

#[tokio::test]
async fn a_drain_answers_what_is_in_flight_and_then_ends() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let id = event_id();
    let mut blocker = TestBlocker::start(&bed, &id).await;
    let address = gateway.address;
    let in_flight = tokio::spawn(async move { post(address, body_of(&id)).await.status });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    bed.until_count(waiting, 1).await;
    let stopped = tokio::spawn(gateway.stop());
    eventually("no new connections are taken", async || {
        TcpStream::connect(address).await.err()
    })
    .await;
    blocker.release().await;
    assert_eq!(in_flight.await.unwrap(), 200);
    stopped.await.unwrap().unwrap();
}
