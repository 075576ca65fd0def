//! Events that are made here: one by one, and as life cycles.

use harness::binaries::{ops, ops_with};
use harness::{RunningGateway, RunningWorker, TestBed};

use super::start;

#[tokio::test]
async fn trigger_sends_events_that_fulfill_an_order() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (gateway, _worker) = start(&bed).await;
    let url = format!("http://{}/webhooks/stripe", gateway.address);
    let trigger = async |event_type: &str, more: &[&str]| {
        let args: Vec<&str> = ["trigger", event_type, "--url", &url, "--json"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        let done = ops(&bed, &args).await;
        done.expect_code(0);
        done.json()["triggered"].clone()
    };
    for (event_type, status) in [
        ("payment_intent.payment_failed", "cancelled"),
        ("payment_intent.succeeded", "paid"),
        ("checkout.session.completed", "paid"),
        ("charge.refunded", "refunded"),
    ] {
        let sent = trigger(event_type, &["--order", "ord_1"]).await;
        bed.until_state(sent["id"].as_str().unwrap(), "processed")
            .await;
        assert_eq!(
            bed.text("SELECT status FROM orders").await,
            status,
            "{event_type}"
        );
    }
    let repeated = trigger("invoice.paid", &["--repeat", "5"]).await;
    assert_eq!(
        (
            repeated["accepted"].as_u64(),
            repeated["answer"]["duplicate"].as_bool()
        ),
        (Some(5), Some(true))
    );
    let unknown = trigger("brand.new", &["--id", "evt_brand_new"]).await;
    bed.until_state(unknown["id"].as_str().unwrap(), "ignored")
        .await;
    bed.check_invariants().await;

    let printed = ops(&bed, &["trigger", "charge.refunded", "--print"]).await;
    assert_eq!(printed.json()["type"], "charge.refunded");
    ops(&bed, &["trigger", "x", "--url", "http://127.0.0.1:9/"])
        .await
        .expect_code(7);
    ops_with(&bed, &["trigger", "x"], &[("STRIPE_WEBHOOK_SECRET", "")])
        .await
        .expect_code(2);
}

#[tokio::test]
async fn life_cycles_end_as_their_names_say() {
    let bed = TestBed::new().await;
    // Disputes and refunds name only the payment: they may overtake it, and are tried again.
    let (gateway, _worker) = tokio::join!(
        RunningGateway::start(&bed, &[]),
        RunningWorker::start(&bed, &["--max-attempts=50"])
    );
    let url = format!("http://{}/webhooks/stripe", gateway.address);
    for (lifecycle, status, events) in [
        ("paid", "paid", 3),
        ("paid-then-refunded", "refunded", 5),
        ("paid-then-partly-refunded", "refunded", 3),
        ("failed-then-paid", "paid", 3),
        ("failed-then-canceled", "cancelled", 2),
        ("expired", "cancelled", 1),
        ("delayed-then-paid", "paid", 2),
        ("delayed-then-failed", "cancelled", 2),
        ("authorized-then-paid", "paid", 2),
        ("disputed-then-lost", "review", 3),
        ("refund-failed", "review", 3),
    ] {
        bed.seed_order(lifecycle).await;
        let args = [
            "trigger",
            "lifecycle",
            lifecycle,
            "--order",
            lifecycle,
            "--url",
            &url,
            "--json",
        ];
        let done = ops(&bed, &args).await;
        done.expect_code(0);
        let triggered = done.json()["triggered"].clone();
        let sent = triggered
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![triggered.clone()]);
        assert_eq!(sent.len(), events, "{lifecycle}");
        for event in &sent {
            let id = event["id"].as_str().unwrap();
            harness::eventually(&format!("{lifecycle}: {id} is final"), async || {
                ["processed", "ignored"]
                    .contains(&bed.state(id).await.as_str())
                    .then_some(())
            })
            .await;
        }
        let found = bed
            .row("SELECT status FROM orders WHERE id = $1", &[&lifecycle])
            .await;
        assert_eq!(found.get::<_, &str>(0), status, "{lifecycle}");
    }
    ops(&bed, &["trigger", "lifecycle", "nonsense"])
        .await
        .expect_code(2);
    bed.check_invariants().await;
}
