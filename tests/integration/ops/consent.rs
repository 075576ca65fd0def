//! What commands ask before they touch many dead letters, what they show of it, and how they end.

use harness::TestBed;
use harness::binaries::{ops, ops_with};
use harness::terminal::ops_at_terminal;

/// Dead events `evt_1` and so on, of one group.
async fn dead_events(bed: &TestBed, count: i32) {
    const DEAD: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, attempts, last_error, finished_at)
            SELECT 'evt_' || n, CASE WHEN n = 1 THEN 'charge.refunded' ELSE 'some.type' END, 'dead', 1, 'no order', now()
            FROM generate_series(1, $1::integer) n RETURNING id
        ) INSERT INTO dead_letters (event_id, reason, error, fingerprint)
        SELECT id, 'order_not_found', 'no order', 'f00dfeedf00dfeed' FROM event";
    bed.db.execute(DEAD, &[&count]).await.unwrap();
}

const WHY: &str = "--reason=the orders are there now";
const END_REPLAY: &str = "UPDATE replays SET state = 'cancelled', finished_at = now(), changed_by = 'ann', changed_why = 'over'";
const REPLAYS: &str = "SELECT count(*) FROM replays";

#[tokio::test]
async fn a_terminal_is_asked_before_many_are_replayed_and_without_one_nothing_is_done() {
    let bed = TestBed::new().await;
    dead_events(&bed, 3).await;
    let replay = ["dead-letters", "replay", "--all", WHY];
    ops(&bed, &replay).await.expect_code(4);
    for (typed, code, replays) in [("n\n", 4, 0), ("\n", 4, 0), ("y\n", 0, 1)] {
        let (ended, shown) = ops_at_terminal(&bed, &replay, &[], typed).await;
        assert_eq!(ended, Some(code), "{shown}");
        assert!(shown.contains("3 will be replayed"), "{shown}");
        assert!(shown.contains("3 events would be replayed"), "{shown}");
        assert_eq!(bed.count(REPLAYS).await, replays, "{typed:?}");
    }
}

#[tokio::test]
async fn an_id_that_is_cut_short_names_no_dead_letter() {
    let bed = TestBed::new().await;
    dead_events(&bed, 12).await;
    for filter in ["id:12*", "id:evt_12…"] {
        let discard = ["dead-letters", "discard", "--filter", filter, "--yes", WHY];
        let done = ops(&bed, &discard).await;
        assert_eq!(done.expect_code(0).stdout(), "0 of 0 discarded\n");
    }
    assert_eq!(bed.state("evt_12").await, "dead");
}

#[tokio::test]
async fn what_is_said_beforehand_is_not_asked() {
    let bed = TestBed::new().await;
    dead_events(&bed, 2).await;
    let yes = ["dead-letters", "replay", "--all", "--yes", WHY];
    let (ended, shown) = ops_at_terminal(&bed, &yes, &[], "").await;
    assert_eq!(ended, Some(0), "{shown}");
    assert!(!shown.contains("to go on"), "{shown}");
    let discard = ["dead-letters", "discard", "--all", WHY];
    let (ended, shown) = ops_at_terminal(&bed, &discard, &[], "n\n").await;
    assert_eq!(ended, Some(4), "{shown}");
    assert!(
        shown.contains("2 will be discarded for good") && shown.contains("nothing was discarded"),
        "{shown}"
    );
    assert_eq!(bed.state("evt_1").await, "dead");
}

#[tokio::test]
async fn many_are_agreed_to_by_their_number() {
    let bed = TestBed::new().await;
    dead_events(&bed, 101).await;
    let discard = ["dead-letters", "discard", "--all", WHY];
    let (ended, shown) = ops_at_terminal(&bed, &discard, &[], "y\n").await;
    assert_eq!(ended, Some(4), "{shown}");
    let (ended, shown) = ops_at_terminal(&bed, &discard, &[], "101\n").await;
    assert_eq!(ended, Some(0), "{shown}");
    assert_eq!(bed.state("evt_1").await, "discarded");
}

#[tokio::test]
async fn every_one_of_many_that_are_discarded_is_audited() {
    let bed = TestBed::new().await;
    dead_events(&bed, 2_500).await;
    let discard = ["dead-letters", "discard", "--all", "--yes", WHY];
    let done = ops(&bed, &discard).await;
    assert_eq!(done.expect_code(0).stdout(), "2500 of 2500 discarded\n");
    let audited = |of: &str| {
        format!(
            "SELECT count(DISTINCT named) FROM audit_log, jsonb_array_elements_text(details -> '{of}') AS named
             WHERE action = 'dead_letters.discard'"
        )
    };
    for of in ["ids", "event_ids"] {
        assert_eq!(bed.count(&audited(of)).await, 2_500, "{of}");
    }
}

