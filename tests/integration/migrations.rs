//! The schema: applied once, safely at once by two, and required by both services.

use harness::binaries::{ops_with, run};
use harness::{RunningGateway, RunningWorker, SEAT_TIMES, TestBed};

#[tokio::test]
async fn two_migrations_at_once_both_succeed_and_apply_each_once() {
    let bed = TestBed::unmigrated().await;
    let owner = bed.owner_url();
    let variables = [("DATABASE_URL", owner.as_str())];
    let migrate = || ops_with(&bed, &["migrate", "--json"], &variables);
    let (one, two) = tokio::join!(migrate(), migrate());
    one.expect_code(0);
    two.expect_code(0);
    let applied = |done: &harness::binaries::Done| {
        done.json()["migrated"]["applied"].as_array().unwrap().len()
    };
    let versions = bed
        .count("SELECT count(*) FROM refinery_schema_history")
        .await;
    assert_eq!(
        i64::try_from(applied(&one) + applied(&two)).unwrap(),
        versions
    );
    migrate().await.expect_code(0);
}

#[tokio::test]
async fn the_services_refuse_to_start_without_the_schema_and_say_what_to_do() {
    let bed = TestBed::unmigrated().await;
    let owner = format!("--database-url={}", bed.owner_url());
    let problem = RunningGateway::try_start(&bed, &[&owner])
        .await
        .err()
        .unwrap();
    assert!(
        problem.contains("V1__events") && problem.contains("ops migrate"),
        "{problem}"
    );
    let worker =
        RunningWorker::start_with(&bed, worker::handlers::registry(SEAT_TIMES), &[&owner]).await;
    let problem = worker.ended().await.unwrap_err();
    assert!(problem.contains("ops migrate"), "{problem}");
}

#[tokio::test]
async fn the_process_exits_non_zero_with_the_same_sentence() {
    let bed = TestBed::unmigrated().await;
    let (url, amqp) = (bed.owner_url(), std::env::var("AMQP_URL").unwrap());
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("AMQP_URL", &amqp),
        ("STRIPE_WEBHOOK_SECRET", "whsec_x"),
    ];
    for (program, args) in [
        (
            "gateway",
            vec!["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"],
        ),
        ("worker", vec!["--admin-listen=127.0.0.1:0"]),
    ] {
        let done = run(program, &args, &variables).await;
        done.expect_code(1);
        assert!(
            done.stderr().contains("run `ops migrate`"),
            "{program}: {}",
            done.stderr()
        );
    }
}
