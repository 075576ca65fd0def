//! Replays of many dead letters: the plan, the job that the workers run, and what an operator does with it.

use harness::binaries::{Done, Launch, Process, ops, program};
use harness::{RunningWorker, TestBed, eventually};
use serde_json::Value;
use tokio_postgres::error::SqlState;

/// Dead events as a worker leaves them after one attempt. Nobody handles `some.type`, so it ends as ignored; events of
/// a payment die again for want of an order.
async fn dead_events(bed: &TestBed, event_type: &str, from: i32, to: i32) {
    const EVENTS: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, livemode, attempts, last_error, received_at, finished_at)
            SELECT format('evt_%s_%s', $1::text, n), $1, 'dead', false, 1, 'no order', now() - interval '2 hours', now()
            FROM generate_series($2::integer, $3) n RETURNING id
        ), body AS (
            INSERT INTO event_payloads (event_id, body)
            SELECT id, convert_to(format('{\"id\":\"%s\",\"type\":\"%s\",\"data\":{\"object\":{\"id\":\"pi_%s\",
                \"object\":\"payment_intent\",\"amount\":5000,\"amount_received\":5000,\"currency\":\"usd\",
                \"metadata\":{\"order_id\":\"none\"}}}}', id, $1, id), 'UTF8') FROM event
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, error, worker)
            SELECT id, 1, now(), 'permanent', 'order_not_found', 'no order', 'test' FROM event
        )
        INSERT INTO dead_letters (event_id, reason, error, fingerprint, died_at)
        SELECT id, 'order_not_found', 'no order', left(md5($1), 16), now() - interval '2 hours' FROM event";
    bed.db
        .execute(EVENTS, &[&event_type, &from, &to])
        .await
        .unwrap();
}

const HARMLESS: &str = "some.type";
const DEADLY: &str = "payment_intent.succeeded";

async fn command(bed: &TestBed, args: &[&str]) -> Done {
    let args: Vec<&str> = args.iter().chain(&["--json"]).copied().collect();
    ops(bed, &args).await
}

/// Plans a replay and returns it, if the exit code is 0 as expected.
async fn replay(bed: &TestBed, args: &[&str], code: i32) -> Value {
    let usual = ["dead-letters", "replay", "--yes", "--actor", "ann"];
    let args: Vec<&str> = usual.iter().chain(args).copied().collect();
    let done = command(bed, &args).await;
    done.expect_code(code);
    if code == 0 { done.json() } else { Value::Null }
}

const WHY: &str = "--reason=the orders are there now";

async fn plan(bed: &TestBed, args: &[&str]) -> Value {
    let usual = ["dead-letters", "replay", "--dry-run"];
    let args: Vec<&str> = usual.iter().chain(args).copied().collect();
    let done = command(bed, &args).await;
    done.expect_code(0);
    done.json()["plan"].clone()
}

async fn take(bed: &TestBed, step: &str, code: i32) {
    let reason = "--reason=because";
    let done = command(bed, &["replays", step, "1", reason, "--actor", "bob"]).await;
    done.expect_code(code);
}

async fn worker(bed: &TestBed) -> RunningWorker {
    RunningWorker::start(bed, &["--max-attempts=1"]).await
}

async fn until_replay(bed: &TestBed, condition: &str) {
    bed.until_count(
        &format!("SELECT count(*) FROM replays WHERE {condition}"),
        1,
    )
    .await;
}

