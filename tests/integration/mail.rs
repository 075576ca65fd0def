//! Mails: to a real server and to files, at least once, with the same Message-ID each time.

use std::time::Duration;

use harness::smtp::MailServer;
use harness::stripe::{event, event_id, payment_intent, post};
use harness::{RunningGateway, RunningWorker, TestBed, eventually};

async fn pay(bed: &TestBed) {
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(bed, &[]).await;
    let id = event_id();
    let body = event(&id, "payment_intent.succeeded", &payment_intent("ord_1"));
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&id, "received").await;
}

#[tokio::test]
async fn the_confirmation_reaches_the_mail_server_with_tickets_in_text_and_html() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    let mail = eventually("a mail arrives", async || server.mails().pop())
        .await
        .replace("=\r\n", "");
    let code = bed
        .text("SELECT code FROM tickets ORDER BY id LIMIT 1")
        .await;
    for part in [
        "To: buyer@example.com",
        "Message-ID: <order_paid.",
        "text/plain",
        "text/html",
        &code,
        "50.00 USD",
    ] {
        assert!(mail.contains(part), "{part} is missing in {mail}");
    }
    bed.until_count(
        "SELECT count(*) FROM emails WHERE status = 'sent' AND sent_at IS NOT NULL",
        1,
    )
    .await;
}

#[tokio::test]
async fn a_mail_server_that_refuses_delays_the_mail_and_nothing_else() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    server.refuse(1);
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    bed.until_count(
        "SELECT count(*) FROM emails WHERE attempts = 1 AND last_error LIKE '%451%'",
        1,
    )
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'paid'")
            .await,
        1
    );
    bed.db
        .execute("UPDATE emails SET due_at = now()", &[])
        .await
        .unwrap();
    eventually("the mail arrives after all", async || server.mails().pop()).await;
    bed.until_count(
        "SELECT count(*) FROM emails WHERE status = 'sent' AND attempts = 2",
        1,
    )
    .await;
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn a_mail_sent_twice_bears_the_same_message_id() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    bed.until_count("SELECT count(*) FROM emails WHERE status = 'sent'", 1)
        .await;
    // As after a worker that died between the server's yes and the update.
    bed.db
        .execute(
            "UPDATE emails SET status = 'queued', sent_at = NULL, due_at = now()",
            &[],
        )
        .await
        .unwrap();
    eventually("the mail arrives twice", async || {
        (server.mails().len() == 2).then_some(())
    })
    .await;
    let ids: Vec<String> = server
        .mails()
        .iter()
        .map(|mail| {
            mail.lines()
                .find(|line| line.starts_with("Message-ID"))
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn without_a_mail_server_mails_become_files() {
    let bed = TestBed::new().await;
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[]).await;
    bed.until_count("SELECT count(*) FROM emails WHERE status = 'sent'", 1)
        .await;
    let files: Vec<_> = std::fs::read_dir(bed.mail_dir())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].extension().unwrap(), "eml");
    assert!(
        std::fs::read_to_string(&files[0])
            .unwrap()
            .contains("Subject: Your order is confirmed: ord_1")
    );
}

#[tokio::test]
async fn a_mail_to_no_address_fails_for_good() {
    let bed = TestBed::new().await;
    pay(&bed).await;
    bed.db
        .execute("UPDATE orders SET email = 'not-an-address'", &[])
        .await
        .unwrap();
    let _worker = RunningWorker::start(&bed, &[]).await;
    bed.until_count(
        "SELECT count(*) FROM emails WHERE status = 'failed' AND last_error IS NOT NULL",
        1,
    )
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM orders WHERE status = 'paid'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_mail_server_that_drops_the_connection_gets_the_mail_again() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    server.drop_after_taking(1);
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    bed.until_count(
        "SELECT count(*) FROM emails WHERE attempts = 1 AND last_error IS NOT NULL",
        1,
    )
    .await;
    bed.db
        .execute("UPDATE emails SET due_at = now()", &[])
        .await
        .unwrap();
    bed.until_count(
        "SELECT count(*) FROM emails WHERE status = 'sent' AND attempts = 2",
        1,
    )
    .await;
    assert_eq!(server.mails().len(), 2);
}

#[tokio::test]
async fn a_mail_server_that_is_slow_delays_no_order() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    server.pause(Duration::from_secs(3));
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    let paid = "SELECT count(*) FROM orders WHERE status = 'paid'";
    bed.until_count(paid, 1).await;
    let unsent = "SELECT count(*) FROM emails WHERE status <> 'sent'";
    assert_eq!(bed.count(unsent).await, 1);
    bed.until_count(unsent, 0).await;
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn a_worker_that_stops_waits_for_what_a_slow_mail_server_has_taken() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    server.pause(Duration::from_secs(7));
    pay(&bed).await;
    let worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    eventually("a mail that was taken", async || {
        (!server.mails().is_empty()).then_some(())
    })
    .await;
    worker.stop().await.unwrap();
    let sent = "SELECT count(*) FROM emails WHERE status = 'sent'";
    assert_eq!(bed.count(sent).await, 1);
}

#[tokio::test]
async fn a_mail_server_that_never_answers_is_given_up_and_tried_again() {
    let (bed, server) = (TestBed::new().await, MailServer::start().await);
    server.stall(1);
    pay(&bed).await;
    let _worker = RunningWorker::start(&bed, &[&format!("--smtp-url={}", server.url())]).await;
    let given_up = "SELECT count(*) FROM emails WHERE attempts = 1 AND last_error LIKE '%in time%'";
    bed.until_count(given_up, 1).await;
    let due = "UPDATE emails SET due_at = now()";
    bed.db.execute(due, &[]).await.unwrap();
    bed.until_count("SELECT count(*) FROM emails WHERE status = 'sent'", 1)
        .await;
    assert_eq!(server.mails().len(), 1);
}
