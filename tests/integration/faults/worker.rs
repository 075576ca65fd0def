//! Workers killed, and the database gone or frozen under them.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use harness::broker::Broker;
use harness::stripe::{event_id, get, post};
use harness::{Proxy, RunningGateway, RunningWorker, SEAT_TIMES, TestBed, eventually};
use tokio::sync::Semaphore;
use worker::event::Event;
use worker::handlers::{Failure, Handler, Outcome, Registry};

use super::{amqp_url, body_of, until_readyz};

/// Waits for a permit of the test before it goes on to the real handler.
struct Gated {
    reached: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Handler for Gated {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            self.reached.add_permits(1);
            self.go.acquire().await.unwrap().forget();
            let registry = worker::handlers::registry(SEAT_TIMES);
            registry
                .find("payment_intent.succeeded")
                .unwrap()
                .1
                .handle(event, tx)
                .await
        }
        .boxed()
    }
}

fn gated() -> (Registry, Arc<Semaphore>, Arc<Semaphore>) {
    let (reached, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = Gated {
        reached: reached.clone(),
        go: go.clone(),
    };
    (
        Registry::default().with("payment_intent.succeeded", handler),
        reached,
        go,
    )
}

#[tokio::test]
async fn with_the_database_away_a_worker_waits_and_burns_no_attempt() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let (proxy, through) = Proxy::before(&bed.worker_url()).await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let worker = RunningWorker::start(
        &bed,
        &[&format!("--database-url={through}"), "--concurrency=1"],
    )
    .await;
    proxy.cut();
    until_readyz(worker.admin_address, 503, Duration::from_secs(5)).await;
    let ids = [event_id(), event_id(), event_id()];
    for id in &ids {
        assert_eq!(post(gateway.address, body_of(id)).await.status, 200);
    }
    let broker = Broker::connect(&bed).await;
    // It holds one message and the next one, and takes no more.
    eventually("two messages are held", async || {
        (broker.ready().await == 1).then_some(())
    })
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM webhook_events WHERE attempts > 0 OR state <> 'received'")
            .await,
        0
    );
    proxy.open();
    for id in &ids {
        bed.until_state(id, "processed").await;
    }
    assert_eq!(
        bed.count("SELECT max(attempts)::bigint FROM webhook_events")
            .await,
        1
    );
    until_readyz(worker.admin_address, 200, Duration::from_secs(10)).await;
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_database_that_freezes_under_a_handler_burns_no_attempt() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (proxy, through) = Proxy::before(&bed.worker_url()).await;
    let (registry, reached, go) = gated();
    let database = format!("--database-url={through}");
    let worker = RunningWorker::start_with(&bed, registry, &[&database]).await;
    worker.until_ready().await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    reached.acquire().await.unwrap().forget();
    proxy.freeze();
    go.add_permits(100);
    // Longer than a handler may run, shorter than an attempt may take.
    tokio::time::sleep(Duration::from_secs(12)).await;
    proxy.open();
    bed.until_state(&id, "processed").await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    bed.check_invariants().await;
}

/// As on a full disk: what only reads goes on.
#[tokio::test]
async fn a_worker_whose_writes_are_refused_shows_it_and_burns_no_attempt() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    bed.db
        .batch_execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
                $$BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END$$;
             CREATE TRIGGER full_disk BEFORE INSERT ON event_attempts EXECUTE FUNCTION full_disk()",
        )
        .await
        .unwrap();
    let gateway = RunningGateway::start(&bed, &[]).await;
    let worker = RunningWorker::start(&bed, &[]).await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    until_readyz(worker.admin_address, 503, Duration::from_secs(5)).await;
    let told = get(worker.admin_address, "/readyz").await.body;
    assert_eq!(told["database"], "refuses writes", "{told}");
    bed.db
        .batch_execute("DROP TRIGGER full_disk ON event_attempts")
        .await
        .unwrap();
    until_readyz(worker.admin_address, 200, Duration::from_secs(10)).await;
    bed.until_state(&id, "processed").await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_lock_that_is_held_for_long_burns_no_attempt() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let _worker = RunningWorker::start(&bed, &[]).await;
    let lock = "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE";
    bed.db.batch_execute(lock).await.unwrap();
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    // Longer than all the tries at once take, two seconds each.
    tokio::time::sleep(Duration::from_secs(11)).await;
    bed.db.batch_execute("COMMIT").await.unwrap();
    bed.until_state(&id, "processed").await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_worker_killed_between_commit_and_ack_repeats_nothing() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    let (registry, reached, go) = gated();
    let worker =
        RunningWorker::start_with(&bed, registry, &[&format!("--amqp-url={through}")]).await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    reached.acquire().await.unwrap().forget();
    // From here on the broker hears nothing of this worker: the commit happens, the ack does not arrive.
    proxy.deafen();
    go.add_permits(1);
    bed.until_state(&id, "processed").await;
    drop(worker);
    proxy.cut();
    let broker = Broker::connect(&bed).await;
    eventually("the message is back", async || {
        (broker.ready().await == 1).then_some(())
    })
    .await;
    let _other = RunningWorker::start(&bed, &[]).await;
    eventually("the message is gone", async || {
        (broker.ready().await == 0).then_some(())
    })
    .await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 2);
    assert_eq!(bed.count("SELECT count(*) FROM emails").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_worker_killed_in_a_handler_leaves_the_event_to_another() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (proxy, through) = Proxy::before(&amqp_url()).await;
    let (registry, reached, _go) = gated();
    let worker =
        RunningWorker::start_with(&bed, registry, &[&format!("--amqp-url={through}")]).await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    reached.acquire().await.unwrap().forget();
    drop(worker);
    proxy.cut();
    let _other = RunningWorker::start(&bed, &[]).await;
    bed.until_state(&id, "processed").await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_worker_that_lost_its_transaction_cannot_commit_late() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (registry, reached, go) = gated();
    let late = RunningWorker::start_with(&bed, registry, &["--concurrency=1"]).await;
    late.until_ready().await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    reached.acquire().await.unwrap().forget();
    // As the database does to a worker that was frozen for too long.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE state = 'idle in transaction' AND query LIKE '%advisory%' AND datname = current_database()";
    assert_eq!(bed.count(end).await, 1);
    let _other = RunningWorker::start(&bed, &[]).await;
    let broker = Broker::connect(&bed).await;
    // The late one takes one more in advance, at the most.
    for _ in 0..3 {
        broker.publish(&id).await;
    }
    bed.until_state(&id, "processed").await;
    go.add_permits(100);
    late.stop().await.unwrap();
    // What the late one could not do goes back, and finds the event final.
    eventually("no message is left", async || {
        (broker.ready().await == 0).then_some(())
    })
    .await;
    assert_eq!(bed.count("SELECT count(*) FROM event_attempts").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM tickets").await, 2);
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_draining_worker_ends_what_it_has_begun() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let (registry, reached, go) = gated();
    let worker = RunningWorker::start_with(&bed, registry, &[]).await;
    let id = event_id();
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    reached.acquire().await.unwrap().forget();
    let address = worker.admin_address;
    let stopping = tokio::spawn(worker.stop());
    until_readyz(address, 503, Duration::from_secs(5)).await;
    assert_eq!(bed.state(&id).await, "received");
    go.add_permits(1);
    stopping.await.unwrap().unwrap();
    assert_eq!(bed.state(&id).await, "processed");
    assert_eq!(Broker::connect(&bed).await.ready().await, 0);
}