/// Counters against items, items against events, and no event attempted twice.
async fn check_replay(bed: &TestBed) {
    for (invariant, sql) in [
        ("counters are the items' outcomes", "
            SELECT count(*) FROM replays WHERE (in_flight, processed, dead_again, skipped, planned_count) <>
                (SELECT count(*) FILTER (WHERE outcome = 'replayed'), count(*) FILTER (WHERE outcome = 'processed'),
                    count(*) FILTER (WHERE outcome = 'dead_again'), count(*) FILTER (WHERE outcome = 'skipped'), count(*)
                 FROM replay_items WHERE replay_id = replays.id)"),
        ("items behind the cursor wait, items before it do not", "
            SELECT count(*) FROM replay_items JOIN replays ON replays.id = replay_id
            WHERE (outcome = 'waiting') <> (position > cursor)"),
        ("an event is attempted once for each time it was put back", "
            SELECT count(*) FROM replay_items JOIN webhook_events event ON event.id = event_id
            WHERE replay_id = (SELECT max(id) FROM replays)
                AND event.attempts <> 1 + (outcome IN ('processed', 'dead_again'))::integer"),
        ("no outcome differs from the event's state", "
            SELECT count(*) FROM replay_items JOIN webhook_events event ON event.id = event_id
            WHERE (outcome = 'processed' AND event.state NOT IN ('processed', 'ignored'))
                OR (outcome = 'dead_again' AND event.state <> 'dead')"),
        ("the rate is never exceeded", "
            SELECT count(*) FROM replay_items JOIN replays ON replays.id = replay_id
            WHERE position > 1 + rate_per_s * (0.5 + extract(epoch FROM replayed_at - started_at))"),
    ] {
        assert_eq!(bed.count(sql).await, 0, "broken: {invariant}");
    }
    bed.check_invariants().await;
}

#[tokio::test]
async fn a_plan_counts_exactly_what_a_replay_would_do() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 3).await;
    dead_events(&bed, DEADLY, 1, 2).await;
    bed.db
        .batch_execute(
            "UPDATE dead_letters SET died_at = now() WHERE event_id = 'evt_some.type_1';
             INSERT INTO dead_letters (reason, error, fingerprint, message) VALUES ('undecodable', 'e', 'f', 'm');
             WITH done AS (
                UPDATE webhook_events SET state = 'processed', last_error = NULL WHERE id = 'evt_some.type_3' RETURNING id
             ) UPDATE dead_letters SET resolved_at = now(), resolution = 'replayed' FROM done WHERE event_id = done.id",
        )
        .await
        .unwrap();
    let all = plan(&bed, &["--all"]).await;
    let shares = |of: &str| -> Vec<(String, i64)> {
        let shares = all[of].as_array().unwrap().iter();
        shares
            .map(|share| {
                let name = share["name"].as_str().unwrap().to_owned();
                (name, share["count"].as_i64().unwrap())
            })
            .collect()
    };
    assert_eq!(all["count"], 4, "letters without an event do not count");
    assert_eq!(
        (&all["already_processed"], &all["without_event"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        shares("by_type"),
        [(DEADLY.to_owned(), 2), (HARMLESS.to_owned(), 2)]
    );
    assert_eq!(
        shares("by_age"),
        [("1 h to 1 d".to_owned(), 3), ("under 1 h".to_owned(), 1)]
    );
    assert_eq!(shares("by_fingerprint").len(), 2);
    assert_eq!(all["by_fingerprint"][0]["reason"], "order_not_found");

    let group = all["by_fingerprint"][0]["name"].as_str().unwrap();
    for (filter, count) in [
        (format!("fingerprint:{group}"), 2),
        ("type:some.*,other".to_owned(), 2),
        ("since:1h".to_owned(), 1),
        ("until:1h".to_owned(), 3),
        (
            "reason:order_not_found livemode:false attempts:1".to_owned(),
            4,
        ),
        ("id:evt_some.type_1,evt_some.type_3,1".to_owned(), 1),
        ("type:some.type livemode:true".to_owned(), 0),
    ] {
        let planned = plan(&bed, &["--filter", &filter]).await;
        assert_eq!(planned["count"], count, "{filter}");
    }
    assert_eq!(bed.count("SELECT count(*) FROM replays").await, 0);
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 0);
}

#[tokio::test]
async fn a_replay_needs_consent_a_reason_and_the_agreed_set() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 2).await;
    let hash = plan(&bed, &["--all"]).await["plan_hash"].clone();
    let hash = format!("--plan-hash={}", hash.as_str().unwrap());
    let replay_all = ["dead-letters", "replay", "--all"];
    let refused = async |more: &[&str], code: i32| {
        let args: Vec<&str> = replay_all.iter().chain(more).copied().collect();
        command(&bed, &args).await.expect_code(code);
    };
    refused(&[], 2).await;
    refused(&["--yes", "--reason=short"], 2).await;
    refused(&[WHY], 4).await;
    refused(&["--yes", WHY, "--rate=501"], 2).await;
    refused(&["--yes", WHY, "--filter=colour:red"], 2).await;
    dead_events(&bed, HARMLESS, 3, 3).await;
    refused(&["--yes", WHY, &hash], 6).await;
    refused(&["--dry-run", &hash], 6).await;
    assert_eq!(bed.count("SELECT count(*) FROM replays").await, 0);
    // Who names them has agreed to them.
    let named = [
        "dead-letters",
        "replay",
        "evt_some.type_1",
        "evt_some.type_2",
        WHY,
    ];
    let planned = command(&bed, &named).await.json();
    assert_eq!(planned["replay"]["planned"], 2);
    take(&bed, "cancel", 0).await;
    let hash = plan(&bed, &["--all"]).await["plan_hash"].clone();
    let hash = format!("--plan-hash={}", hash.as_str().unwrap());
    refused(&["--yes", WHY, &hash], 0).await;
    let none = replay(&bed, &["--type=none", WHY], 0).await;
    assert!(none["replay"].is_null());
}

#[tokio::test]
async fn a_replay_ends_with_an_outcome_for_each_event() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 40).await;
    dead_events(&bed, DEADLY, 1, 5).await;
    let planned = replay(&bed, &["--all", "--rate=20", WHY], 0).await;
    assert_eq!(
        (&planned["replay"]["state"], &planned["replay"]["planned"]),
        (&"planned".into(), &45.into())
    );
    // One of them is replayed, and one discarded, before its turn comes.
    let one = ["dead-letters", "replay", "evt_some.type_40", WHY];
    command(&bed, &one).await.expect_code(0);
    let other = ["dead-letters", "discard", "evt_some.type_39", WHY];
    command(&bed, &other).await.expect_code(0);
    let _worker = worker(&bed).await;
    let followed = ops(&bed, &["replays", "follow", "1"]).await;
    followed.expect_code(8);
    let lines: Vec<Value> = followed
        .stdout()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert!(lines.len() > 1 && lines.iter().all(|line| line["schema"] == 1));
    assert_eq!(last["state"], "finished");
    assert_eq!(
        [&last["processed"], &last["dead_again"], &last["skipped"]],
        [38, 5, 2]
    );
    let shown = command(&bed, &["replays", "show", "1"]).await.json();
    assert_eq!(shown["replay"]["items"].as_array().unwrap().len(), 5);
    let listed = command(&bed, &["replays", "list"]).await.json();
    assert_eq!(listed["replays"][0]["reason"], "the orders are there now");
    let audit = bed
        .text("SELECT string_agg(action || ' ' || split_part(actor, ' ', 1), ', ' ORDER BY id) FROM audit_log WHERE subject = 'replay 1'")
        .await;
    assert_eq!(
        audit,
        "replay.planned ann, replay.running worker, replay.finished worker"
    );
    bed.check_invariants().await;
    command(&bed, &["replays", "show", "2"])
        .await
        .expect_code(3);
}