#[tokio::test]
async fn what_is_forced_is_audited_and_a_reason_has_a_length() {
    let bed = TestBed::new().await;
    dead_events(&bed, 4).await;
    let two = "--filter=id:evt_1 id:evt_2";
    let replay = ["dead-letters", "replay", two, "--yes", "--force"];
    let long = format!("--reason={}", "x".repeat(1_001));
    for (reason, code) in [("--reason=short", 2), (&long, 2), (WHY, 0)] {
        let replay: Vec<&str> = replay.iter().copied().chain([reason]).collect();
        ops(&bed, &replay).await.expect_code(code);
    }
    let forced = "SELECT count(*) FROM audit_log WHERE action = 'replay.forced'";
    assert_eq!(bed.count(forced).await, 1);
    for (event, force) in [("evt_3", "true"), ("evt_4", "false")] {
        let retry = ["events", "retry", event, WHY];
        let forced = Some("--force").filter(|_| force == "true");
        let retry: Vec<&str> = retry.into_iter().chain(forced).collect();
        ops(&bed, &retry).await.expect_code(0);
        let last = "SELECT details ->> 'force' FROM audit_log WHERE action = 'event.retry' ORDER BY id DESC LIMIT 1";
        assert_eq!(bed.text(last).await, force);
    }
}

#[tokio::test]
async fn more_than_max_are_refused() {
    let bed = TestBed::new().await;
    dead_events(&bed, 3).await;
    for what in ["replay", "discard"] {
        let args = ["dead-letters", what, "--all", "--yes", WHY, "--max", "2"];
        let refused = ops(&bed, &args).await;
        refused.expect_code(4);
        assert!(
            refused
                .stderr()
                .contains("3 dead letters are more than --max 2")
        );
    }
    let asked = ["dead-letters", "replay", "--all", WHY, "--max=2"];
    let (ended, shown) = ops_at_terminal(&bed, &asked, &[], "y\n").await;
    assert_eq!(ended, Some(4), "{shown}");
    assert!(!shown.contains("to go on"), "{shown}");
    assert_eq!(bed.state("evt_1").await, "dead");
    assert_eq!(bed.count(REPLAYS).await, 0);
    let args = ["dead-letters", "replay", "--all", "--yes", WHY, "--max=3"];
    ops(&bed, &args).await.expect_code(0);
    assert_eq!(bed.count(REPLAYS).await, 1);
}

#[tokio::test]
async fn where_one_of_several_is_missing_the_others_are_done_and_the_exit_code_tells() {
    let bed = TestBed::new().await;
    dead_events(&bed, 4).await;
    let replay = ["dead-letters", "replay", "evt_1", "evt_2", "evt_none", WHY];
    let partly = ops(&bed, &replay).await;
    partly.expect_code(8);
    assert!(
        partly
            .stderr()
            .contains("1 of those named are no unresolved dead letter"),
        "{}",
        partly.stderr()
    );
    assert_eq!(
        bed.count("SELECT planned_count::bigint FROM replays").await,
        2
    );
    bed.db.batch_execute(END_REPLAY).await.unwrap();
    let twice = ["dead-letters", "replay", "1", "evt_1", WHY];
    ops(&bed, &twice).await.expect_code(0);
    let discard = ["dead-letters", "discard", "evt_3", "evt_none", WHY];
    ops(&bed, &discard).await.expect_code(8);
    assert_eq!(bed.state("evt_3").await, "discarded");
    let none = ["dead-letters", "discard", "evt_none", "evt_nobody", WHY];
    ops(&bed, &none).await.expect_code(3);
}

#[tokio::test]
async fn what_is_wrong_with_a_command_is_told_without_the_database() {
    let bed = TestBed::new().await;
    let nowhere = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x")];
    for command in [
        "events list --filter colour:red",
        "dead-letters list --filter state:gone",
        "dead-letters groups --since soon",
        "dead-letters replay --filter x --reason because",
        "dead-letters discard 1 --reason=",
        "dead-letters resolve f00dfeedf00dfeed",
        "rejections list --since soon",
        "replays pause 1 --reason=",
        "seed /nonexistent",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        ops_with(&bed, &args, &nowhere).await.expect_code(2);
    }
}

#[tokio::test]
async fn plan_and_preview_look_as_they_always_did() {
    let bed = TestBed::new().await;
    dead_events(&bed, 3).await;
    let at = "UPDATE dead_letters SET died_at = '2026-01-02T03:04:05Z'";
    bed.db.batch_execute(at).await.unwrap();
    let plan = ["dead-letters", "replay", "--all", "--dry-run"];
    let plan = ops(&bed, &plan).await;
    assert_eq!(plan.expect_code(0).stdout(), PLAN);
    let preview = ["dead-letters", "discard", "--all", "--dry-run", WHY];
    let preview = ops(&bed, &preview).await;
    assert_eq!(preview.expect_code(0).stdout(), PREVIEW);
    assert_eq!(preview.stderr(), "3 dead letters would be discarded\n");
}

