//! What a replay of many dead letters does to live traffic, and whether it holds to its rate and to its switches. Each
//! event, live or replayed, pays an order of one seat.

use anyhow::{Context, Result, ensure};
use harness::TestBed;
use harness::binaries::{Process, ops};
use jiff::Timestamp;

use crate::Plan;
use crate::load::{self, NUMBER, Requests, Shape, template};
use crate::measure::{check, until_none};
use crate::report::{Figures, Row};
use crate::worker::{NO_LIMIT, UNFINISHED, after_the_200, seed_orders};

/// Dead letters that are replayed while live traffic runs.
const LETTERS: usize = 10_000;
const LETTERS_QUICKLY: usize = 600;
/// Seconds that live traffic is measured for before the replay, at most.
const QUIET_SECONDS: usize = 120;
/// Seconds that a replay lasts which is paused and cancelled.
const SWITCHED_SECONDS: usize = 8;
/// Live events a second.
const LIVE_RATE: u32 = 50;

/// A replay may make the slowest hundredth of live events this many times as slow, by the median of the repeats.
const MOST_SLOWED: f64 = 1.5;
/// It may miss its rate by this share, by the median of the repeats.
const MOST_OFF_RATE: f64 = 0.1;
/// A switch takes effect within this time, in every repeat.
const MOST_SWITCH_MS: f64 = 2_000.0;

const LIVE_UNFINISHED: &str = "
    SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying') AND budget_from = 0";
const OPEN_REPLAYS: &str =
    "SELECT count(*) FROM replays WHERE finished_at IS NULL OR in_flight > 0";

/// What one repeat measured.
struct Measured {
    /// Milliseconds to the 200, and from the 200 until processed.
    quiet: [Figures; 2],
    /// The same during the replay.
    busy: [Figures; 2],
    replay: Figures,
    paused: Figures,
    cancelled: Figures,
}

/// Live latency without and with the replay, the replay's rate, and how soon pause and cancel take effect; and what of it
/// is worse than it must be.
pub async fn run(plan: &Plan) -> Result<(Vec<Row>, Vec<String>)> {
    let letters = if plan.quick { LETTERS_QUICKLY } else { LETTERS };
    let mut measured = Vec::new();
    for _ in 0..plan.repeats {
        measured.push(measure(letters, plan.replay_rate).await?);
    }
    // Short runs are too noisy to be judged.
    let missed = if plan.quick {
        Vec::new()
    } else {
        missed(&measured)
    };
    Ok((rows(plan, letters, &measured), missed))
}

fn rows(plan: &Plan, letters: usize, measured: &[Measured]) -> Vec<Row> {
    let row = |name: String, figures: fn(&Measured) -> &Figures| {
        let repeats: Vec<Figures> = measured.iter().map(|one| figures(one).clone()).collect();
        plan.row(&name, &repeats)
    };
    let live = |what: &str| format!("live {LIVE_RATE}/s, ms {what}");
    vec![
        row(live("to the 200"), |one| &one.quiet[0]),
        row(live("to the 200, replaying"), |one| &one.busy[0]),
        row(live("after the 200"), |one| &one.quiet[1]),
        row(live("after the 200, replaying"), |one| &one.busy[1]),
        row(
            format!("replay of {letters} at {}/s", plan.replay_rate),
            |one| &one.replay,
        ),
        row("pause, ms to the last event".to_owned(), |one| &one.paused),
        row("cancel, ms to the last event".to_owned(), |one| {
            &one.cancelled
        }),
    ]
}