#[tokio::test]
async fn a_replay_of_harmless_events_keeps_its_rate_and_exits_with_0() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 60).await;
    let _worker = worker(&bed).await;
    let followed = ops(
        &bed,
        &[
            "dead-letters",
            "replay",
            "--type=some.*",
            "--rate=30",
            "--yes",
            "--follow",
            "--json",
            WHY,
        ],
    )
    .await;
    followed.expect_code(0);
    assert_eq!(followed.json()["replay"]["processed"], 60);
    check_replay(&bed).await;
    assert_eq!(
        bed.count(
            "SELECT count(*) FROM replays WHERE finished_at - started_at > interval '1.5 seconds'"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn a_replay_is_paused_resumed_and_cancelled() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 200).await;
    replay(&bed, &["--all", "--rate=25", WHY], 0).await;
    take(&bed, "pause", 6).await;
    let _worker = worker(&bed).await;
    until_replay(&bed, "processed > 0").await;
    take(&bed, "pause", 0).await;
    let cursor = bed.count("SELECT cursor::bigint FROM replays").await;
    take(&bed, "pause", 6).await;
    until_replay(&bed, "in_flight = 0").await;
    assert_eq!(
        bed.count("SELECT cursor::bigint FROM replays").await,
        cursor
    );
    ops(&bed, &["replays", "follow", "1"]).await.expect_code(8);
    check_replay(&bed).await;
    take(&bed, "resume", 0).await;
    until_replay(&bed, &format!("cursor > {cursor} AND in_flight > 0")).await;
    take(&bed, "cancel", 0).await;
    let cursor = bed.count("SELECT cursor::bigint FROM replays").await;
    for step in ["pause", "resume", "cancel"] {
        take(&bed, step, 6).await;
    }
    // What was put back already still gets its outcome.
    until_replay(&bed, "state = 'cancelled' AND in_flight = 0").await;
    assert_eq!(
        bed.count("SELECT cursor::bigint FROM replays").await,
        cursor
    );
    check_replay(&bed).await;
    let audit = bed
        .text("SELECT string_agg(action || ' ' || reason, ', ' ORDER BY id) FROM audit_log WHERE actor = 'bob'")
        .await;
    assert_eq!(
        audit,
        "replay.paused because, replay.running because, replay.cancelled because"
    );
    // Another one may begin now.
    replay(&bed, &["--all", "--rate=500", WHY], 0).await;
    bed.until_count("SELECT count(*) FROM replays WHERE state = 'finished'", 1)
        .await;
    check_replay(&bed).await;
}

