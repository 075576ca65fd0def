//! The daily summary: whose day, once a day, and what it says.

use harness::stripe_api::{RESTRICTED_KEY, StripeApi, TEST_KEY, Trouble};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::*;

#[tokio::test]
async fn the_summary_tells_a_day_to_the_cent() {
    let bed = TestBed::new().await;
    for (order, currency) in [("ord_1", "usd"), ("ord_2", "usd"), ("ord_3", "jpy")] {
        let unit = if currency == "jpy" { 2500 } else { 250_000 };
        bed.seed(&json!({ "products": [{ "id": currency, "kind": "seat", "name": "Seat", "unit_amount_cents": unit,
            "currency": currency, "capacity": 100 }],
            "orders": [{ "id": order, "email": "b@example.com", "items": [{ "product": currency, "quantity": 1 }] }] }))
            .await;
    }
    bed.db
        .batch_execute(
            "INSERT INTO payments (provider, provider_payment_ref, order_id, status, amount_cents, currency, succeeded)
             VALUES ('stripe', 'pi_1', 'ord_1', 'succeeded', 250001, 'usd', true),
                ('stripe', 'pi_2', 'ord_2', 'failed', 250000, 'usd', false),
                ('stripe', 'pi_3', 'ord_3', 'succeeded', 2500, 'jpy', true);
             UPDATE payments SET refunded_cents = 5, status = 'partially_refunded' WHERE order_id = 'ord_1';
             UPDATE payments SET refunded_cents = 5, failure = 'twice' WHERE order_id = 'ord_1';
             UPDATE payments SET refunded_cents = 105 WHERE order_id = 'ord_1';
             UPDATE money_moves SET at = date_trunc('day', now() - interval '5 minutes', 'UTC') - interval '1 second';
             -- Today's and those of the day before yesterday are not of the day.
             UPDATE payments SET succeeded = true, status = 'succeeded' WHERE order_id = 'ord_2';
             INSERT INTO money_moves (at, provider_payment_ref, currency, captured_cents, refunded_cents)
             VALUES (date_trunc('day', now() - interval '5 minutes', 'UTC') - interval '1 day 1 second', 'pi_0', 'usd', 1, 1);
             INSERT INTO rejections (id, at, cause, count, client)
             SELECT 'g-' || n, date_trunc('day', now() - interval '5 minutes', 'UTC') - interval '1 hour', 'signature_stale', n, '192.0.2.1'
             FROM generate_series(1, 3) n;
             INSERT INTO audit_log (at, actor, action, reason)
             VALUES (date_trunc('day', now() - interval '5 minutes', 'UTC') - interval '1 hour', 'olga', 'event.retry', 'mended');
             INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             SELECT 'evt_' || n, 'a.b', CASE WHEN n > 2 THEN 'processed' ELSE 'ignored' END, at,
                at + CASE WHEN n > 2 THEN interval '42 ms' ELSE interval '9 s' END
             FROM generate_series(1, 100) n, (SELECT date_trunc('day', now() - interval '5 minutes', 'UTC') - interval '1 hour' AS at) AS t",
        )
        .await
        .unwrap();
    let mail = MailServer::start().await;
    let _workers = tokio::join!(worker(&bed, &mail, &[]), worker(&bed, &mail, &[]));
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    for line in [
        ": 100 events, 0 of them dead, 0 dead letters open",
        "100 received: 98 processed, 2 ignored",
        "0.042 s from receipt to processed",
        "2500 JPY captured, 0 JPY refunded",
        "2500.01 USD captured, 1.05 USD refunded",
        "6 rejected  6 signature_stale",
        "1 tried again singly by olga",
    ] {
        assert_eq!(mails(&mail, line), 1, "{line}: {:?}", mail.mails());
    }
}

#[tokio::test]
async fn the_summary_holds_the_days_money_against_stripes() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let mail = MailServer::start().await;
    bed.db
        .batch_execute(
            "INSERT INTO orders (id, status, email, amount_cents, currency)
             SELECT 'ord_' || n, 'paid', 'b@example.com', 2500, 'usd' FROM generate_series(0, 149) n;
             INSERT INTO payments (provider, provider_payment_ref, order_id, status, amount_cents, currency, succeeded)
             SELECT 'stripe', 'pi_' || n, 'ord_' || n, 'succeeded', 2500, 'usd', true FROM generate_series(0, 149) n",
        )
        .await
        .unwrap();
    let begins = yesterday("UTC")
        .to_zoned(TimeZone::UTC)
        .unwrap()
        .timestamp();
    let charge = |id: &str, at: Timestamp, payment: Option<&str>, refunded: i64| {
        let charge = json!({ "id": id, "payment_intent": payment, "amount": 2500, "amount_captured": 2500,
            "amount_refunded": refunded, "currency": "usd" });
        api.charged(at, &charge);
    };
    // Two pages of the day, whose first and last second are of it; and what is of the days before and after.
    for n in 0..150 {
        let second = if n == 149 { 86_399 } else { n };
        let at = begins + jiff::SignedDuration::from_secs(second);
        let refunded = if n == 7 { 500 } else { 0 };
        charge(&format!("ch_{n}"), at, Some(&format!("pi_{n}")), refunded);
    }
    // Of an order that is not paid here, for all that is known.
    let lost = json!({ "id": "ch_lost", "payment_intent": "pi_lost", "amount": 2500, "amount_captured": 2500,
        "amount_refunded": 0, "currency": "usd", "metadata": { "order_id": "ord_lost" } });
    api.charged(begins, &lost);
    charge("ch_of_nobody", begins, None, 0);
    charge(
        "ch_before",
        begins - jiff::SignedDuration::from_secs(1),
        None,
        0,
    );
    charge(
        "ch_after",
        begins + jiff::SignedDuration::from_hours(24),
        None,
        0,
    );
    // The first answer does not come.
    api.trouble([Trouble::Status(503, vec![])]);
    let url = format!("--stripe-api-url={}", api.url);
    let key = format!("--stripe-secret-key={TEST_KEY}");
    let with_key = [url.as_str(), key.as_str(), "--reconcile-every=off"];
    let _workers = tokio::join!(
        worker(&bed, &mail, &with_key),
        worker(&bed, &mail, &with_key)
    );
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    for line in [
        "0 dead letters open, money differs from Stripe's",
        "152 payments at Stripe, 149 of them the same here",
        "3800.00 USD captured, 5.00 USD refunded there",
        "pi_lost is not kept here: order ord_lost, 25.00 USD captured, 0.00 USD refunded",
        "pi_7 differs: 25.00 USD captured, 5.00 USD refunded there; 25.00 USD captured, 0.00 USD refunded here",
        "ch_of_nobody names no order: 25.00 USD captured, 0.00 USD refunded",
    ] {
        assert_eq!(mails(&mail, line), 1, "{line}: {:?}", mail.mails());
    }
    assert_eq!(mails(&mail, "Subject: Tollgate test on "), 1);
}