/// The bars that were missed, in words. A figure that is not there is missed too.
fn missed(measured: &[Measured]) -> Vec<String> {
    let ratio = |figures: fn(&Measured) -> &Figures| {
        let repeats: Vec<Figures> = measured.iter().map(|one| figures(one).clone()).collect();
        Figures::median(&repeats).ratio.unwrap_or(f64::NAN)
    };
    let mut missed = Vec::new();
    for (what, ratio) in [
        ("to the 200", ratio(|one| &one.busy[0])),
        ("after the 200", ratio(|one| &one.busy[1])),
    ] {
        if !(0.0..MOST_SLOWED).contains(&ratio) {
            missed.push(format!("a replay makes live p99 {what} {ratio:.2} times as long, and not below {MOST_SLOWED}"));
        }
    }
    let rate = ratio(|one| &one.replay);
    if !(1.0 - MOST_OFF_RATE..=1.0 + MOST_OFF_RATE).contains(&rate) {
        missed.push(format!(
            "a replay runs at {rate:.2} of its rate, more than {MOST_OFF_RATE} off"
        ));
    }
    for one in measured {
        for (what, figures) in [("pause", &one.paused), ("cancel", &one.cancelled)] {
            let took_ms = figures.p99_ms.unwrap_or(f64::NAN);
            if !(0.0..=MOST_SWITCH_MS).contains(&took_ms) {
                missed.push(format!(
                    "{what} took {took_ms:.0} ms, more than {MOST_SWITCH_MS:.0}"
                ));
            }
        }
    }
    missed
}

async fn measure(letters: usize, rate: usize) -> Result<Measured> {
    let bed = TestBed::new().await;
    let seconds = letters.div_ceil(rate);
    let live = LIVE_RATE as usize * seconds;
    let quietly = LIVE_RATE as usize * seconds.min(QUIET_SECONDS);
    let switched = rate * SWITCHED_SECONDS;
    seed_orders(&bed, letters + switched + quietly + live).await?;
    bury(&bed, 0..letters).await?;
    let gateway = Process::gateway(&bed, &[]).await;
    let worker = Process::worker(&bed, &[]).await;
    let first = letters + switched;
    let quiet = live_traffic(&bed, &gateway, first..first + quietly).await?;
    start(&bed, rate).await;
    let first = first + quietly;
    let mut busy = live_traffic(&bed, &gateway, first..first + live).await?;
    for (with, without) in busy.iter_mut().zip(&quiet) {
        with.ratio = with.p99_ms.zip(without.p99_ms).map(|(a, b)| a / b);
    }
    until_none(&bed, OPEN_REPLAYS).await?;
    let replay = pace(&bed, letters, rate).await?;
    bury(&bed, letters..letters + switched).await?;
    start(&bed, rate).await;
    let paused = switch(&bed, "pause", rate).await?;
    ops(&bed, &["replays", "resume", "2", "--reason=go on"])
        .await
        .expect_code(0);
    let cancelled = switch(&bed, "cancel", rate).await?;
    until_none(&bed, UNFINISHED).await?;
    until_none(&bed, OPEN_REPLAYS).await?;
    check_all(&bed, letters + quietly + live).await?;
    drop((gateway, worker));
    Ok(Measured {
        quiet,
        busy,
        replay,
        paused,
        cancelled,
    })
}

/// Stores dead events, as a worker leaves them that did not find their orders.
async fn bury(bed: &TestBed, numbers: std::ops::Range<usize>) -> Result<()> {
    const BURY: &str = "
        WITH event AS (
            INSERT INTO webhook_events (id, type, state, livemode, attempts, last_error, received_at, finished_at)
            SELECT 'evt_' || lpad(n::text, 24, '0'), 'payment_intent.succeeded', 'dead', false, 1, 'no order',
                now() - interval '2 hours', now() - interval '1 hour'
            FROM generate_series($1::bigint, $2::bigint - 1) n RETURNING id
        ), body AS (
            INSERT INTO event_payloads (event_id, body)
            SELECT id, convert_to(replace($3, $4, right(id, 24)), 'UTF8') FROM event
        ), attempt AS (
            INSERT INTO event_attempts (event_id, number, started_at, outcome, error_kind, error, worker)
            SELECT id, 1, now() - interval '1 hour', 'permanent', 'order_not_found', 'no order', 'bench' FROM event
        ) INSERT INTO dead_letters (event_id, reason, error, fingerprint)
        SELECT id, 'order_not_found', 'no order', 'f00dfeedf00dfeed' FROM event";
    let (from, to) = (i64::try_from(numbers.start)?, i64::try_from(numbers.end)?);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&from, &to, &template(), &NUMBER];
    bed.db.execute(BURY, &params).await?;
    bed.db.batch_execute("VACUUM ANALYZE").await?;
    bed.db.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// Sends live events at their rate: to the 200, and from there to the end.