#[tokio::test]
async fn a_replay_pauses_by_itself_when_most_events_die_again() {
    let bed = TestBed::new().await;
    dead_events(&bed, DEADLY, 1, 300).await;
    replay(&bed, &["--all", "--rate=50", WHY], 0).await;
    let _worker = worker(&bed).await;
    until_replay(&bed, "state = 'paused'").await;
    assert_eq!(
        bed.text("SELECT error FROM replays").await,
        "50 of the last 50 events died again"
    );
    until_replay(&bed, "in_flight = 0 AND cursor BETWEEN 50 AND 150").await;
    check_replay(&bed).await;
    // Resumed, it gets fifty more before it is judged again.
    take(&bed, "resume", 0).await;
    until_replay(&bed, "state = 'paused' AND cursor BETWEEN 100 AND 250").await;
    take(&bed, "cancel", 0).await;
    let audit =
        "SELECT count(*) FROM audit_log WHERE action = 'replay.paused' AND actor LIKE 'worker %'";
    assert_eq!(bed.count(audit).await, 2);
}

#[tokio::test]
async fn a_replay_pauses_by_itself_when_most_events_fail_and_are_retried_for_hours() {
    let bed = TestBed::new().await;
    dead_events(&bed, DEADLY, 1, 1_000).await;
    let patient = ["--max-attempts=50", "--backoff-base=4h", "--backoff-max=4h"];
    let _worker = RunningWorker::start(&bed, &patient).await;
    replay(&bed, &["--all", "--rate=100", WHY], 0).await;
    until_replay(&bed, "state = 'paused' AND cursor BETWEEN 50 AND 200").await;
    let why = bed.text("SELECT error FROM replays").await;
    assert!(why.contains("fail and are retried"), "{why}");
    take(&bed, "cancel", 0).await;
}

