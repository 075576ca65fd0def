//! Refused webhooks are counted by cause and sampled in the database, without their bodies, whatever becomes of it.

use harness::binaries::{Process, ops};
use harness::console::Console;
use harness::stripe::{SECRET, event, event_id, post, post_with, signature};
use harness::{Proxy, RunningGateway, TestBed, eventually};
use jiff::Timestamp;
use serde_json::json;
use shared::signature::SigningKey;

const PATH: &str = "/webhooks/stripe";

fn signed(secret: &str, age_s: i64, body: &str) -> String {
    let at = Timestamp::now().as_second() - age_s;
    SigningKey::new(secret).sign(at, body.as_bytes())
}

async fn stored(bed: &TestBed, cause: &str) -> i64 {
    let sql = "SELECT coalesce(sum(count), 0)::bigint FROM rejections WHERE cause = $1";
    bed.row(sql, &[&cause]).await.get(0)
}

async fn until_stored(bed: &TestBed, cause: &str, count: i64) {
    eventually(&format!("{count} {cause} are stored"), async || {
        (stored(bed, cause).await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refused_webhooks_are_stored_by_cause_with_a_sample_that_holds_no_body() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--max-body-bytes=1000"]).await;
    let body = r#"{"canary":"jane@example.com"}"#;
    let large = "x".repeat(1_001);
    let refused = [
        ("signature_missing", None, body),
        ("signature_malformed", Some("canary".to_owned()), body),
        (
            "signature_mismatch",
            Some(signed("whsec_other", 0, body)),
            body,
        ),
        ("signature_stale", Some(signed(SECRET, 900, body)), body),
        ("invalid_payload", Some(signed(SECRET, 0, body)), body),
        (
            "payload_too_large",
            Some(signed(SECRET, 0, &large)),
            large.as_str(),
        ),
    ];
    for (at, (_, header, body)) in refused.iter().enumerate() {
        for _ in 0..=at {
            let answer = post_with(gateway.address, PATH, header.as_deref(), *body).await;
            assert!((400..500).contains(&answer.status));
        }
    }
    // What is accepted, or nobody's business, is not noted.
    assert_eq!(
        post(gateway.address, event(&event_id(), "a.b", &json!({})))
            .await
            .status,
        200
    );
    post_with(gateway.address, "/wp-login.php", None, "").await;
    for (at, (cause, ..)) in refused.iter().enumerate() {
        until_stored(&bed, cause, i64::try_from(at).unwrap() + 1).await;
    }
    assert_eq!(
        bed.count("SELECT count(DISTINCT cause) FROM rejections")
            .await,
        6
    );
    let sampled = "SELECT count(*) FROM rejections WHERE host(client) = '127.0.0.1' AND CASE cause
        WHEN 'payload_too_large' THEN body_sha256 IS NULL
        ELSE body_sha256 = sha256($1::text::bytea) AND body_bytes = length($1) END";
    let rows = bed.count("SELECT count(*) FROM rejections").await;
    assert_eq!(bed.row(sampled, &[&body]).await.get::<_, i64>(0), rows);
    let text = bed.text("SELECT string_agg(rejections::text, ' ') FROM rejections");
    assert!(!text.await.contains("canary"));
}

#[tokio::test]
async fn a_database_that_is_away_costs_no_count_and_doubles_none() {
    let bed = TestBed::new().await;
    let (proxy, through) = Proxy::before(&bed.gateway_url()).await;
    let gateway = RunningGateway::start(&bed, &[&format!("--database-url={through}")]).await;
    gateway.until_ready().await;
    let forge = async |count: usize| {
        for _ in 0..count {
            let answer = post_with(gateway.address, PATH, None, "{}").await;
            assert_eq!(answer.status, 400);
        }
    };
    forge(3).await;
    proxy.cut();
    forge(30).await;
    proxy.open();
    forge(7).await;
    until_stored(&bed, "signature_missing", 40).await;
    // An answer that is lost after the commit: the batch is given again, under the same name.
    proxy.mute();
    forge(5).await;
    until_stored(&bed, "signature_missing", 45).await;
    proxy.open();
    gateway.until_ready().await;
    forge(1).await;
    until_stored(&bed, "signature_missing", 46).await;
    gateway.stop().await.unwrap();
    assert_eq!(stored(&bed, "signature_missing").await, 46);
}

#[tokio::test]
async fn a_gateway_that_stops_stores_what_it_counted() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    gateway.until_ready().await;
    post_with(gateway.address, PATH, None, "{}").await;
    gateway.stop().await.unwrap();
    assert_eq!(stored(&bed, "signature_missing").await, 1);
}

#[tokio::test]
async fn a_secret_that_was_replaced_is_told_from_a_forgery() {
    let bed = TestBed::new().await;
    let file = bed.path("secrets");
    std::fs::write(&file, "whsec_old\n").unwrap();
    let variables = [
        ("STRIPE_WEBHOOK_SECRET", ""),
        ("STRIPE_WEBHOOK_SECRET_FILE", file.to_str().unwrap()),
    ];
    let gateway = Process::gateway(&bed, &variables).await;
    std::fs::write(&file, "whsec_new\n").unwrap();
    gateway.signal("HUP");
    let body = event(&event_id(), "a.b", &json!({}));
    let send = async |secret: &str| {
        let header = signed(secret, 0, &body);
        post_with(gateway.address, PATH, Some(&header), body.clone()).await
    };
    eventually("the new secret counts", async || {
        (send("whsec_new").await.status == 200).then_some(())
    })
    .await;
    let (old, forged) = (send("whsec_old").await, send("whsec_forged").await);
    assert_eq!((old.status, &old.body), (400, &forged.body));
    until_stored(&bed, "signature_retired", 1).await;
    eventually("the forgery is stored", async || {
        (stored(&bed, "signature_mismatch").await >= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn operators_list_rejections_page_by_page_and_see_them_in_the_console() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "INSERT INTO rejections (id, at, cause, count, client, body_sha256, body_bytes)
             SELECT 'g-' || n, now() - n * interval '10 minutes', CASE WHEN n % 2 = 0 THEN 'signature_stale' ELSE 'slow_body' END,
                n * 1111, '192.0.2.7', CASE WHEN n % 2 = 0 THEN sha256('x') END, CASE WHEN n % 2 = 0 THEN 1 END
             FROM generate_series(1, 120) n",
        )
        .await
        .unwrap();
    let list = async |more: &[&str]| {
        let args = [&["rejections", "list", "--json"], more].concat();
        ops(&bed, &args).await.expect_code(0).json()
    };
    let page = list(&["--limit=2"]).await;
    assert_eq!(page["rejections"][0]["client"], "192.0.2.7");
    let next = page["next"].as_str().unwrap();
    let behind = list(&["--limit=2", "--cursor", next]).await;
    assert_eq!(behind["rejections"][0]["id"], "g-3");
    let stale = list(&["--cause=signature_stale", "--since=45m"]).await;
    assert_eq!(stale["rejections"].as_array().unwrap().len(), 2);
    let text = ops(&bed, &["rejections", "list", "--limit=1"]).await;
    assert!(text.expect_code(0).stdout().contains("slow_body"));

    let console = Console::start(&bed, &[]).await;
    console.get("/").await.is(200).shows("16,665");
    let page = console.get("/rejections").await;
    page.is(200).shows("192.0.2.7").shows("signature_stale");
    let older = page.link("rel=\"next\"");
    console
        .get(&older)
        .await
        .is(200)
        .shows(">77,770<")
        .hides(">55,550<");
    let only = console.get("/rejections?cause=slow_body").await;
    only.is(200).shows("Samples of slow_body").hides("2d711642");
    console.get("/rejections?cursor=nonsense").await.is(400);
}

#[tokio::test]
async fn what_was_signed_as_it_should_be_is_never_noted() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let body = event(&event_id(), "a.b", &json!({}));
    let header = signature(body.as_bytes());
    for _ in 0..3 {
        let answer = post_with(gateway.address, PATH, Some(&header), body.clone()).await;
        assert_eq!(answer.status, 200);
    }
    gateway.stop().await.unwrap();
    assert_eq!(bed.count("SELECT count(*) FROM rejections").await, 0);
}
