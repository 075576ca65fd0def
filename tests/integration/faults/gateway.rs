//! The database as gateways meet it: away, frozen, late, refusing.

use std::time::{Duration, Instant};

use harness::binaries::Process;
use harness::stripe::{client, event_id, get, post};
use harness::{Proxy, RunningGateway, TestBed, eventually};

use super::{body_of, until_readyz};

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
async fn what_any_event_would_meet_refuses_a_batch_without_a_try_for_each() {
    let bed = TestBed::new().await;
    // A lock that takes too long, and a statement that does. What a sequence counts is not rolled back.
    for code in ["55P03", "57014"] {
        let refuse = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END $$;
            CREATE SEQUENCE tries;
            GRANT USAGE ON SEQUENCE tries TO PUBLIC;
            CREATE TRIGGER refuse BEFORE INSERT ON webhook_events EXECUTE FUNCTION refuse()"
        );
        bed.db.batch_execute(&refuse).await.unwrap();
        let gateway = RunningGateway::start(&bed, &["--db-connections=1"]).await;
        let posts = (0..100).map(|_| async { post(gateway.address, body_of(&event_id())).await });
        let answers = futures_util::future::join_all(posts).await;
        assert!(answers.iter().all(|answer| answer.status == 503));
        let tries = bed.count("SELECT last_value FROM tries").await;
        assert!(tries < 100, "{tries} tries of 100 events after {code}");
        bed.db
            .batch_execute("DROP TRIGGER refuse ON webhook_events; DROP SEQUENCE tries")
            .await
            .unwrap();
    }
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 0);
}
