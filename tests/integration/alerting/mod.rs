//! Alerts: each rule fires and resolves, told once by however many workers, by mail and by a signed hook.

mod groups;
mod summaries;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use harness::smtp::MailServer;
use harness::stripe::{self, post_with};
use harness::{RunningGateway, RunningWorker, TestBed, eventually};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use shared::signature::SigningKey;

const SECRET: &str = "hook-secret";

/// What a hook was told: signature and body of each post.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(String, String)>>>);

impl Told {
    /// Refuses the first post, and what is not signed with the secret; takes the others.
    async fn take(self, request: Request<Incoming>) -> Result<Response<String>, hyper::Error> {
        let signature = request.headers()["tollgate-signature"].to_str().unwrap();
        let signature = signature.to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let (keys, now) = (
            [SigningKey::new(SECRET)],
            jiff::Timestamp::now().as_second(),
        );
        let mut answer = Response::new(String::new());
        if shared::signature::verify(&signature, &body, &keys, now, 60).is_err() {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(answer);
        }
        let body = String::from_utf8(body.to_vec()).unwrap();
        let mut told = self.0.lock().unwrap();
        told.push((signature, body));
        if told.len() == 1 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(answer)
    }
}

impl Told {
    /// Posts that were taken and hold a text.
    fn holding(&self, text: &str) -> usize {
        let told = self.0.lock().unwrap();
        let taken = told.iter().skip(1);
        taken.filter(|(_, body)| body.contains(text)).count()
    }
}

/// Settings of a worker that tells this hook.
fn telling(url: &str) -> [String; 2] {
    [
        format!("--alert-hook-url={url}"),
        format!("--alert-hook-secret={SECRET}"),
    ]
}

/// A server that takes posts.
async fn hook() -> (String, Told) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let told = Told::default();
    let shared = told.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = shared.clone();
            let take = service_fn(move |request| told.clone().take(request));
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), take));
        }
    });
    (url, told)
}

async fn worker(bed: &TestBed, mail: &MailServer, more: &[&str]) -> RunningWorker {
    let smtp = format!("--smtp-url={}", mail.url());
    let usual = [
        smtp.as_str(),
        "--alert-mail-to=ops@example.com,on-call@example.com",
    ];
    let args: Vec<&str> = usual.iter().chain(more).copied().collect();
    RunningWorker::start(bed, &args).await
}

/// Mails that hold a text; long subjects are folded, and so are long lines.
fn mails(mail: &MailServer, text: &str) -> usize {
    let whole = |mail: &String| mail.replace("=\r\n", "").replace("\r\n ", " ");
    let told = |mail: &String| whole(mail).contains(text);
    mail.mails().iter().filter(|mail| told(mail)).count()
}