#[tokio::test]
async fn too_many_events_and_too_many_replays_of_one_need_force() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 10_001).await;
    replay(&bed, &["--all", WHY], 4).await;
    replay(&bed, &["--all", "--force", WHY], 0).await;
    take(&bed, "cancel", 0).await;
    bed.db
        .batch_execute(
            "INSERT INTO dead_letters (event_id, reason, error, fingerprint, resolved_at, resolution)
             SELECT 'evt_some.type_1', 'order_not_found', 'e', 'f', now(), 'replayed' FROM generate_series(1, 5)",
        )
        .await
        .unwrap();
    let both = "--filter=id:evt_some.type_1,evt_some.type_2";
    let planned = plan(&bed, &[both]).await;
    assert_eq!(
        (&planned["count"], &planned["exhausted"]),
        (&1.into(), &1.into())
    );
    replay(&bed, &["evt_some.type_1", WHY], 4).await;
    command(&bed, &["events", "retry", "evt_some.type_1", WHY])
        .await
        .expect_code(4);
    replay(&bed, &["--filter=id:evt_some.type_1", WHY], 4).await;
    assert_eq!(plan(&bed, &[both, "--force"]).await["count"], 2);
    replay(&bed, &["evt_some.type_1", "--force", WHY], 0).await;
}

#[tokio::test]
async fn of_two_replays_at_once_one_is_refused() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 50).await;
    let args = ["dead-letters", "replay", "--all", "--yes", WHY];
    let (one, two) = tokio::join!(ops(&bed, &args), ops(&bed, &args));
    let refused = [&one, &two]
        .iter()
        .filter(|done| done.stderr().contains("is active"))
        .count();
    assert_eq!(refused, 1, "{} {}", one.stderr(), two.stderr());
    ops(&bed, &args).await.expect_code(6);
    assert_eq!(bed.count("SELECT count(*) FROM replays").await, 1);
    assert_eq!(bed.count("SELECT count(*) FROM replay_items").await, 50);
}

#[tokio::test]
async fn a_replay_survives_the_workers_that_run_it() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 150).await;
    replay(&bed, &["--all", "--rate=40", WHY], 0).await;
    let (first, second) = tokio::join!(worker(&bed), worker(&bed));
    until_replay(&bed, "cursor > 20").await;
    drop(first);
    until_replay(&bed, "cursor > 60").await;
    drop(second);
    let _third = worker(&bed).await;
    until_replay(&bed, "state = 'finished' AND processed = 150").await;
    check_replay(&bed).await;
}

#[tokio::test]
async fn what_is_over_is_not_rewritten_by_anybody() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 2).await;
    replay(&bed, &["--all", WHY], 0).await;
    let _worker = worker(&bed).await;
    until_replay(&bed, "state = 'finished'").await;
    for rewrite in [
        "UPDATE replays SET processed = 1, skipped = 1",
        "UPDATE replays SET state = 'running', finished_at = NULL",
        "DELETE FROM replay_items",
        "UPDATE replay_items SET outcome = 'skipped', replayed_at = NULL",
    ] {
        let error = bed.db.batch_execute(rewrite).await.expect_err(rewrite);
        assert_eq!(
            error.code(),
            Some(&SqlState::RESTRICT_VIOLATION),
            "{rewrite}: {error}"
        );
    }
}

#[tokio::test]
async fn interrupting_who_follows_does_not_interrupt_the_replay() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 100).await;
    replay(&bed, &["--all", "--rate=20", WHY], 0).await;
    let log = bed.path("followed");
    let mut command = program("ops").await;
    command.args(["replays", "follow", "1"]);
    command.env("DATABASE_URL", bed.ops_url());
    command.stdout(std::fs::File::create(&log).unwrap());
    let mut follower = command.spawn().unwrap();
    let _worker = worker(&bed).await;
    eventually("the follower tells something", async || {
        let told = std::fs::read_to_string(&log).unwrap();
        told.contains("\"state\":\"running\"").then_some(())
    })
    .await;
    let pid = follower.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    assert_eq!(follower.wait().await.unwrap().code(), Some(130));
    until_replay(&bed, "state = 'finished' AND processed = 100").await;
}

