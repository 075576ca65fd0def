//! Dependencies cut off, frozen, emptied; workers killed. Nothing is lost, nothing is done twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use harness::binaries::Process;
use harness::broker::Broker;
use harness::stripe::{client, event, event_id, get, payment_intent, post};
use harness::{Proxy, RunningGateway, RunningWorker, SEAT_TIMES, TestBed, eventually};
use tokio::sync::Semaphore;
use worker::event::Event;
use worker::handlers::{Failure, Handler, Outcome, Registry};

fn amqp_url() -> String {
    std::env::var("AMQP_URL").unwrap()
}

fn body_of(id: &str) -> String {
    event(id, "payment_intent.succeeded", &payment_intent("ord_1"))
}

async fn until_readyz(address: SocketAddr, status: u16, within: Duration) {
    let started = Instant::now();
    eventually(&format!("readyz is {status}"), async || {
        (get(address, "/readyz").await.status == status).then_some(())
    })
    .await;
    assert!(
        started.elapsed() < within,
        "readyz took {:?} to become {status}",
        started.elapsed()
    );
}

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
async fn with_the_database_away_webhooks_are_refused_and_then_accepted_again() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&bed.gateway_url()).await;
    let gateway = RunningGateway::start(&bed, &[&format!("--database-url={through}")]).await;
    gateway.until_ready().await;
    let id = event_id();
    proxy.cut();
    let answer = post(gateway.address, body_of(&id)).await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    until_readyz(gateway.admin_address, 503, Duration::from_secs(5)).await;
    assert_eq!(get(gateway.address, "/healthz").await.status, 200);
    assert_eq!(bed.state(&id).await, "");
    proxy.open();
    eventually("the event is accepted", async || {
        (post(gateway.address, body_of(&id)).await.status == 200).then_some(())
    })
    .await;
    until_readyz(gateway.admin_address, 200, Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_frozen_database_is_answered_with_503_within_its_bound() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&bed.gateway_url()).await;
    let gateway = RunningGateway::start(
        &bed,
        &[&format!("--database-url={through}"), "--db-timeout=300ms"],
    )
    .await;
    gateway.until_ready().await;
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        200
    );
    proxy.freeze();
    let started = Instant::now();
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        503
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    proxy.open();
    eventually("events are accepted again", async || {
        (post(gateway.address, body_of(&event_id())).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_starts_before_its_database_serves_once_it_is_there() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&bed.gateway_url()).await;
    proxy.cut();
    let gateway = RunningGateway::start(&bed, &[&format!("--database-url={through}")]).await;
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        503
    );
    proxy.open();
    gateway.until_ready().await;
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        200
    );
}

#[tokio::test]
async fn more_requests_than_may_wait_are_refused_at_once() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&bed.gateway_url()).await;
    let variables = [
        ("DATABASE_URL", through.as_str()),
        ("GATEWAY_MAX_CONNECTIONS", "4000"),
    ];
    let gateway = Process::gateway(&bed, &variables).await;
    proxy.freeze();
    // Over a thousand may wait, and four batches of 64 may be under way.
    let posts = (0..1_500).map(|_| async { post(gateway.address, body_of(&event_id())).await });
    let answers = futures_util::future::join_all(posts).await;
    assert!(answers.iter().all(|answer| answer.status == 503));
    let metrics = format!("http://{}/metrics", gateway.admin_address);
    let metrics = client().get(metrics).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("too_many_waiting"), "{metrics}");
    proxy.open();
    eventually("events are accepted again", async || {
        (post(gateway.address, body_of(&event_id())).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_that_the_database_refuses_takes_no_other_with_it() {
    let bed = TestBed::new().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.id = 'evt_poison' THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON webhook_events FOR EACH ROW EXECUTE FUNCTION refuse()";
    bed.db.batch_execute(refuse).await.unwrap();
    let gateway = RunningGateway::start(&bed, &["--db-connections=1"]).await;
    // All of them wait for the table, so that they share batches.
    let lock = "BEGIN; LOCK TABLE webhook_events IN EXCLUSIVE MODE";
    bed.db.batch_execute(lock).await.unwrap();
    let ids = (0..20).map(|_| event_id()).chain(["evt_poison".to_owned()]);
    let posts =
        ids.map(|id| tokio::spawn(async move { post(gateway.address, body_of(&id)).await.status }));
    let posts: Vec<_> = posts.collect();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted
        AND relation = 'webhook_events'::regclass";
    bed.until_count(waiting, 1).await;
    bed.db.batch_execute("COMMIT").await.unwrap();
    let mut statuses = Vec::new();
    for post in posts {
        statuses.push(post.await.unwrap());
    }
    assert_eq!(statuses.pop(), Some(503));
    assert_eq!(statuses, [200; 20]);
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 20);
    bed.check_invariants().await;
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
    let (id, next) = (event_id(), event_id());
    assert_eq!(post(gateway.address, body_of(&id)).await.status, 200);
    assert_eq!(post(gateway.address, body_of(&next)).await.status, 200);
    let broker = Broker::connect(&bed).await;
    // It holds one message, and takes no more.
    eventually("one message is held", async || {
        (broker.ready().await == 1).then_some(())
    })
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM webhook_events WHERE attempts > 0 OR state <> 'received'")
            .await,
        0
    );
    proxy.open();
    bed.until_state(&id, "processed").await;
    bed.until_state(&next, "processed").await;
    assert_eq!(
        bed.count("SELECT max(attempts)::bigint FROM webhook_events")
            .await,
        1
    );
    until_readyz(worker.admin_address, 200, Duration::from_secs(10)).await;
    bed.check_invariants().await;
}

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
        WHERE state = 'idle in transaction' AND datname = current_database()";
    assert_eq!(bed.count(end).await, 1);
    let _other = RunningWorker::start(&bed, &[]).await;
    let broker = Broker::connect(&bed).await;
    broker.publish(&id).await;
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
