//! The database as gateways meet it: away, frozen, late, refusing.

use std::time::{Duration, Instant};

use harness::binaries::Process;
use harness::stripe::{client, event, event_id, get, post};
use harness::{Proxy, RunningGateway, TestBed, eventually};
use serde_json::json;

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

#[tokio::test]
async fn once_the_database_is_known_to_be_lost_nobody_waits_for_it() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&bed.gateway_url()).await;
    let gateway = RunningGateway::start(&bed, &[&format!("--database-url={through}")]).await;
    gateway.until_ready().await;
    proxy.freeze();
    // The first ones wait for as long as a statement may take: they find it out.
    let body = || body_of(&event_id());
    assert_eq!(post(gateway.address, body()).await.status, 503);
    until_readyz(gateway.admin_address, 503, Duration::from_secs(5)).await;
    let started = Instant::now();
    let posts = (0..20).map(|_| async { post(gateway.address, body()).await.status });
    let answers = futures_util::future::join_all(posts).await;
    assert_eq!(answers, [503; 20]);
    // As long as a single statement may take would be two seconds.
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    proxy.open();
    eventually("events are accepted again", async || {
        (post(gateway.address, body()).await.status == 200).then_some(())
    })
    .await;
    until_readyz(gateway.admin_address, 200, Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_database_that_answers_but_takes_no_writes_is_told_by_readyz() {
    let bed = TestBed::new().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON webhook_events EXECUTE FUNCTION refuse()";
    let gateway = RunningGateway::start(&bed, &[]).await;
    gateway.until_ready().await;
    bed.db.batch_execute(refuse).await.unwrap();
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        503
    );
    until_readyz(gateway.admin_address, 503, Duration::from_secs(1)).await;
    bed.db
        .batch_execute("DROP TRIGGER refuse ON webhook_events")
        .await
        .unwrap();
    // Also where nobody sends it anything because it is not ready.
    until_readyz(gateway.admin_address, 200, Duration::from_secs(10)).await;
    assert_eq!(
        post(gateway.address, body_of(&event_id())).await.status,
        200
    );
}

#[tokio::test]
async fn a_duplicate_whose_row_is_held_keeps_no_new_event_waiting_for_nothing() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--db-connections=1"]).await;
    let held = event_id();
    assert_eq!(post(gateway.address, body_of(&held)).await.status, 200);
    // As a worker does that was frozen before its commit.
    let hold = format!("BEGIN; UPDATE webhook_events SET rescues = rescues WHERE id = '{held}'");
    bed.db.batch_execute(&hold).await.unwrap();
    let ids = (0..20).map(|_| event_id()).chain([held.clone()]);
    let posts = ids.map(|id| async move { post(gateway.address, body_of(&id)).await.status });
    let mut statuses = futures_util::future::join_all(posts).await;
    assert_eq!(statuses.pop(), Some(503));
    assert_eq!(statuses, [200; 20]);
    bed.db.batch_execute("COMMIT").await.unwrap();
    let again = post(gateway.address, body_of(&held)).await;
    assert_eq!(
        (again.status, &again.body["duplicate"]),
        (200, &true.into())
    );
}

#[tokio::test]
async fn large_events_at_once_are_all_accepted() {
    let bed = TestBed::new().await;
    // Other tests share the machine: how long it takes is no matter here.
    let gateway = RunningGateway::start(&bed, &["--request-timeout=60s"]).await;
    let large = "x".repeat(1_000_000);
    let posts = (0..120).map(|_| {
        let body = event(&event_id(), "some.type", &json!({ "text": large }));
        async { post(gateway.address, body).await.status }
    });
    let answers = futures_util::future::join_all(posts).await;
    assert_eq!(answers, [200; 120]);
    let whole = "SELECT count(*) FROM event_payloads WHERE length(body) > 1000000";
    assert_eq!(bed.count(whole).await, 120);
}

#[tokio::test]
async fn a_second_database_host_is_found_although_the_first_one_hangs() {
    let bed = TestBed::new().await;
    let good = bed.gateway_url();
    let (proxy, hung) = Proxy::before(&good).await;
    proxy.freeze();
    let both = good.replacen(
        &host_of(&good),
        &format!("{},{}", host_of(&hung), host_of(&good)),
        1,
    );
    let gateway = RunningGateway::start(&bed, &[&format!("--database-url={both}")]).await;
    eventually("events are accepted", async || {
        (post(gateway.address, body_of(&event_id())).await.status == 200).then_some(())
    })
    .await;
}

fn host_of(url: &str) -> String {
    let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
    authority.rsplit('@').next().unwrap().to_owned()
}
