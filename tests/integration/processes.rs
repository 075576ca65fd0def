//! The real processes: signals, kills, and what survives them.

use std::path::Path;

use futures_util::StreamExt;
use futures_util::stream;
use harness::binaries::{Launch, Process};
use harness::stripe::{event, event_id, payment_intent, post, post_with};
use harness::{TestBed, eventually};
use jiff::Timestamp;
use serde_json::json;
use shared::signature::SigningKey;

async fn status_with(process: &Process, secret: &str) -> u16 {
    let body = event(&event_id(), "some.type", &json!({}));
    let header = SigningKey::new(secret).sign(Timestamp::now().as_second(), body.as_bytes());
    post_with(process.address, "/webhooks/stripe", Some(&header), body)
        .await
        .status
}

#[tokio::test]
async fn secrets_are_read_again_on_hangup_and_a_bad_file_changes_nothing() {
    let bed = TestBed::new().await;
    let file = bed.path("secrets");
    std::fs::write(&file, "whsec_old\n").unwrap();
    let variables = [
        ("STRIPE_WEBHOOK_SECRET", ""),
        ("STRIPE_WEBHOOK_SECRET_FILE", file.to_str().unwrap()),
    ];
    let gateway = Process::gateway(&bed, &variables).await;
    let becomes = async |secret: &str, status: u16| {
        let what = format!("{secret} is answered with {status}");
        eventually(&what, async || {
            (status_with(&gateway, secret).await == status).then_some(())
        })
        .await;
    };
    let reload = |file: &Path, content: &str| {
        std::fs::write(file, content).unwrap();
        gateway.signal("HUP");
    };
    becomes("whsec_old", 200).await;
    becomes("whsec_new", 400).await;
    reload(&file, "whsec_old\nwhsec_new\n");
    becomes("whsec_new", 200).await;
    becomes("whsec_old", 200).await;
    reload(&file, "whsec_new");
    becomes("whsec_old", 400).await;
    reload(&file, " \n");
    eventually("the problem is logged", async || {
        gateway.log_text().contains("holds no secret").then_some(())
    })
    .await;
    becomes("whsec_new", 200).await;
    assert!(!gateway.log_text().contains("whsec_"), "a secret is logged");
}

#[tokio::test]
async fn a_gateway_whose_log_nobody_reads_serves_and_ends_all_the_same() {
    let bed = TestBed::new().await;
    let launch = Launch {
        unread: true,
        variables: &[("RUST_LOG", "debug")],
        ..Launch::default()
    };
    let mut gateway = Process::launch(&bed, "gateway", launch).await;
    let (client, url) = (
        harness::stripe::client(),
        format!("http://{}/webhooks/stripe", gateway.address),
    );
    let send = |_| {
        let body = event(&event_id(), "some.type", &json!({}));
        let header = harness::stripe::signature(body.as_bytes());
        let request = client.post(&url).header("stripe-signature", header);
        request.body(body).send()
    };
    // More lines than a pipe and the queue before it take.
    let answers = stream::iter(0..3_000).map(send).buffer_unordered(32);
    let statuses: Vec<u16> = answers
        .map(|answer| answer.unwrap().status().as_u16())
        .collect()
        .await;
    assert!(statuses.iter().all(|status| *status == 200));
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_terminated_gateway_loses_nothing_that_it_answered_with_200() {
    let bed = TestBed::new().await;
    let mut gateway = Process::gateway(&bed, &[]).await;
    let address = gateway.address;
    let client = harness::stripe::client();
    let storm = tokio::spawn(async move {
        let send = |_| {
            let (id, client) = (event_id(), client.clone());
            async move {
                let body = event(&id, "some.type", &json!({}));
                let header = harness::stripe::signature(body.as_bytes());
                let request = client
                    .post(format!("http://{address}/webhooks/stripe"))
                    .header("stripe-signature", header);
                let answer = request.body(body).send().await.ok()?;
                answer.status().is_success().then_some(id)
            }
        };
        stream::iter(0..2_000)
            .map(send)
            .buffer_unordered(32)
            .filter_map(async |id| id)
            .collect::<Vec<String>>()
            .await
    });
    bed.until_some("SELECT count(*) FROM webhook_events").await;
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code().await, Some(0));
    let acknowledged = storm.await.unwrap();
    assert!(
        !acknowledged.is_empty() && acknowledged.len() < 2_000,
        "{}",
        acknowledged.len()
    );
    let stored = bed
        .row(
            "SELECT count(*) FROM webhook_events WHERE id = ANY($1)",
            &[&acknowledged],
        )
        .await;
    assert_eq!(
        stored.get::<_, i64>(0),
        i64::try_from(acknowledged.len()).unwrap()
    );
}

#[tokio::test]
async fn killed_services_lose_nothing_and_repeat_nothing() {
    const ORDERS: usize = 60;
    let bed = TestBed::new().await;
    let order = |n| json!({ "id": format!("ord_{n}"), "email": "b@example.com", "items": [{ "product": "ga", "quantity": 2 }] });
    bed.seed(&json!({
        "products": [{ "id": "ga", "kind": "seat", "name": "GA", "unit_amount_cents": 2500, "currency": "usd", "capacity": 500 }],
        "orders": (0..ORDERS).map(order).collect::<Vec<_>>(),
    }))
    .await;
    let mut gateway = Process::gateway(&bed, &[("OUTBOX_GRACE", "1ms")]).await;
    let mut worker = Process::worker(&bed, &[("RESCUE_AFTER", "3s")]).await;
    for n in 0..ORDERS {
        let order = format!("ord_{n}");
        let body = event(
            &format!("evt_{order}"),
            "payment_intent.succeeded",
            &payment_intent(&order),
        );
        assert_eq!(post(gateway.address, body).await.status, 200);
        if n % 20 == 10 {
            worker.signal("KILL");
            worker.exit_code().await;
            worker = Process::worker(&bed, &[("RESCUE_AFTER", "3s")]).await;
        }
        if n % 20 == 15 {
            gateway.signal("KILL");
            gateway.exit_code().await;
            gateway = Process::gateway(&bed, &[("OUTBOX_GRACE", "1ms")]).await;
        }
    }
    bed.until_count(
        "SELECT count(*) FROM webhook_events WHERE state = 'processed'",
        60,
    )
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'paid'")
            .await,
        60
    );
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 120);
    assert_eq!(bed.count("SELECT count(*) FROM emails").await, 60);
    bed.check_invariants().await;
}
