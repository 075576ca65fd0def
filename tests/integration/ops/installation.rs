//! What sets an installation up, and what tells how it is: seed, doctor, health.

use harness::TestBed;
use harness::binaries::{ops, ops_with};
use serde_json::{Value, json};

use super::start;

#[tokio::test]
async fn settings_are_checked_without_starting_anything() {
    let bed = TestBed::new().await;
    let (secret, broker) = (
        ("STRIPE_WEBHOOK_SECRET", "whsec_canary"),
        ("AMQP_URL", "amqp://127.0.0.1:1"),
    );
    let states = |done: &harness::binaries::Done| {
        let told = done.json()["config"].as_array().unwrap().clone();
        let state = |program: &Value| {
            format!(
                "{} {}",
                program["program"].as_str().unwrap(),
                program["state"].as_str().unwrap()
            )
        };
        told.iter().map(state).collect::<Vec<_>>()
    };
    let check = ["config", "check", "--json"];
    let done = ops_with(&bed, &check, &[secret, broker]).await;
    assert_eq!(
        states(done.expect_code(0)),
        ["gateway ok", "worker ok", "console ok"]
    );
    let wrong = [
        secret,
        broker,
        ("GATEWAY_LISTEN", "here"),
        ("GATEWAY_THREADS", "0"),
        ("WORKER_CONCURRENCY", "many"),
        ("CONSOLE_LISTEN", "0.0.0.0:9090"),
        ("ALERT_CONSOLE_URL", "https://u:canary@h h"),
    ];
    let done = ops_with(&bed, &check, &wrong).await;
    assert_eq!(
        states(done.expect_code(2)),
        ["gateway failed", "worker failed", "console failed"]
    );
    let table = ops_with(&bed, &["config", "check"], &wrong).await.stdout();
    for name in [
        "GATEWAY_LISTEN",
        "GATEWAY_THREADS",
        "WORKER_CONCURRENCY",
        "CONSOLE_LISTEN",
    ] {
        assert!(table.contains(name), "{table}");
    }
    assert!(!table.contains("canary"), "{table}");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:canary@[bad");
    let told = ops_with(&bed, &check, &[secret, broker, endpoint]).await;
    let text = told.expect_code(2).stdout();
    assert!(
        text.contains("OTLP export cannot start") && !text.contains("canary"),
        "{text}"
    );
    let only_one = ops_with(&bed, &check, &[broker, ("STRIPE_WEBHOOK_SECRET", "")]).await;
    assert_eq!(
        states(only_one.expect_code(2)),
        ["gateway failed", "worker ok", "console ok"]
    );
    assert!(
        only_one
            .stdout()
            .contains("STRIPE_WEBHOOK_SECRET is not set")
    );
}

#[tokio::test]
async fn seed_loads_all_or_nothing_and_again_without_effect() {
    let bed = TestBed::new().await;
    let product = json!({ "id": "ga", "kind": "seat", "name": "GA", "unit_amount_cents": 2500, "currency": "usd", "capacity": 9 });
    let yen = json!({ "id": "jp", "kind": "seat", "name": "JP", "unit_amount_cents": 9, "currency": "jpy", "capacity": 9 });
    let order = |id: &str, items: Value| json!({ "id": id, "user_id": "u", "email": "b@example.com", "items": items });
    let good = json!({ "products": [product, yen], "orders": [order("a", json!([{ "product": "ga", "quantity": 2 }])),
        { "id": "w", "email": "w@example.com", "waitlisted": true, "items": [{ "product": "ga", "quantity": 1 }] }] });
    bed.seed(&good).await;
    bed.seed(&good).await;
    assert_eq!(bed.count("SELECT amount_cents FROM orders WHERE id = 'a' AND currency = 'usd' AND status = 'pending'").await, 5_000);
    assert_eq!(
        bed.count("SELECT count(*) FROM registrations WHERE order_id = 'a' AND status = 'pending'")
            .await,
        2
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM registrations WHERE status = 'waitlisted'")
            .await,
        1
    );

    // Empty variables name nobody.
    let empty = [("OPS_ACTOR", ""), ("USER", " "), ("LOGNAME", "")];
    let seed = bed.path("seed.json");
    let seed = ops_with(&bed, &["seed", seed.to_str().unwrap()], &empty).await;
    seed.expect_code(0);
    let by = "SELECT actor FROM audit_log ORDER BY id DESC LIMIT 1";
    assert_eq!(bed.text(by).await, "unknown");
    let file = bed.path("bad.json");
    for (items, code, problem) in [
        (
            json!([{ "product": "ga", "quantity": 1 }, { "product": "jp", "quantity": 1 }]),
            2,
            "different currencies",
        ),
        (
            json!([{ "product": "nothing", "quantity": 1 }]),
            2,
            "no product nothing",
        ),
        (json!([{ "product": "ga", "quantity": 0 }]), 2, "quantity"),
        (json!([]), 2, "no items"),
    ] {
        let bad = json!({ "orders": [order("b", json!([{ "product": "ga", "quantity": 1 }])), order("c", items)] });
        std::fs::write(&file, bad.to_string()).unwrap();
        let done = ops(&bed, &["seed", file.to_str().unwrap()]).await;
        done.expect_code(code);
        assert!(done.stderr().contains(problem), "{}", done.stderr());
    }
    let changed = json!({ "orders": [order("b", json!([{ "product": "ga", "quantity": 1 }])), order("a", json!([{ "product": "ga", "quantity": 3 }]))] });
    std::fs::write(&file, changed.to_string()).unwrap();
    ops(&bed, &["seed", file.to_str().unwrap()])
        .await
        .expect_code(6);
    std::fs::write(&file, "{").unwrap();
    ops(&bed, &["seed", file.to_str().unwrap()])
        .await
        .expect_code(2);
    ops(&bed, &["seed", "/nonexistent"]).await.expect_code(2);
    assert_eq!(bed.count("SELECT count(*) FROM orders").await, 2);
}

#[tokio::test]
async fn doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let bed = TestBed::new().await;
    let (gateway, worker) = start(&bed).await;
    gateway.until_ready().await;
    let (public, admin, work) = (
        gateway.address.to_string(),
        gateway.admin_address.to_string(),
        worker.admin_address.to_string(),
    );
    let variables = [
        ("GATEWAY_LISTEN", public.as_str()),
        ("GATEWAY_ADMIN_LISTEN", &admin),
        ("WORKER_ADMIN_LISTEN", &work),
        ("STRIPE_LIVEMODE", "false"),
    ];
    let healthy = ops_with(&bed, &["doctor", "--json"], &variables).await;
    healthy.expect_code(0);
    let findings = healthy.json()["findings"].as_array().unwrap().clone();
    assert!(
        findings.len() >= 15 && findings.iter().all(|finding| finding["state"] != "failed"),
        "{findings:?}"
    );
    assert!(
        findings
            .iter()
            .all(|finding| (finding["state"] == "ok") == finding["mend"].is_null()),
        "{findings:?}"
    );

    bed.db
        .batch_execute("DELETE FROM refinery_schema_history WHERE version = 2")
        .await
        .unwrap();
    let ill = ops_with(&bed, &["doctor"], &[("STRIPE_WEBHOOK_SECRET", "")]).await;
    ill.expect_code(1);
    assert!(
        ill.stdout().contains("run `ops migrate`")
            && ill.stdout().contains("STRIPE_WEBHOOK_SECRET"),
        "{}",
        ill.stdout()
    );
    let away = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x"),
        ("AMQP_URL", "amqp://127.0.0.1:1"),
    ];
    ops_with(&bed, &["doctor"], &away).await.expect_code(7);
    ops_with(&bed, &["events", "list"], &away)
        .await
        .expect_code(7);
    ops_with(&bed, &["events", "list"], &[("DATABASE_URL", "")])
        .await
        .expect_code(2);
    // One who may not read, and one who may not even come in.
    let gateway_url = bed.gateway_url();
    let host = gateway_url.split_once('@').unwrap().1;
    let unknown = format!("postgres://nobody_of_that_name:x@{host}");
    for url in [&gateway_url, &unknown] {
        ops_with(&bed, &["events", "list"], &[("DATABASE_URL", url)])
            .await
            .expect_code(5);
    }
}