async fn until_mailed(mail: &MailServer, text: &str) {
    eventually(&format!("a mail: {text}"), async || {
        (mails(mail, text) > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_rule_fires_once_and_resolves_by_mail_and_hook_of_one_of_two_workers() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let (url, told) = hook().await;
    let hook = telling(&url);
    let hook: Vec<&str> = hook.iter().map(String::as_str).collect();
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, attempts, last_error, finished_at, livemode)
             SELECT 'evt_' || n, CASE n WHEN 1 THEN 'charge.refunded' ELSE 'a.b' END, 'dead', 1, 'e', now(), true
             FROM generate_series(1, 6) n;
             INSERT INTO dead_letters (event_id, reason, error, fingerprint)
             SELECT id, 'order_not_found', 'e', 'f00d' FROM webhook_events;
             INSERT INTO dead_letter_groups (fingerprint, state, changed_by, changed_at)
             VALUES ('f00d', 'resolved', 'ann', now() - interval '1 minute');
             INSERT INTO webhook_events (id, type, state, livemode, finished_at) VALUES ('evt_live', 'a.b', 'ignored', true, now());
             INSERT INTO webhook_events (id, type, received_at, rescue_from, rescues)
             VALUES ('evt_late', 'a.b', now() - interval '6 minutes', now(), 1);
             INSERT INTO alerts (kind, key, message) VALUES ('amount_mismatch', 'evt_x', '10.00 USD, not 20.00 USD')",
        )
        .await
        .unwrap();
    let _workers = tokio::join!(worker(&bed, &mail, &hook), worker(&bed, &mail, &hook));
    let rules = [
        "repeated_failures",
        "recurred",
        "backlog_age",
        "wrong_mode",
        "rescued",
    ];
    for rule in rules {
        until_mailed(&mail, &format!("[firing] {rule}")).await;
    }
    until_mailed(&mail, "[dead payment] charge.refunded evt_1").await;
    until_mailed(&mail, "[decide] amount_mismatch: 10.00 USD").await;
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    bed.db
        .batch_execute(
            "UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded';
             UPDATE webhook_events SET state = 'discarded' WHERE state = 'dead';
             UPDATE webhook_events SET state = 'processed', finished_at = now() WHERE id = 'evt_late';
             UPDATE webhook_events SET livemode = false, rescues = 0",
        )
        .await
        .unwrap();
    for rule in rules {
        until_mailed(&mail, &format!("[resolved] {rule}")).await;
    }
    until_mailed(&mail, "[resolved] dead_payments").await;
    bed.until_count(
        "SELECT count(*) FROM alert_notices WHERE status <> 'sent'",
        0,
    )
    .await;
    for rule in rules {
        let expected = if rule == "backlog_age" { 2 } else { 1 };
        for word in ["firing", "resolved"] {
            let subject = format!("[{word}] {rule}");
            assert_eq!(mails(&mail, &subject), expected, "{subject}");
            assert_eq!(told.holding(&subject), expected, "{subject}");
        }
    }
    for subject in ["[decide]", "[dead payment]", "[resolved] dead_payments"] {
        assert_eq!(mails(&mail, subject), 1, "{subject}");
        assert_eq!(told.holding(subject), 1, "{subject}");
    }
    assert_eq!(mails(&mail, "Subject: Tollgate test on "), 1);
    let to = &mail.mails()[0];
    assert!(to.contains("ops@example.com") && to.contains("on-call@example.com"));
}

const RAISE: &str =
    "INSERT INTO alerts (kind, key, message) VALUES ('amount_mismatch', 'evt_x', 'looked at')";

/// Two events are usual at this hour, and none before: nothing is missed yet, however long nothing came.
#[tokio::test]
async fn an_hour_in_which_events_begin_is_not_silent_since_before() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             SELECT format('evt_%s_%s', week, n), 'a.b', 'ignored', at, at
             FROM generate_series(1, 4) week, generate_series(1, 2) n,
                LATERAL (SELECT date_trunc('hour', now()) - week * interval '7 days' + n * interval '20 minutes' AS at) AS t;
             INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             VALUES ('evt_last', 'a.b', 'ignored', now() - interval '5 hours', now())",
        )
        .await
        .unwrap();
    bed.db.batch_execute(RAISE).await.unwrap();
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "[decide] amount_mismatch: looked at").await;
    let states = "SELECT count(*) FROM alert_states WHERE rule = 'silence'";
    assert_eq!(bed.count(states).await, 0);
}

/// Where every event fails and is retried, none is dead for minutes.
#[tokio::test]
async fn many_events_that_fail_and_are_retried_are_a_backlog() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let retried = |numbers: &str| {
        format!(
            "INSERT INTO webhook_events (id, type, state, attempts, last_error, due_at, received_at)
             SELECT 'evt_' || n, 'a.b', 'retrying', 1, 'e', now() + interval '1 hour', now() - interval '2 minutes'
             FROM generate_series({numbers}) n"
        )
    };
    bed.db.batch_execute(&retried("1, 5")).await.unwrap();
    bed.db.batch_execute(RAISE).await.unwrap();
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "[decide] amount_mismatch: looked at").await;
    assert_eq!(mails(&mail, "backlog_age"), 0);
    bed.db.batch_execute(&retried("6, 6")).await.unwrap();
    until_mailed(&mail, "[firing] backlog_age").await;
    let processed = "UPDATE webhook_events SET state = 'processed', due_at = NULL, finished_at = now() WHERE id IN ('evt_1', 'evt_2')";
    bed.db.batch_execute(processed).await.unwrap();
    until_mailed(&mail, "[resolved] backlog_age").await;
}

