//! Every fail-point, at its first hits: the process dies there under load, another one takes its place, nothing is lost.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::{StreamExt, stream};

use super::row::LONGEST_RECOVERY_MS;
use super::scene::Scene;
use super::stage::{UNREADY, variable};
use super::{MAILS_UNDER_WAY, Row, Setup, Stage, replays};
use crate::broker::Broker;
use crate::simulator::{Load, Plan, Shape};

/// A place where a process can be killed.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Its row in the table.
    pub row: &'static str,
    /// Its name in the programs.
    pub name: &'static str,
    /// What dying there means.
    pub title: &'static str,
    /// How often it is tried: at the first time that a run reaches it, the second, the third.
    pub hits: u32,
}

const fn point(row: &'static str, name: &'static str, title: &'static str) -> Point {
    Point {
        row,
        name,
        title,
        hits: 3,
    }
}

/// All of them.
pub const POINTS: [Point; 19] = [
    point(
        "F01a",
        "gateway.after_read",
        "gateway killed before the signature is checked",
    ),
    point(
        "F01b",
        "gateway.before_insert",
        "gateway killed before the commit",
    ),
    point(
        "F02",
        "gateway.after_commit",
        "gateway killed after the commit, before the answer",
    ),
    point(
        "F03a",
        "gateway.before_publish",
        "gateway killed between commit and publish",
    ),
    point(
        "F03b",
        "gateway.after_confirm",
        "gateway killed before the outbox is cleared",
    ),
    point(
        "F06a",
        "worker.after_lock",
        "worker killed with the event's lock",
    ),
    point("F06b", "worker.in_handler", "worker killed in a handler"),
    point(
        "F06c",
        "worker.before_commit",
        "worker killed before the commit",
    ),
    point(
        "F07",
        "worker.after_commit",
        "worker killed between commit and ack",
    ),
    point(
        "F04a",
        "relay.after_claim",
        "relay killed with claimed rows",
    ),
    point(
        "F04b",
        "relay.after_publish",
        "relay killed before the outbox is cleared",
    ),
    point(
        "F10a",
        "recorder.before_record",
        "recorder killed before it records",
    ),
    point(
        "F10b",
        "recorder.after_record",
        "recorder killed between record and ack",
    ),
    point(
        "F08a",
        "mailer.after_claim",
        "mailer killed with claimed mails",
    ),
    point(
        "F08b",
        "mailer.after_send",
        "mailer killed before it notes the server's yes",
    ),
    point(
        "F49a",
        "replayer.after_lock",
        "replay's worker killed with the replay's lock",
    ),
    point(
        "F49b",
        "replayer.before_commit",
        "replay's worker killed in a step",
    ),
    point(
        "F49c",
        "replayer.after_commit",
        "replay's worker killed between two steps",
    ),
    Point {
        hits: 1,
        ..point(
            "F49d",
            "replayer.before_end",
            "replay's worker killed in the last step",
        )
    },
];

const ORDERS: usize = 14;
/// Messages that are none, one for each hit.
const UNDECODABLE: i64 = 3;
/// Dead letters to replay, and how many of them a second: a few with each step.
const BURIED: usize = 60;
const REPLAY_RATE: usize = 100;
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A process that still lives after so long is brought more work, and again each time that this passes.
const NUDGE: Duration = Duration::from_secs(2);

impl Point {
    /// Whether only a replay comes there.
    pub fn needs_a_replay(&self) -> bool {
        of(*self) == "replayer"
    }
}

/// Kills one process of a scene, which then lacks it.
pub async fn strike(scene: &mut Scene, point: Point, hit: u32) -> Result<()> {
    let trap = format!("{}:{hit}", point.name);
    let trap = [("TOLLGATE_CRASH_AT", trap.as_str())];
    let stage = &mut scene.stage;
    if of(point) == "gateway" {
        stage.add_gateway(&trap).await;
    } else {
        // The only one, so that it is reached.
        stage.workers.clear();
        stage.add_worker(&trap).await;
    }
    match of(point) {
        "relay" => scene.gateway_broker.cut(),
        "recorder" => publish_undecodable(stage).await,
        _ => {}
    }
    let died = until_dead(stage, &mut scene.load, &scene.plan, point.name).await;
    scene.gateway_broker.open();
    stage.gateways.retain_mut(|gateway| !gateway.has_ended());
    stage.workers.retain_mut(|worker| !worker.has_ended());
    stage.aim();
    died
}

async fn publish_undecodable(stage: &Stage) {
    let broker = Broker::connect(&stage.bed).await;
    for n in 0..UNDECODABLE {
        let message = format!("no message {n}");
        broker.publish_raw(message.as_bytes()).await;
    }
}

/// How long claims of a dead process last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// As long as they do: ten seconds in the outbox, a minute for mails.
    RunOut,
    /// They are over at once, as if that time had passed.
    AreOver,
}

