//! What the demo shows, and what is promised of each.

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::shop::{Posted, Shop};

/// One row of the table.
pub struct Scenario {
    /// What it shows.
    pub name: &'static str,
    /// What was sent.
    pub sent: String,
    /// What must have happened.
    pub promised: String,
    /// What happened.
    pub happened: String,
    /// From the request to the answer.
    pub answer_ms: Option<f64>,
    /// From the answer to the event's final state.
    pub final_ms: Option<f64>,
}

impl Scenario {
    /// Whether what happened is what was promised.
    pub fn as_promised(&self) -> bool {
        self.happened == self.promised
    }
}

const DUPLICATES: usize = 100;
const TWO_SEATS: i64 = 5_000;
const TWO_SEATS_AND_A_COURSE: i64 = 14_900;

/// Runs every scenario, in order.
pub async fn run(shop: &Shop) -> Result<Vec<Scenario>> {
    shop.seed(&["paid_course", "failed", "refunded", "doubled"])
        .await?;
    let mut done = vec![
        success(shop).await?,
        failure(shop).await?,
        refund(shop).await?,
    ];
    done.push(waitlist(shop).await?);
    done.push(late_success(shop).await?);
    done.push(duplicates(shop).await?);
    done.push(forgery(shop).await?);
    done.push(unknown_type(shop).await?);
    done.extend(poison_and_replay(shop).await?);
    done.push(mails(shop).await?);
    Ok(done)
}

/// Posts an event about an order and waits until it is processed.
async fn process(
    shop: &Shop,
    event_id: &str,
    event_type: &str,
    order: &str,
    amount: i64,
) -> Result<(f64, f64)> {
    let posted = shop
        .post(&Shop::event(event_id, event_type, order, amount), false)
        .await?;
    let finished = shop.until(event_id, "processed").await?;
    Ok((posted.took_ms, between_ms(&posted, finished)))
}

fn between_ms(posted: &Posted, finished: Timestamp) -> f64 {
    (finished.duration_since(posted.at).as_secs_f64() * 1_000.0).max(0.0)
}

async fn about_order(
    shop: &Shop,
    name: &'static str,
    (event_type, order, amount): (&str, &str, i64),
    promised: &str,
) -> Result<Scenario> {
    let event_id = format!("evt_demo_{order}_{}", event_type.replace('.', "_"));
    let (answer_ms, final_ms) = process(shop, &event_id, event_type, order, amount).await?;
    Ok(Scenario {
        name,
        sent: format!("{event_type} for order {order}"),
        promised: promised.to_owned(),
        happened: shop.tell_order(order).await?,
        answer_ms: Some(answer_ms),
        final_ms: Some(final_ms),
    })
}

async fn success(shop: &Shop) -> Result<Scenario> {
    let event = (
        "payment_intent.succeeded",
        "paid_course",
        TWO_SEATS_AND_A_COURSE,
    );
    let promised = "order paid, 2 seats active, 2 tickets valid, 1 course, mails: order_paid";
    about_order(shop, "success", event, promised).await
}

async fn failure(shop: &Shop) -> Result<Scenario> {
    let event = ("payment_intent.payment_failed", "failed", TWO_SEATS);
    let promised = "order cancelled, 2 seats pending, mails: payment_failed";
    about_order(shop, "failure", event, promised).await
}

async fn refund(shop: &Shop) -> Result<Scenario> {
    process(
        shop,
        "evt_demo_before_refund",
        "payment_intent.succeeded",
        "refunded",
        TWO_SEATS,
    )
    .await?;
    let event = ("charge.refunded", "refunded", TWO_SEATS);
    let promised =
        "order refunded, 2 seats cancelled, 2 tickets void, mails: order_paid order_refunded";
    about_order(shop, "refund", event, promised).await
}

/// The refund of a sold-out seat makes an offer to the first of the waitlist, who pays.
async fn waitlist(shop: &Shop) -> Result<Scenario> {
    const ORDERS: [&str; 2] = ["front_first", "front_next"];
    shop.seed_front_row(ORDERS[0], ORDERS[1]).await?;
    let success = "payment_intent.succeeded";
    process(shop, "evt_demo_front_paid", success, ORDERS[0], TWO_SEATS).await?;
    let (answer_ms, final_ms) = process(
        shop,
        "evt_demo_front_refund",
        "charge.refunded",
        ORDERS[0],
        TWO_SEATS,
    )
    .await?;
    let offered = shop.tell_order(ORDERS[1]).await?;
    process(shop, "evt_demo_front_next", success, ORDERS[1], TWO_SEATS).await?;
    Ok(Scenario {
        name: "waitlist",
        sent: "the refund of a sold-out seat, then the payment of the next one in line".to_owned(),
        promised:
            "order pending, 1 seats offered, mails: seat_offered; then order paid, 1 seats active, \
                   1 tickets valid, mails: seat_offered order_paid"
                .to_owned(),
        happened: format!("{offered}; then {}", shop.tell_order(ORDERS[1]).await?),
        answer_ms: Some(answer_ms),
        final_ms: Some(final_ms),
    })
}

/// A declined card is not the end: the buyer tries again.
async fn late_success(shop: &Shop) -> Result<Scenario> {
    let event = ("payment_intent.succeeded", "failed", TWO_SEATS);
    let promised = "order paid, 2 seats active, 2 tickets valid, mails: payment_failed order_paid";
    about_order(shop, "success after failure", event, promised).await
}