#[tokio::test]
async fn reconciliations_that_fail_are_an_alert_until_any_one_succeeds() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    bed.db
        .batch_execute(
            "INSERT INTO reconciliations (started_by, scheduled, since, state, error, finished_at)
             SELECT 'test', true, now(), 'failed', 'no answer', now() FROM generate_series(1, 3)",
        )
        .await
        .unwrap();
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "[firing] reconciliation").await;
    bed.db
        .batch_execute(
            "INSERT INTO reconciliations (started_by, scheduled, since, started_at, state, finished_at)
             VALUES ('ann', false, now(), clock_timestamp(), 'finished', now())",
        )
        .await
        .unwrap();
    until_mailed(&mail, "[resolved] reconciliation").await;
}

#[tokio::test]
async fn silence_at_a_busy_hour_is_an_alert_by_a_signed_hook_that_repeats() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    // One event a minute at this hour, and those beside it, of each week before; none for twenty minutes.
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             SELECT format('evt_%s_%s', week, n), 'a.b', 'ignored', at, at
             FROM generate_series(1, 4) week, generate_series(-60, 119) n,
                LATERAL (SELECT date_trunc('hour', now()) - week * interval '7 days' + n * interval '1 minute' AS at) AS t;
             INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             VALUES ('evt_last', 'a.b', 'ignored', now() - interval '20 minutes', now())",
        )
        .await
        .unwrap();
    let (url, told) = hook().await;
    let [url, secret] = telling(&url);
    let hook = [url.as_str(), secret.as_str(), "--alert-repeat=1s"];
    let _worker = worker(&bed, &mail, &hook).await;
    let texts = || told.0.lock().unwrap().clone();
    eventually("the hook is told again", async || {
        let still = |(_, body): &(String, String)| body.contains("[still firing] silence");
        texts().iter().any(still).then_some(())
    })
    .await;
    for (_, body) in texts() {
        let text: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(text["text"].is_string());
    }
    until_mailed(&mail, "[firing] silence: no event arrives").await;
    // The post that was refused is made again.
    bed.until_count(
        "SELECT count(*) FROM alert_notices WHERE channel = 'hook' AND status = 'sent' AND attempts = 2",
        1,
    )
    .await;
    // What was imported from Stripe's list was not delivered, until its webhook comes too.
    bed.db
        .batch_execute(
            "INSERT INTO reconciliations (started_by, scheduled, since) VALUES ('test', true, now());
             INSERT INTO webhook_events (id, type, state, finished_at) VALUES ('evt_imported', 'a.b', 'ignored', now());
             INSERT INTO reconciled_events SELECT 'evt_imported', id FROM reconciliations",
        )
        .await
        .unwrap();
    let repeated = mails(&mail, "[still firing] silence");
    eventually("it fires still", async || {
        (mails(&mail, "[still firing] silence") > repeated + 1).then_some(())
    })
    .await;
    assert_eq!(mails(&mail, "[resolved] silence"), 0);
    bed.db
        .batch_execute("UPDATE webhook_events SET deliveries = 2 WHERE id = 'evt_imported'")
        .await
        .unwrap();
    until_mailed(&mail, "[resolved] silence").await;
}

