//! Settings: every problem at once, exit 2, and no secret anywhere.

use harness::binaries::run;

#[tokio::test]
async fn every_problem_is_reported_at_once_and_the_exit_code_is_2() {
    let done = run(
        "gateway",
        &[],
        &[
            ("GATEWAY_LISTEN", "nowhere"),
            ("GATEWAY_MAX_BODY_BYTES", "-1"),
            ("STRIPE_SIGNATURE_TOLERANCE", "soon"),
            ("DATABASE_URL", "postgres://user:hunter2@[bad"),
            ("STRIPE_WEBHOOK_SECRET", ""),
        ],
    )
    .await;
    done.expect_code(2);
    let text = done.stderr();
    for name in [
        "GATEWAY_LISTEN",
        "GATEWAY_MAX_BODY_BYTES",
        "STRIPE_SIGNATURE_TOLERANCE",
        "DATABASE_URL",
        "AMQP_URL is not set",
        "STRIPE_WEBHOOK_SECRET is not set",
    ] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    run("worker", &[], &[("WORKER_CONCURRENCY", "0")])
        .await
        .expect_code(2);
    run("gateway", &["--no-such-flag"], &[])
        .await
        .expect_code(2);
}

#[tokio::test]
async fn help_names_every_variable_and_shows_no_secret() {
    for (program, variables) in [
        (
            "gateway",
            vec![
                "DATABASE_URL",
                "AMQP_URL",
                "STRIPE_WEBHOOK_SECRET",
                "STRIPE_WEBHOOK_SECRET_FILE",
                "GATEWAY_LISTEN",
                "GATEWAY_ADMIN_LISTEN",
                "GATEWAY_WEBHOOK_PATHS",
                "GATEWAY_MAX_BODY_BYTES",
                "GATEWAY_REQUEST_TIMEOUT",
                "STRIPE_SIGNATURE_TOLERANCE",
                "OUTBOX_GRACE",
                "LOG_FORMAT",
                "GATEWAY_INVALID_SIGNATURE_STATUS",
            ],
        ),
        (
            "worker",
            vec![
                "DATABASE_URL",
                "AMQP_URL",
                "STRIPE_LIVEMODE",
                "WORKER_ADMIN_LISTEN",
                "WORKER_CONCURRENCY",
                "WORKER_MAX_ATTEMPTS",
                "WORKER_BACKOFF_BASE",
                "WORKER_BACKOFF_MAX",
                "RESCUE_AFTER",
                "SMTP_URL",
                "MAIL_DIR",
                "MAIL_FROM",
                "RETENTION_PAYLOADS",
                "RETENTION_EVENTS",
            ],
        ),
    ] {
        let secrets = [
            ("STRIPE_WEBHOOK_SECRET", "whsec_canary"),
            ("DATABASE_URL", "postgres://u:canary@h/d"),
            ("AMQP_URL", "amqp://u:canary@h"),
            ("SMTP_URL", "smtp://u:canary@h"),
        ];
        let done = run(program, &["--help"], &secrets).await;
        done.expect_code(0);
        for variable in variables {
            assert!(
                done.stdout().contains(variable),
                "{program} --help lacks {variable}"
            );
        }
        assert!(!done.stdout().contains("canary"), "{}", done.stdout());
    }
}