const PLAN: &str = "\
3 events would be replayed, in 0 s at 20/s; plan hash 8a6ae15122001229
0 processed meanwhile, 0 replayed too often, 0 without an event
┌─────────────────────────────────────────────────────┐
│ by                                           events │
╞═════════════════════════════════════════════════════╡
│ type    some.type                            2      │
│ type    charge.refunded                      1      │
│ died    over 7 d                             3      │
│ group   f00dfeedf00dfeed (order_not_found)   3      │
└─────────────────────────────────────────────────────┘
";

const PREVIEW: &str = "\
┌────────────────────────────────────────────────────────────────────────────────────────────────────────────────┐
│ id   event   type              reason            error      group              died                   attempts │
╞════════════════════════════════════════════════════════════════════════════════════════════════════════════════╡
│ 1    evt_1   charge.refunded   order_not_found   no order   f00dfeedf00dfeed   2026-01-02 03:04:05Z   1        │
│ 2    evt_2   some.type         order_not_found   no order   f00dfeedf00dfeed   2026-01-02 03:04:05Z   1        │
│ 3    evt_3   some.type         order_not_found   no order   f00dfeedf00dfeed   2026-01-02 03:04:05Z   1        │
└────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
";

#[tokio::test]
async fn colours_are_for_terminals_whose_reader_wants_them() {
    let bed = TestBed::new().await;
    dead_events(&bed, 1).await;
    let list = ["events", "list"];
    let (ended, coloured) = ops_at_terminal(&bed, &list, &[], "").await;
    assert_eq!(ended, Some(0));
    assert!(coloured.contains("\x1b["), "{coloured}");
    let (_, plain) = ops_at_terminal(&bed, &list, &[("NO_COLOR", "1")], "").await;
    assert!(
        plain.contains("dead") && !plain.contains("\x1b["),
        "{plain}"
    );
}

#[tokio::test]
async fn groups_are_sorted_with_a_note_that_is_kept() {
    let bed = TestBed::new().await;
    dead_events(&bed, 1).await;
    let group = "f00dfeedf00dfeed";
    for (verb, note, state) in [
        ("acknowledge", "", "acknowledged"),
        ("resolve", "bug 12 is mended", "resolved"),
        ("ignore", "not ours", "ignored"),
        ("reopen", "", "open"),
    ] {
        let note = format!("--note={note}");
        let args = ["dead-letters", verb, group, &note, "--actor=ann", "--json"];
        let done = ops(&bed, &args).await;
        assert_eq!(done.expect_code(0).json()["group"]["state"], state);
    }
    for verb in ["resolve", "ignore"] {
        let refused = ops(&bed, &["dead-letters", verb, group]).await;
        refused.expect_code(2);
        assert!(refused.stderr().contains("takes a note"));
    }
    ops(&bed, &["dead-letters", "acknowledge", "none"])
        .await
        .expect_code(3);
    let kept = "SELECT string_agg(concat_ws(' ', actor, details ->> 'state_before', details ->> 'state', reason), ', ' ORDER BY id) \
                FROM audit_log WHERE action = 'group.change'";
    assert_eq!(
        bed.text(kept).await,
        "ann open acknowledged no note, ann acknowledged resolved bug 12 is mended, ann resolved ignored not ours, \
         ann ignored open no note"
    );
}

#[tokio::test]
async fn alerts_that_fire_are_listed_and_those_that_are_over_on_demand() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "INSERT INTO alert_states (rule, key, state, message) VALUES
             ('backlog_age', '', 'firing', 'an event waits for 90 s'), ('rescued', '', 'resolved', 'over')",
        )
        .await
        .unwrap();
    let rules = async |args: &[&str]| {
        let done = ops(&bed, args).await;
        let alerts = done.expect_code(0).json()["alerts"].clone();
        let rule = |alert: &serde_json::Value| alert["rule"].as_str().unwrap().to_owned();
        alerts
            .as_array()
            .unwrap()
            .iter()
            .map(rule)
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&["alerts", "list", "--json"]).await, ["backlog_age"]);
    let all = rules(&["alerts", "list", "--all", "--json"]).await;
    assert_eq!(all, ["backlog_age", "rescued"]);
    let table = ops(&bed, &["alerts", "list"]).await.stdout();
    assert!(table.contains("an event waits for 90 s"), "{table}");
}