async fn duplicates(shop: &Shop) -> Result<Scenario> {
    let body = Shop::event(
        "evt_demo_doubled",
        "payment_intent.succeeded",
        "doubled",
        TWO_SEATS,
    );
    let answers: Vec<Posted> = stream::iter(0..DUPLICATES)
        .map(|_| shop.post(&body, false))
        .buffer_unordered(16)
        .try_collect()
        .await?;
    let first = answers
        .iter()
        .find(|answer| answer.body["duplicate"] == false);
    let finished = shop.until("evt_demo_doubled", "processed").await?;
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    let stored = shop
        .tell(
            "SELECT concat(count(*), ' event stored, ', sum(deliveries), ' deliveries counted, ', sum(attempts), ' attempt, ')
             FROM webhook_events WHERE id = 'evt_demo_doubled'",
        )
        .await?;
    let mut times_ms: Vec<f64> = answers.iter().map(|answer| answer.took_ms).collect();
    times_ms.sort_by(f64::total_cmp);
    Ok(Scenario {
        name: "duplicates",
        sent: format!("one event {DUPLICATES} times, 16 at a time"),
        promised: format!(
            "{DUPLICATES} answers 200, 1 event stored, {DUPLICATES} deliveries counted, 1 attempt, order paid, \
             2 seats active, 2 tickets valid, mails: order_paid"
        ),
        happened: format!(
            "{accepted} answers 200, {stored}{}",
            shop.tell_order("doubled").await?
        ),
        answer_ms: times_ms.get(times_ms.len() / 2).copied(),
        final_ms: first.map(|first| between_ms(first, finished)),
    })
}

async fn forgery(shop: &Shop) -> Result<Scenario> {
    let body = Shop::event(
        "evt_demo_forged",
        "payment_intent.succeeded",
        "failed",
        TWO_SEATS,
    );
    let posted = shop.post(&body, true).await?;
    let stored = shop
        .tell("SELECT count(*)::text FROM webhook_events WHERE id = 'evt_demo_forged'")
        .await?;
    Ok(Scenario {
        name: "forgery",
        sent: "payment_intent.succeeded signed with another secret".to_owned(),
        promised: "answer 400 invalid_signature, 0 events stored".to_owned(),
        happened: format!(
            "answer {} {}, {stored} events stored",
            posted.status,
            posted.body["error"]["code"].as_str().unwrap_or_default()
        ),
        answer_ms: Some(posted.took_ms),
        final_ms: None,
    })
}

async fn unknown_type(shop: &Shop) -> Result<Scenario> {
    let body = Shop::event("evt_demo_unknown", "invoice.finalized", "failed", TWO_SEATS);
    let posted = shop.post(&body, false).await?;
    let finished = shop.until("evt_demo_unknown", "ignored").await?;
    Ok(Scenario {
        name: "unknown type",
        sent: "invoice.finalized, which has no handler".to_owned(),
        promised: "answer 200, ignored: no_handler".to_owned(),
        happened: format!(
            "answer {}, ignored: {}",
            posted.status,
            shop.tell("SELECT error_kind FROM event_attempts WHERE event_id = 'evt_demo_unknown'")
                .await?
        ),
        answer_ms: Some(posted.took_ms),
        final_ms: Some(between_ms(&posted, finished)),
    })
}

/// An event about an order that is not there dies; once the order is there, an operator replays it.
async fn poison_and_replay(shop: &Shop) -> Result<[Scenario; 2]> {
    const EVENT: &str = "evt_demo_poison";
    let body = Shop::event(EVENT, "payment_intent.succeeded", "late", TWO_SEATS);
    let posted = shop.post(&body, false).await?;
    let died = shop.until(EVENT, "dead").await?;
    let tell = "SELECT concat('dead after ', attempts, ' attempts: ', reason) FROM webhook_events
        JOIN dead_letters ON event_id = webhook_events.id WHERE event_id = 'evt_demo_poison'";
    let attempts = std::env::var("WORKER_MAX_ATTEMPTS").unwrap_or_else(|_| "12".to_owned());
    let poison = Scenario {
        name: "poison",
        sent: "payment_intent.succeeded for an order that does not exist".to_owned(),
        promised: format!("answer 200, dead after {attempts} attempts: order_not_found"),
        happened: format!("answer {}, {}", posted.status, shop.tell(tell).await?),
        answer_ms: Some(posted.took_ms),
        final_ms: Some(between_ms(&posted, died)),
    };
    shop.seed(&["late"]).await?;
    let replayed_at = Timestamp::now();
    shop.ops(&[
        "dead-letters",
        "replay",
        EVENT,
        "--reason",
        "the order was loaded",
        "--actor",
        "demo",
    ])
    .await?;
    let finished = shop.until(EVENT, "processed").await?;
    let audit = "SELECT concat(actor, ' replayed it (', reason, '), ') FROM audit_log ORDER BY id DESC LIMIT 1";
    let replay = Scenario {
        name: "replay",
        sent: "ops dead-letters replay, once the order is there".to_owned(),
        promised:
            "demo replayed it (the order was loaded), order paid, 2 seats active, 2 tickets valid, \
                   mails: order_paid"
                .to_owned(),
        happened: format!(
            "{}{}",
            shop.tell(audit).await?,
            shop.tell_order("late").await?
        ),
        answer_ms: None,
        final_ms: Some(finished.duration_since(replayed_at).as_secs_f64() * 1_000.0),
    };
    Ok([poison, replay])
}

async fn mails(shop: &Shop) -> Result<Scenario> {
    shop.until_mails_are_sent().await?;
    Ok(Scenario {
        name: "mails",
        sent: "everything above".to_owned(),
        promised: "11 mails sent, 0 waiting".to_owned(),
        happened: shop
            .tell(
                "SELECT concat(count(*) FILTER (WHERE status = 'sent'), ' mails sent, ',
                    count(*) FILTER (WHERE status <> 'sent'), ' waiting') FROM emails",
            )
            .await?,
        answer_ms: None,
        final_ms: None,
    })
}