async fn live_traffic(
    bed: &TestBed,
    gateway: &Process,
    numbers: std::ops::Range<usize>,
) -> Result<[Figures; 2]> {
    let requests = Requests::to_be_signed(gateway.address, numbers);
    let shape = Shape::per_second(LIVE_RATE);
    let load = load::drive(gateway.address, requests, shape, NO_LIMIT).await?;
    ensure!(load.refused == 0, "{} events were refused", load.refused);
    until_none(bed, LIVE_UNFINISHED).await?;
    let to_the_200 = load
        .accepted
        .iter()
        .map(|accepted| accepted.latency.as_secs_f64() * 1_000.0)
        .collect();
    let rate = Figures {
        per_second: Some(load.per_second()),
        ..Figures::default()
    };
    Ok([
        rate.clone().with_latencies(to_the_200),
        rate.with_latencies(after_the_200(bed, &load).await?),
    ])
}

/// Replays every dead letter.
async fn start(bed: &TestBed, rate: usize) {
    let rate = format!("--rate={rate}");
    let replay = [
        "dead-letters",
        "replay",
        "--all",
        "--yes",
        "--force",
        "--reason=measured",
        &rate,
    ];
    ops(bed, &replay).await.expect_code(0);
}

/// How fast the first replay was, of which every event must be processed.
async fn pace(bed: &TestBed, letters: usize, rate: usize) -> Result<Figures> {
    const PROCESSED: &str = "SELECT processed::bigint FROM replays WHERE id = 1";
    const RATE_OF_IT: &str = "
        SELECT (count(*) - 1) / nullif(extract(epoch FROM max(replayed_at) - min(replayed_at)), 0)::float8
        FROM replay_items WHERE replay_id = 1";
    check(bed, "events replayed and processed", PROCESSED, letters).await?;
    let per_second: Option<f64> = bed.row(RATE_OF_IT, &[]).await.get(0);
    Ok(Figures {
        per_second,
        ratio: per_second.map(|reached| reached / rate as f64),
        ..Figures::default()
    })
}

/// Takes a step in the midst of the second replay: milliseconds from the command until the last event was put back.
async fn switch(bed: &TestBed, step: &str, rate: usize) -> Result<Figures> {
    let before = bed
        .count("SELECT cursor::bigint FROM replays WHERE id = 2")
        .await;
    let moved = format!(
        "SELECT count(*) FROM replays WHERE id = 2 AND cursor < {}",
        before + i64::try_from(rate)?
    );
    until_none(bed, &moved).await?;
    let told_at: Timestamp = bed.row("SELECT clock_timestamp()", &[]).await.get(0);
    ops(bed, &["replays", step, "2", "--reason=measured"])
        .await
        .expect_code(0);
    until_none(bed, "SELECT in_flight::bigint FROM replays WHERE id = 2").await?;
    let last: Option<Timestamp> = bed
        .row(
            "SELECT max(replayed_at) FROM replay_items WHERE replay_id = 2",
            &[],
        )
        .await
        .get(0);
    let last = last.context("nothing was replayed")?;
    let took_ms = last.duration_since(told_at).as_secs_f64() * 1_000.0;
    Ok(Figures::default().with_latencies(vec![took_ms.max(0.0)]))
}

/// Every event that was put back or sent had its effects, and none of them twice.
async fn check_all(bed: &TestBed, without_the_second: usize) -> Result<()> {
    let second = bed
        .count("SELECT processed::bigint FROM replays WHERE id = 2")
        .await;
    let all = without_the_second + usize::try_from(second)?;
    for (what, sql) in [
        (
            "events processed",
            "SELECT count(*) FROM webhook_events WHERE state = 'processed'",
        ),
        (
            "attempts that processed one",
            "SELECT count(*) FROM event_attempts WHERE outcome = 'processed'",
        ),
        (
            "orders paid",
            "SELECT count(*) FROM orders WHERE status = 'paid'",
        ),
        (
            "tickets",
            "SELECT count(*) FROM tickets WHERE status = 'valid'",
        ),
        (
            "mails",
            "SELECT count(*) FROM emails WHERE kind = 'order_paid'",
        ),
    ] {
        check(bed, what, sql, all).await?;
    }
    bed.check_invariants().await;
    Ok(())
}