#[tokio::test]
async fn a_worker_that_tells_nobody_leaves_alerts_to_those_who_do() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute("INSERT INTO webhook_events (id, type, received_at) VALUES ('evt_late', 'a.b', now() - interval '2 minutes')")
        .await
        .unwrap();
    let quiet = RunningWorker::start(&bed, &[]).await;
    quiet.stop().await.unwrap();
    assert_eq!(bed.count("SELECT count(*) FROM alert_states").await, 0);
    let mail = MailServer::start().await;
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "[firing] backlog_age").await;
}

#[tokio::test]
async fn forged_webhooks_are_an_alert_by_cause_that_fires_and_resolves_by_mail_and_hook() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let (url, told) = hook().await;
    let (url, secret) = (
        format!("--alert-hook-url={url}"),
        format!("--alert-hook-secret={SECRET}"),
    );
    let hook = [url.as_str(), secret.as_str()];
    let _workers = tokio::join!(worker(&bed, &mail, &hook), worker(&bed, &mail, &hook));
    let gateway = RunningGateway::start(&bed, &[]).await;
    let forge = async |secret: &str, age_s: i64, count: usize| {
        for _ in 0..count {
            let at = jiff::Timestamp::now().as_second() - age_s;
            let header = SigningKey::new(secret).sign(at, b"{}");
            post_with(gateway.address, "/webhooks/stripe", Some(&header), "{}").await;
        }
    };
    forge("whsec_forged", 0, 21).await;
    forge(stripe::SECRET, 900, 21).await;
    for _ in 0..20 {
        post_with(gateway.address, "/webhooks/stripe", None, "{}").await;
    }
    let all = "SELECT coalesce(sum(count), 0)::bigint FROM rejections";
    bed.until_count(all, 62).await;
    bed.db
        .batch_execute("INSERT INTO rejections (id, cause, count, client) VALUES ('g-1', 'signature_retired', 1, '192.0.2.1')")
        .await
        .unwrap();
    for what in [
        "signature_failures: 21 webhooks within an hour are signed with no secret of ours",
        "signature_failures: 21 webhooks within an hour are signed too long ago",
        "retired_secret: 1 webhooks",
    ] {
        until_mailed(&mail, &format!("[firing] {what}")).await;
    }
    // Twenty are not more than twenty.
    assert_eq!(mails(&mail, "bear no signature"), 0);
    // Quiet for five minutes is not over yet, quiet for an hour is.
    bed.db
        .batch_execute(
            "UPDATE rejections SET at = at - interval '10 minutes' WHERE cause = 'signature_stale';
             UPDATE rejections SET at = at - interval '2 hours' WHERE cause <> 'signature_stale'",
        )
        .await
        .unwrap();
    until_mailed(
        &mail,
        "[resolved] signature_failures: 21 webhooks within an hour are signed with",
    )
    .await;
    until_mailed(&mail, "[resolved] retired_secret").await;
    assert_eq!(
        mails(
            &mail,
            "[resolved] signature_failures: 21 webhooks within an hour are signed too"
        ),
        0
    );
    bed.until_count(
        "SELECT count(*) FROM alert_notices WHERE status <> 'sent'",
        0,
    )
    .await;
    for word in ["firing", "resolved"] {
        assert_eq!(mails(&mail, &format!("[{word}] retired_secret")), 1);
        let posts = told.0.lock().unwrap().clone();
        let texts: BTreeSet<&str> = posts.iter().map(|(_, body)| body.as_str()).collect();
        let of = |text: &&&str| text.contains(&format!("[{word}] retired_secret"));
        assert_eq!(texts.iter().filter(of).count(), 1);
    }
}

