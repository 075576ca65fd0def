//! The broker cut off, frozen, emptied.

use std::time::{Duration, Instant};

use harness::broker::Broker;
use harness::stripe::{event_id, get, post};
use harness::{Proxy, RunningGateway, RunningWorker, TestBed, eventually};
use shared::broker::{BrokerSettings, Message, PublishError, Publisher};
use tokio_util::sync::CancellationToken;

use super::{amqp_url, body_of, until_readyz};

#[tokio::test]
async fn with_the_broker_away_webhooks_are_accepted_and_fulfilled_later() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    proxy.cut();
    let gateway = RunningGateway::start(
        &bed,
        &[&format!("--amqp-url={through}"), "--outbox-grace=1ms"],
    )
    .await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    assert_eq!(bed.count("SELECT count(*) FROM outbox").await, 1);
    let _worker = RunningWorker::start(&bed, &[]).await;
    bed.until_state(&id, "processed").await;
    bed.until_count("SELECT count(*) FROM outbox", 0).await;
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_broker_lost_under_way_costs_nothing() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    let amqp = format!("--amqp-url={through}");
    let gateway = RunningGateway::start(&bed, &[&amqp, "--outbox-grace=1ms"]).await;
    let worker = RunningWorker::start(&bed, &[&amqp]).await;
    gateway.until_ready().await;
    proxy.cut();
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    until_readyz(gateway.admin_address, 503, Duration::from_secs(5)).await;
    until_readyz(worker.admin_address, 503, Duration::from_secs(5)).await;
    assert_eq!(get(gateway.admin_address, "/livez").await.status, 200);
    proxy.open();
    until_readyz(gateway.admin_address, 200, Duration::from_secs(10)).await;
    until_readyz(worker.admin_address, 200, Duration::from_secs(10)).await;
    bed.until_state(&id, "processed").await;
    bed.check_invariants().await;
}

/// As a firewall does that keeps too few flows: publishing goes on, so that nothing else would tell.
#[tokio::test]
async fn a_consumer_whose_connection_was_forgotten_shows_it_and_consumes_again() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    let worker = RunningWorker::start(&bed, &[&format!("--amqp-url={through}")]).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    proxy.forget("tollgate-worker-consume");
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    until_readyz(worker.admin_address, 503, Duration::from_secs(5)).await;
    let told = get(worker.admin_address, "/readyz").await.body;
    assert_eq!(told["broker"], "not consuming", "{told}");
    until_readyz(worker.admin_address, 200, Duration::from_secs(20)).await;
    bed.until_state(&id, "processed").await;
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_frozen_broker_does_not_slow_an_answer_and_shows_in_readiness() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    let gateway = RunningGateway::start(&bed, &[&format!("--amqp-url={through}")]).await;
    gateway.until_ready().await;
    proxy.freeze();
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(
            post(gateway.address, body_of(&event_id())).await.status,
            200
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "20 answers took {:?}",
        started.elapsed()
    );
    until_readyz(gateway.admin_address, 503, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn events_whose_messages_were_purged_are_rescued() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let broker = Broker::connect(&bed).await;
    gateway.until_ready().await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    bed.until_count("SELECT count(*) FROM outbox", 0).await;
    eventually("the message is in the queue", async || {
        (broker.ready().await == 1).then_some(())
    })
    .await;
    broker.purge().await;
    let _worker = RunningWorker::start(&bed, &["--rescue-after=1s"]).await;
    bed.until_state(&id, "processed").await;
    assert_eq!(
        bed.count("SELECT rescues::bigint FROM webhook_events")
            .await,
        1
    );
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &["--outbox-grace=1ms"]).await;
    let worker = RunningWorker::start(&bed, &["--rescue-after=2s"]).await;
    Broker::connect(&bed).await.delete_queue().await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    bed.until_state(&id, "processed").await;
    until_readyz(worker.admin_address, 200, Duration::from_secs(10)).await;
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_message_past_the_delivery_limit_counts_as_one_attempt_and_is_retried() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    gateway.until_ready().await;
    let broker = Broker::connect(&bed).await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    bed.until_count("SELECT count(*) FROM outbox", 0).await;
    let crashes = broker.crash_until_put_aside().await;
    assert!((2..=20).contains(&crashes), "{crashes}");
    let _worker = RunningWorker::start(&bed, &[]).await;
    bed.until_state(&id, "processed").await;
    let first = bed
        .row(
            "SELECT outcome, error_kind FROM event_attempts WHERE number = 1",
            &[],
        )
        .await;
    assert_eq!(
        (first.get::<_, &str>(0), first.get::<_, &str>(1)),
        ("transient", "delivery_limit")
    );
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 2);
    bed.check_invariants().await;
}

/// A return would be told of any publish whose confirm is missing, and not of the one that came back.
#[tokio::test]
async fn a_connection_on_which_a_confirm_is_missing_is_not_published_over_again() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    let settings = BrokerSettings::new(through.parse().unwrap(), bed.prefix());
    let shutdown = CancellationToken::new();
    let (mut publisher, supervisor) =
        Publisher::new(settings, "test", Default::default(), shutdown.clone());
    let supervisor = tokio::spawn(supervisor);
    eventually("it connects", async || {
        publisher.is_connected().then_some(())
    })
    .await;
    let message = Message {
        event_id: event_id(),
        event_type: "a.b".to_owned(),
        traceparent: None,
    };
    proxy.mute();
    let missing = publisher.publish(&[&message, &message]).await;
    assert_eq!(missing, [Err(PublishError::TimedOut); 2]);
    assert_eq!(
        publisher.publish(&[&message]).await,
        [Err(PublishError::Disconnected)]
    );
    let broker = Broker::connect(&bed).await;
    broker.unbind_queue().await;
    proxy.open();
    assert_eq!(
        publisher.publish(&[&message]).await,
        [Err(PublishError::Disconnected)]
    );
    // The next connection binds the queue again.
    eventually("it connects again", async || {
        publisher.is_connected().then_some(())
    })
    .await;
    assert_eq!(publisher.publish(&[&message]).await, [Ok(())]);
    shutdown.cancel();
    supervisor.await.unwrap();
}