/// Kills at one place, at one hit.
pub async fn run(point: Point, hit: u32, claims: Claims) -> Row {
    let trap = format!("{}:{hit}", point.name);
    let seed = u64::from(hit) + 100 * point.name.len() as u64;
    let plan = Plan::new(seed, ORDERS, 2);
    let mut stage = prepare(point.name, &trap).await;
    let mut load = stage.load(&plan).await;
    let provoked = provoke(&stage, &mut load, point, &plan).await;
    let sent = load.events();
    let died = until_dead(&mut stage, &mut load, &plan, point.name).await;
    let more = load.events() - sent;
    let long = "SELECT count(*) FROM outbox WHERE available_at > now() + interval '10 seconds'";
    let long_claims = stage.bed.count(long).await;
    if claims == Claims::AreOver {
        let over = "UPDATE outbox SET available_at = now() WHERE available_at > now();
            UPDATE emails SET due_at = now() WHERE status = 'queued' AND due_at > now()";
        stage.bed.db.batch_execute(over).await.unwrap();
    }
    let mails = match of(point) {
        "gateway" => 0,
        _ => MAILS_UNDER_WAY,
    };
    replace(&mut stage, point.name).await;
    let told = (point.row, point.title);
    let mut row = stage.row(told, load, &plan, mails).await;
    for problem in [provoked, died].into_iter().filter_map(Result::err) {
        row.fail(&problem.to_string());
    }
    if more > 0 {
        row.notes.push(format!("{more} events more until it died"));
    }
    // Where claims are over at once, other tests share the machine.
    if claims != Claims::AreOver {
        row.expect_recovery_within(LONGEST_RECOVERY_MS);
    }
    if long_claims > 0 {
        let told = format!("{long_claims} rows are claimed for longer than ten seconds");
        row.fail(&told);
    }
    let problem = match of(point) {
        "recorder" => check_dead_letters(&stage).await,
        "replayer" => check_replay(&stage).await,
        _ => String::new(),
    };
    if !problem.is_empty() {
        row.fail(&problem);
    }
    row
}

/// Whose place it is.
fn of(point: Point) -> &'static str {
    point.name.split('.').next().unwrap_or_default()
}

/// Work for those that have none by the load alone.
async fn provoke(stage: &Stage, load: &mut Load, point: Point, plan: &Plan) -> Result<()> {
    match of(point) {
        "recorder" => publish_undecodable(stage).await,
        "replayer" => {
            let buried = replays::buried_plan(plan, BURIED);
            replays::bury(stage, load, &buried).await?;
            replays::begin(stage, REPLAY_RATE).await?;
        }
        _ => {}
    }
    Ok(())
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

/// By the fail-point, not for any other reason. What works in batches may take the whole load in fewer rounds than a point
/// has hits where the machine is busy: one more order makes one more round.
pub async fn until_dead(
    stage: &mut Stage,
    load: &mut Load,
    plan: &Plan,
    point: &str,
) -> Result<()> {
    let began = Instant::now();
    let mut nudges = 0;
    while began.elapsed() < LONGEST_WAIT {
        let mut all = stage.gateways.iter_mut().chain(&mut stage.workers);
        if let Some(dead) = all.find_map(|process| process.has_ended().then_some(process)) {
            return dead.expect_abort_at(point);
        }
        if began.elapsed() >= NUDGE * (nudges + 1) {
            nudges += 1;
            nudge(stage, load, plan).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("nothing died at {point}")
}

/// One more order, paid.
async fn nudge(stage: &Stage, load: &mut Load, plan: &Plan) {
    // Another one each time.
    let seed = plan.seed + 2_000_000 + load.events() as u64;
    let order = Plan::new(seed, 1, 0).shaped(Shape::Paid);
    stage.bed.seed(&order.catalogue()).await;
    for parcel in order.parcels() {
        load.send(parcel);
    }
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
    let wanted = UNDECODABLE;
    let deadline = Instant::now() + LONGEST_WAIT;
    while stage.bed.count(kept).await < wanted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match stage.bed.count(kept).await {
        found if found == wanted => String::new(),
        found => format!("{found} of {wanted} messages are kept"),
    }
}

/// Each event was put back once: a second time takes a second dead letter.
async fn check_replay(stage: &Stage) -> String {
    let replayed = "SELECT count(*) FROM dead_letters WHERE resolution = 'replayed'";
    let finished = "SELECT count(*) FROM replays WHERE state = 'finished'";
    let counts = (
        stage.bed.count(replayed).await,
        stage.bed.count("SELECT count(*) FROM dead_letters").await,
        stage.bed.count(finished).await,
    );
    match counts {
        (replayed, letters, 1) if replayed == BURIED as i64 && letters == replayed => String::new(),
        other => format!("(put back, dead letters, replays finished) are {other:?}"),
    }
}

/// All hits of one place, at the same time.
pub async fn run_all_hits(point: Point, claims: Claims) -> Option<Row> {
    let rows = stream::iter(1..=point.hits).map(|hit| run(point, hit, claims));
    let rows: Vec<Row> = rows.buffer_unordered(3).collect().await;
    Row::merged(rows)
}