#[tokio::test]
async fn many_alerts_at_once_are_one_mail_and_none_is_told_twice() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let raise = "INSERT INTO alerts (kind, key, message)
        SELECT 'amount_mismatch', 'evt_' || n, 'no ' || n || ' of many' FROM generate_series(1, 30) n";
    bed.db.batch_execute(raise).await.unwrap();
    let _workers = tokio::join!(worker(&bed, &mail, &[]), worker(&bed, &mail, &[]));
    until_mailed(&mail, "notices] [decide] amount_mismatch: no 1 of many").await;
    bed.db
        .batch_execute("INSERT INTO alerts (kind, key, message) VALUES ('amount_mismatch', 'evt_31', 'the last one')")
        .await
        .unwrap();
    until_mailed(&mail, "the last one").await;
    for n in 1..=30 {
        assert_eq!(mails(&mail, &format!("amount_mismatch: no {n} of many")), 1);
    }
    assert_eq!(mails(&mail, "[decide]"), 2);
}

#[tokio::test]
async fn a_hook_that_refuses_again_and_again_is_given_up() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let (url, told) = hook().await;
    let url = format!("--alert-hook-url={url}");
    // Signed with another secret, every post is refused.
    let hook = [url.as_str(), "--alert-hook-secret=another"];
    bed.db.batch_execute(LATE).await.unwrap();
    let _worker = worker(&bed, &mail, &hook).await;
    let refused = "SELECT count(*) FROM alert_notices WHERE channel = 'hook' AND attempts > 1 AND last_error LIKE '%401%'";
    bed.until_some(refused).await;
    // Hours later it was tried 44 times.
    bed.db
        .batch_execute(
            "UPDATE alert_notices SET attempts = 44, due_at = now() WHERE channel = 'hook'",
        )
        .await
        .unwrap();
    bed.until_count(
        "SELECT count(*) FROM alert_notices WHERE channel = 'hook' AND status <> 'failed'",
        0,
    )
    .await;
    assert_eq!(
        bed.count("SELECT max(attempts)::bigint FROM alert_notices WHERE channel = 'hook'")
            .await,
        45
    );
    until_mailed(&mail, "[firing] backlog_age").await;
    assert!(told.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_hook_that_does_not_answer_keeps_no_mail_back() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--alert-hook-url=http://{}/", silent.local_addr().unwrap());
    let raise = "INSERT INTO alerts (kind, key, message)
        SELECT 'amount_mismatch', 'evt_' || n, 'no ' || n || ' of eight' FROM generate_series(1, 8) n";
    bed.db.batch_execute(raise).await.unwrap();
    let _worker = worker(&bed, &mail, &[&url]).await;
    for n in 1..=8 {
        until_mailed(&mail, &format!("no {n} of eight")).await;
    }
}

const LATE: &str = "INSERT INTO webhook_events (id, type, received_at) VALUES ('evt_late', 'a.b', now() - interval '2 minutes')";

#[tokio::test]
async fn a_notice_whose_yes_was_lost_is_sent_again_with_the_same_message_id() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    mail.drop_after_taking(1);
    bed.db.batch_execute(LATE).await.unwrap();
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    until_mailed(&mail, "[firing] backlog_age").await;
    let sent = "SELECT count(*) FROM alert_notices WHERE status <> 'sent'";
    bed.until_count(sent, 0).await;
    let id = |mail: &String| {
        let line = mail.lines().find(|line| line.starts_with("Message-ID"));
        line.unwrap().to_owned()
    };
    let ids: Vec<String> = mail.mails().iter().map(id).collect();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (3, 2), "{ids:?}");
}

#[tokio::test]
async fn a_worker_that_dies_while_it_tells_loses_no_alert() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    mail.stall(1);
    bed.db.batch_execute(LATE).await.unwrap();
    let dying = worker(&bed, &mail, &[]).await;
    bed.until_some("SELECT count(*) FROM alert_notices WHERE attempts = 1")
        .await;
    bed.until_some("SELECT count(*) FROM alert_states").await;
    drop(dying);
    // The minute of its claim is over.
    let over = "UPDATE alert_notices SET due_at = now()";
    bed.db.batch_execute(over).await.unwrap();
    let _worker = worker(&bed, &mail, &[]).await;
    until_mailed(&mail, "[firing] backlog_age").await;
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    assert_eq!(mails(&mail, "[firing] backlog_age"), 1);
}
