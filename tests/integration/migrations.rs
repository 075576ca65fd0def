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

/// As with `pg_dump`: what waits for a reader keeps everybody else waiting behind it.
#[tokio::test]
async fn a_migration_gives_way_while_a_table_is_read() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "DELETE FROM refinery_schema_history WHERE version = 18;
             CREATE INDEX event_payloads_received_at_idx ON event_payloads (received_at)",
        )
        .await
        .unwrap();
    let (reader, connection) = tokio_postgres::connect(&bed.owner_url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM event_payloads")
        .await
        .unwrap();
    let owner = bed.owner_url();
    let variables = [("DATABASE_URL", owner.as_str())];
    let writes = async {
        bed.until_some("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'")
            .await;
        for n in 0..20 {
            let insert = format!(
                "SET statement_timeout = '2s'; INSERT INTO webhook_events (id, type) VALUES ('evt_{n}', 'a.b');
                 INSERT INTO event_payloads (event_id, body) VALUES ('evt_{n}', '')"
            );
            bed.db.batch_execute(&insert).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let (migrated, ()) = tokio::join!(ops_with(&bed, &["migrate"], &variables), writes);
    migrated.expect_code(0);
    let applied = "SELECT count(*) FROM refinery_schema_history WHERE version = 18";
    assert_eq!(bed.count(applied).await, 1);
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

#[tokio::test]
async fn a_schema_of_a_later_version_is_served_and_not_migrated() {
    let bed = TestBed::new().await;
    let later = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (9999, 'later', '2999-01-01T00:00:00Z', '0')";
    bed.db.batch_execute(later).await.unwrap();
    let gateway = RunningGateway::start(&bed, &[]).await;
    let worker = RunningWorker::start(&bed, &[]).await;
    gateway.until_ready().await;
    worker.until_ready().await;
    let before = schema(&bed).await;
    let url = bed.owner_url();
    let done = ops_with(&bed, &["migrate"], &[("DATABASE_URL", &url)]).await;
    done.expect_code(1);
    assert!(done.stderr().contains("V9999__later"), "{}", done.stderr());
    assert_eq!(schema(&bed).await, before);
}

/// Tables with their columns, and the history.
async fn schema(bed: &TestBed) -> String {
    bed.text(
        "SELECT (SELECT string_agg(table_name || '.' || column_name, ',' ORDER BY table_name, ordinal_position)
                FROM information_schema.columns WHERE table_schema = 'public')
            || (SELECT string_agg(version::text, ',' ORDER BY version) FROM refinery_schema_history)",
    )
    .await
}

#[tokio::test]
async fn an_event_never_contradicts_itself() {
    let bed = TestBed::new().await;
    let arrived = "INSERT INTO webhook_events (id, type) VALUES ('evt_1', 'a.b')";
    bed.db.batch_execute(arrived).await.unwrap();
    for (change, broken) in [
        ("state = 'lost'", "state_known"),
        ("state = 'retrying'", "due_while_retrying"),
        ("due_at = now()", "due_while_retrying"),
        ("state = 'processed'", "finished_when_final"),
        ("finished_at = now()", "finished_when_final"),
        ("state = 'dead', finished_at = now()", "dead_has_error"),
        ("deliveries = 0", "deliveries_positive"),
        ("budget_from = 1", "attempts_counted"),
        ("attempts = -1, budget_from = -1", "attempts_counted"),
        ("rescues = -1", "rescues_counted"),
        ("id = ''", "id_length"),
        ("type = ''", "type_length"),
    ] {
        let change = format!("UPDATE webhook_events SET {change}");
        let error = bed.db.batch_execute(&change).await.unwrap_err();
        let constraint = error.as_db_error().unwrap().constraint();
        let broken = format!("webhook_events_{broken}");
        assert_eq!(constraint, Some(broken.as_str()), "{change}");
    }
    let dead = "UPDATE webhook_events SET state = 'dead', finished_at = now(), last_error = 'x'";
    bed.db.batch_execute(dead).await.unwrap();
}
