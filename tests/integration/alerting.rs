//! Alerts: each rule fires and resolves, told once by however many workers, by mail and by a signed hook.

use std::sync::{Arc, Mutex};

use harness::smtp::MailServer;
use harness::{RunningWorker, TestBed, eventually};
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
    /// Refuses the first post; takes the others.
    async fn take(self, request: Request<Incoming>) -> Result<Response<String>, hyper::Error> {
        let signature = request.headers()["tollgate-signature"].to_str().unwrap();
        let signature = signature.to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let mut told = self.0.lock().unwrap();
        told.push((signature, body));
        let mut answer = Response::new(String::new());
        if told.len() == 1 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(answer)
    }
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

/// Mails whose subject holds a text; long subjects are folded.
fn mails(mail: &MailServer, text: &str) -> usize {
    let told = |mail: &String| mail.replace("\r\n ", " ").contains(text);
    mail.mails().iter().filter(|mail| told(mail)).count()
}

async fn until_mailed(mail: &MailServer, text: &str) {
    eventually(&format!("a mail: {text}"), async || {
        (mails(mail, text) > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_rule_fires_once_and_resolves_by_mail_of_one_of_two_workers() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, attempts, last_error, finished_at, livemode)
             SELECT 'evt_' || n, 'charge.refunded', 'dead', 1, 'e', now(), true FROM generate_series(1, 6) n;
             INSERT INTO dead_letters (event_id, reason, error, fingerprint)
             SELECT id, 'order_not_found', 'e', 'f00d' FROM webhook_events;
             INSERT INTO webhook_events (id, type, received_at, rescue_from, rescues)
             VALUES ('evt_late', 'a.b', now() - interval '6 minutes', now(), 1);
             INSERT INTO alerts (kind, key, message) VALUES ('amount_mismatch', 'evt_x', '10.00 USD, not 20.00 USD')",
        )
        .await
        .unwrap();
    let _workers = tokio::join!(worker(&bed, &mail, &[]), worker(&bed, &mail, &[]));
    let rules = [
        "repeated_failures",
        "dead_payments",
        "backlog_age",
        "wrong_mode",
        "rescued",
    ];
    for rule in rules {
        until_mailed(&mail, &format!("[firing] {rule}")).await;
    }
    until_mailed(&mail, "[decide] amount_mismatch: 10.00 USD").await;
    until_mailed(&mail, "Subject: Tollgate on ").await;
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
        }
    }
    assert_eq!(mails(&mail, "[decide]"), 1);
    assert_eq!(mails(&mail, "Subject: Tollgate on "), 1);
    let to = &mail.mails()[0];
    assert!(to.contains("ops@example.com") && to.contains("on-call@example.com"));
}

#[tokio::test]
async fn silence_at_a_busy_hour_is_an_alert_by_a_signed_hook_that_repeats() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    // One event a minute at this hour, and the next, of each week before; none for twenty minutes.
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             SELECT format('evt_%s_%s', week, n), 'a.b', 'ignored', at, at
             FROM generate_series(1, 4) week, generate_series(0, 119) n,
                LATERAL (SELECT date_trunc('hour', now()) - week * interval '7 days' + n * interval '1 minute' AS at) AS t;
             INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             VALUES ('evt_last', 'a.b', 'ignored', now() - interval '20 minutes', now())",
        )
        .await
        .unwrap();
    let (url, told) = hook().await;
    let (url, secret) = (
        format!("--alert-hook-url={url}"),
        format!("--alert-hook-secret={SECRET}"),
    );
    let hook = [url.as_str(), secret.as_str(), "--alert-repeat=1s"];
    let _worker = worker(&bed, &mail, &hook).await;
    let texts = || told.0.lock().unwrap().clone();
    eventually("the hook is told again", async || {
        let still = |(_, body): &(String, String)| body.contains("[still firing] silence");
        texts().iter().any(still).then_some(())
    })
    .await;
    for (signature, body) in texts() {
        let at = signature.split(['=', ',']).nth(1).unwrap().parse().unwrap();
        assert_eq!(signature, SigningKey::new(SECRET).sign(at, body.as_bytes()));
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
    bed.db
        .batch_execute("UPDATE webhook_events SET received_at = now() WHERE id = 'evt_last'")
        .await
        .unwrap();
    until_mailed(&mail, "[resolved] silence").await;
}

#[tokio::test]
async fn nobody_is_told_where_nobody_is_named() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute("INSERT INTO webhook_events (id, type, received_at) VALUES ('evt_late', 'a.b', now() - interval '2 minutes')")
        .await
        .unwrap();
    let _worker = RunningWorker::start(&bed, &[]).await;
    bed.until_count(
        "SELECT count(*) FROM alert_states WHERE state = 'firing' AND key = 'warning'",
        1,
    )
    .await;
    assert_eq!(bed.count("SELECT count(*) FROM alert_notices").await, 0);
}
