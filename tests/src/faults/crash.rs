//! Every fail-point, at its first hits: the process dies there under load, another one takes its place, nothing is lost.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::stage::{UNREADY, variable};
use super::{MAILS_UNDER_WAY, Row, Setup, Stage};
use crate::broker::Broker;
use crate::simulator::Plan;

/// Every place where a process can be killed, and what the place is.
pub const POINTS: [(&str, &str); 15] = [
    (
        "gateway.after_read",
        "gateway killed before the signature is checked",
    ),
    ("gateway.before_insert", "gateway killed before the commit"),
    (
        "gateway.after_commit",
        "gateway killed after the commit, before the answer",
    ),
    (
        "gateway.before_publish",
        "gateway killed between commit and publish",
    ),
    (
        "gateway.after_confirm",
        "gateway killed before the outbox is cleared",
    ),
    ("worker.after_lock", "worker killed with the event's lock"),
    ("worker.in_handler", "worker killed in a handler"),
    ("worker.before_commit", "worker killed before the commit"),
    (
        "worker.after_commit",
        "worker killed between commit and ack",
    ),
    ("relay.after_claim", "relay killed with claimed rows"),
    (
        "relay.after_publish",
        "relay killed before the outbox is cleared",
    ),
    (
        "recorder.before_record",
        "recorder killed before it records",
    ),
    (
        "recorder.after_record",
        "recorder killed between record and ack",
    ),
    ("mailer.after_claim", "mailer killed with claimed mails"),
    (
        "mailer.after_send",
        "mailer killed before it notes the server's yes",
    ),
];

/// The first hits of each.
pub const HITS: std::ops::RangeInclusive<u32> = 1..=3;

const ORDERS: usize = 14;
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long claims of a dead process last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// As long as they do: ten seconds in the outbox, a minute for mails.
    RunOut,
    /// They are over at once, as if that time had passed.
    AreOver,
}

/// Kills at one place, at one hit.
pub async fn run(point: (&str, &str), hit: u32, claims: Claims) -> Row {
    let trap = format!("{}:{hit}", point.0);
    let seed = u64::from(hit) + 100 * point.0.len() as u64;
    let plan = Plan::new(seed, ORDERS, 2);
    let mut stage = prepare(point.0, &trap).await;
    let load = stage.load(&plan).await;
    if point.0.starts_with("recorder") {
        let broker = Broker::connect(&stage.bed).await;
        for n in HITS {
            broker
                .publish_raw(format!("no message {n}").as_bytes())
                .await;
        }
    }
    let died = until_dead(&mut stage).await;
    let long = "SELECT count(*) FROM outbox WHERE available_at > now() + interval '10 seconds'";
    let long_claims = stage.bed.count(long).await;
    if claims == Claims::AreOver {
        let over = "UPDATE outbox SET available_at = now() WHERE available_at > now();
            UPDATE emails SET due_at = now() WHERE status = 'queued' AND due_at > now()";
        stage.bed.db.batch_execute(over).await.unwrap();
    }
    let mails = match point.0.split('.').next() {
        Some("gateway") => 0,
        _ => MAILS_UNDER_WAY,
    };
    replace(&mut stage, point.0).await;
    let mut row = stage.row((point.0, point.1), load, &plan, mails).await;
    if !died {
        row.fail(&format!("nothing died at {trap}"));
    }
    if long_claims > 0 {
        let told = format!("{long_claims} rows are claimed for longer than ten seconds");
        row.fail(&told);
    }
    if point.0.starts_with("recorder") {
        let problem = check_dead_letters(&stage).await;
        if !problem.is_empty() {
            row.fail(&problem);
        }
    }
    row
}

/// One process has the trap; it is the only one of its kind, so that it is reached.
async fn prepare(point: &str, trap: &str) -> Stage {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!("amqp://guest:guest@{}/%2f", nobody.local_addr().unwrap());
    drop(nobody);
    let mut setup = Setup::default();
    if point.starts_with("relay") {
        // What this gateway takes is the relay's to publish.
        setup.gateway = vec![
            variable("AMQP_URL", &away),
            variable("OUTBOX_GRACE", "1ms"),
            variable(UNREADY.0, UNREADY.1),
        ];
    }
    let mut stage = Stage::empty(setup).await;
    let trap = [("TOLLGATE_CRASH_AT", trap)];
    if point.starts_with("gateway") {
        stage.add_gateway(&trap).await;
        stage.add_worker(&[]).await;
    } else {
        stage.add_gateway(&[]).await;
        stage.add_worker(&trap).await;
    }
    stage
}

async fn until_dead(stage: &mut Stage) -> bool {
    let deadline = Instant::now() + LONGEST_WAIT;
    while Instant::now() < deadline {
        let mut all = stage.gateways.iter_mut().chain(&mut stage.workers);
        if all.any(|process| process.has_ended()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// The dead one is replaced by one without a trap.
async fn replace(stage: &mut Stage, point: &str) {
    if point.starts_with("gateway") {
        stage.gateways.clear();
        stage.add_gateway(&[]).await;
    } else {
        stage.workers.clear();
        // This one can reach the broker.
        if point.starts_with("relay") {
            stage.gateways.clear();
            stage.setup_mut().gateway.clear();
            stage.add_gateway(&[]).await;
        }
        stage.add_worker(&[]).await;
    }
}

/// Each undecodable message is kept once, however often it was recorded.
async fn check_dead_letters(stage: &Stage) -> String {
    let kept = "SELECT count(*) FROM dead_letters WHERE message IS NOT NULL";
    let wanted = HITS.count() as i64;
    let deadline = Instant::now() + LONGEST_WAIT;
    while stage.bed.count(kept).await < wanted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match stage.bed.count(kept).await {
        found if found == wanted => String::new(),
        found => format!("{found} of {wanted} messages are kept"),
    }
}

/// All hits of one place, at the same time.
pub async fn run_all_hits(point: (&'static str, &'static str), claims: Claims) -> Option<Row> {
    let rows = stream::iter(HITS).map(|hit| run(point, hit, claims));
    let rows: Vec<Row> = rows.buffer_unordered(3).collect().await;
    Row::merged(rows)
}