#[tokio::test]
async fn a_replay_holds_back_while_new_events_wait_and_goes_on_afterwards() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 200).await;
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, rescue_from)
             SELECT 'evt_late_' || n, 'some.type', now() - interval '1 minute' FROM generate_series(1, 10) n;
             INSERT INTO event_payloads (event_id, body) SELECT id, '{}' FROM webhook_events WHERE id LIKE 'evt_late_%'",
        )
        .await
        .unwrap();
    replay(&bed, &["--all", "--rate=500", WHY], 0).await;
    let _worker = worker(&bed).await;
    until_replay(&bed, "cursor >= 3").await;
    until_replay(
        &bed,
        "cursor <= 1 + extract(epoch FROM clock_timestamp() - started_at)",
    )
    .await;
    bed.db
        .batch_execute("INSERT INTO outbox (event_id) SELECT id FROM webhook_events WHERE id LIKE 'evt_late_%'")
        .await
        .unwrap();
    until_replay(&bed, "state = 'finished' AND processed = 200").await;
    check_replay(&bed).await;
}

#[tokio::test]
async fn a_replay_makes_room_for_the_next_while_its_last_events_are_retried() {
    let bed = TestBed::new().await;
    dead_events(&bed, DEADLY, 1, 2).await;
    dead_events(&bed, HARMLESS, 1, 3).await;
    // Their order may still come, so they are retried, here for hours.
    let _worker = RunningWorker::start(
        &bed,
        &["--max-attempts=50", "--backoff-base=1h", "--backoff-max=6h"],
    )
    .await;
    replay(&bed, &["--type=payment_intent.*", WHY], 0).await;
    until_replay(&bed, "id = 1 AND state = 'settling' AND in_flight = 2").await;
    for step in ["pause", "resume", "cancel"] {
        take(&bed, step, 6).await;
    }
    replay(&bed, &["--type=some.*", WHY], 0).await;
    until_replay(&bed, "id = 2 AND state = 'finished' AND processed = 3").await;
    until_replay(&bed, "id = 1 AND state = 'settling'").await;
    // With its last outcome it is finished.
    bed.seed_order("none").await;
    for n in 1..=2 {
        let id = format!("evt_{DEADLY}_{n}");
        let retry = ["events", "retry", &id, "--reason=the order came"];
        command(&bed, &retry).await.expect_code(0);
    }
    until_replay(&bed, "id = 1 AND state = 'finished' AND processed = 2").await;
    let audit = bed
        .text(
            "SELECT string_agg(action, ', ' ORDER BY id) FROM audit_log WHERE subject = 'replay 1'",
        )
        .await;
    assert_eq!(
        audit,
        "replay.planned, replay.running, replay.settling, replay.finished"
    );
}

#[tokio::test]
async fn a_replay_resumes_wherever_its_worker_is_killed_in_a_step() {
    let bed = TestBed::new().await;
    dead_events(&bed, HARMLESS, 1, 120).await;
    replay(&bed, &["--all", "--rate=60", WHY], 0).await;
    for trap in [
        "replayer.after_lock:1",
        "replayer.before_commit:1",
        "replayer.after_commit:1",
        "replayer.after_lock:3",
        "replayer.before_commit:3",
        "replayer.after_commit:3",
        "replayer.before_commit:8",
    ] {
        let launch = Launch {
            armed: true,
            unready: true,
            variables: &[("TOLLGATE_CRASH_AT", trap)],
            ..Launch::default()
        };
        let mut doomed = Process::launch(&bed, "worker", launch).await;
        eventually(&format!("it dies at {trap}"), async || {
            doomed.has_ended().then_some(())
        })
        .await;
    }
    assert_eq!(
        bed.count("SELECT count(*) FROM replays WHERE finished_at IS NULL")
            .await,
        1
    );
    let _worker = worker(&bed).await;
    until_replay(&bed, "state = 'finished' AND processed = 120").await;
    check_replay(&bed).await;
}