#[tokio::test]
async fn health_tells_the_lights_and_what_waits_and_fails_when_something_is_down() {
    let bed = TestBed::new().await;
    let (gateway, worker) = start(&bed).await;
    gateway.until_ready().await;
    let (gateway_admin, worker_admin) = (
        format!("http://{}", gateway.admin_address),
        format!("http://{}", worker.admin_address),
    );
    let args = [
        "health",
        "--json",
        "--gateway-admin",
        &gateway_admin,
        "--worker-admin",
        &worker_admin,
    ];
    let well = ops(&bed, &args).await;
    well.expect_code(0);
    let health = well.json()["health"].clone();
    let lights = health["lights"].as_array().unwrap();
    assert!(
        lights.len() == 4 && lights.iter().all(|light| light["state"] == "up"),
        "{lights:?}"
    );
    assert_eq!(
        (&health["waiting"], &health["dead_letters"]),
        (&0.into(), &0.into())
    );
    let away = [
        "health",
        "--worker-admin",
        "http://127.0.0.1:1",
        "--gateway-admin",
        &gateway_admin,
    ];
    let ill = ops(&bed, &away).await;
    ill.expect_code(7);
    assert!(ill.stdout().contains("no answer"), "{}", ill.stdout());
    let nowhere = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x")];
    ops_with(&bed, &args, &nowhere).await.expect_code(7);
}