#[tokio::test]
async fn a_summary_comes_without_stripes_money_where_the_key_may_not_read_it() {
    let (bed, api) = (TestBed::new().await, StripeApi::start().await);
    let mail = MailServer::start().await;
    let url = format!("--stripe-api-url={}", api.url);
    let key = format!("--stripe-secret-key={RESTRICTED_KEY}");
    let _worker = worker(&bed, &mail, &[&url, &key, "--reconcile-every=off"]).await;
    until_mailed(&mail, "Subject: Tollgate test on ").await;
    let line = "not compared with Stripe: Stripe refuses the key with 403 Forbidden";
    assert_eq!(mails(&mail, line), 1, "{:?}", mail.mails());
    assert_eq!(mails(&mail, RESTRICTED_KEY), 0);
}

/// The last day that is over where the clock says so, as the summary counts it.
fn yesterday(zone: &str) -> jiff::civil::Date {
    let five_minutes_ago = Timestamp::now() - jiff::SignedDuration::from_mins(5);
    let zone = TimeZone::get(zone).unwrap();
    five_minutes_ago.to_zoned(zone).date().yesterday().unwrap()
}

#[tokio::test]
async fn days_that_were_missed_are_summed_up_once_each_when_workers_are_back() {
    let bed = TestBed::new().await;
    let mail = MailServer::start().await;
    let days: Vec<String> =
        std::iter::successors(Some(yesterday("UTC")), |day| day.yesterday().ok())
            .take(4)
            .map(|day| day.to_string())
            .collect();
    let told = format!(
        "INSERT INTO alert_notices (channel, name, subject, body, status, sent_at)
         VALUES ('mail', 'summary/{}', 's', 'b', 'sent', now())",
        days[3]
    );
    bed.db.batch_execute(&told).await.unwrap();
    let (first, second) = tokio::join!(worker(&bed, &mail, &[]), worker(&bed, &mail, &[]));
    for day in &days[..3] {
        until_mailed(&mail, &format!("Subject: Tollgate test on {day}: ")).await;
    }
    drop((first, second));
    let again = worker(&bed, &mail, &[]).await;
    // Rules are looked at beside the summary: when one is told, that was looked at too.
    bed.db.batch_execute(LATE).await.unwrap();
    until_mailed(&mail, "[firing] backlog_age").await;
    again.stop().await.unwrap();
    for (day, late) in days[..3].iter().zip([false, true, true]) {
        let of_day = |mail: &&String| mail.contains(&format!("{day} in UTC"));
        let mails = mail.mails();
        let found: Vec<&String> = mails.iter().filter(of_day).collect();
        assert_eq!(found.len(), 1, "{day}: {mails:?}");
        assert_eq!(found[0].contains("Late: "), late, "{day}");
    }
    assert_eq!(mails(&mail, "Subject: Tollgate test on "), 3);
}

#[tokio::test]
async fn a_summary_is_of_the_day_of_its_time_zone() {
    // Half a day from each other: one of them is on another date than UTC at any time.
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago"] {
        let bed = TestBed::new().await;
        let mail = MailServer::start().await;
        let day = yesterday(zone);
        let begins = day
            .to_zoned(TimeZone::get(zone).unwrap())
            .unwrap()
            .timestamp();
        let events = format!(
            "INSERT INTO webhook_events (id, type, state, received_at, finished_at)
             SELECT 'evt_' || n, 'a.b', 'ignored', at, at
             FROM generate_series(0, 25) n, LATERAL (SELECT '{begins}'::timestamptz + (n - 1) * interval '1 hour' AS at) AS t"
        );
        bed.db.batch_execute(&events).await.unwrap();
        let zone = format!("--alert-time-zone={zone}");
        let _worker = worker(&bed, &mail, &[&zone]).await;
        until_mailed(
            &mail,
            &format!("Subject: Tollgate test on {day}: 24 events"),
        )
        .await;
    }
}
