//! The replayer: puts the dead events of a planned replay back to work, at its rate and behind live traffic. Any number
//! of workers share a replay: each step holds the replay's row, so that the next step may be anybody's, and a worker
//! that dies leaves nothing half done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool, Transaction};
use jiff::{SignedDuration, Timestamp};
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::store::replays::{self, LockedReplay, Moved, Recent};

/// Short, so that no step puts back many at once: live events meet each of them as a burst.
const BUSY: Duration = Duration::from_millis(25);
const IDLE: Duration = Duration::from_secs(1);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which the rate may be made up for after a stop.
const MADE_UP_FOR: SignedDuration = SignedDuration::from_secs(2);
/// How many of the last events decide whether a replay pauses by itself.
const WATCHED: i64 = 50;
/// While it holds back, one event may be put back in this time: it never stops for good.
const LEAST_PACE: SignedDuration = SignedDuration::from_secs(1);
/// Replayed events that may wait for their first attempt, whatever the rate.
const LEAST_ROOM: i64 = 10;
/// With more events in flight than these their outcomes are looked for less often.
const MANY_IN_FLIGHT: i32 = 1_000;
const SETTLE_MANY_EVERY: Duration = Duration::from_secs(1);

/// Runs replays.
pub struct Replayer {
    pool: Pool,
    worker: String,
    wake: Arc<Notify>,
    settling: Settling,
}

impl Replayer {
    /// A replayer that leaves this worker's name in the audit log, and wakes its relay.
    pub fn new(pool: Pool, worker: &str, wake: Arc<Notify>) -> Self {
        Self {
            pool,
            wake,
            worker: format!("worker {worker}"),
            settling: Settling::default(),
        }
    }

    /// Steps until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.run_once().await {
                Ok(true) => BUSY,
                Ok(false) => IDLE,
                Err(error) => {
                    debug!(%error, "the replayer waits");
                    IDLE
                }
            };
            if !sleep_unless(&shutdown, pause).await {
                return;
            }
        }
    }

    /// Makes one step of each replay. False when none puts anything back: outcomes alone can wait.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let open = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            replays::open(client).await
        })
        .await?;
        let mut busy = false;
        for id in open {
            match self.step(id).await {
                Err(refused) if would_repeat(&refused) => self.give_up(id, &refused).await?,
                stepped => busy |= stepped?,
            }
        }
        Ok(busy)
    }

    async fn step(&self, id: i64) -> Result<bool, StoreError> {
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            self.step_with(client, id).await
        })
        .await
    }

    /// One step of one replay, as one transaction. True while it puts events back.
    async fn step_with(&self, client: &mut Object, id: i64) -> Result<bool, StoreError> {
        let tx = client.transaction().await?;
        let Some(replay) = replays::lock(&tx, id).await? else {
            return Ok(false);
        };
        shared::failpoint!("replayer.after_lock");
        let mut moved = Moved::default();
        match replay.state.as_str() {
            "planned" => {
                replays::begin(&tx, id, &self.worker).await?;
                info!(replay = id, events = replay.planned, "replay begins");
            }
            state => {
                if self.settling.is_due(&replay) {
                    replays::settle(&tx, id).await?;
                }
                match state {
                    "running" if replay.cursor < replay.planned => {
                        moved = self.advance(&tx, &replay).await?;
                    }
                    "running" | "settling" => self.end(&tx, &replay).await?,
                    _ => {}
                }
            }
        }
        shared::failpoint!("replayer.before_commit");
        tx.commit().await?;
        shared::failpoint!("replayer.after_commit");
        if moved.put_back > 0 {
            self.wake.notify_one();
        }
        Ok(["planned", "running"].contains(&replay.state.as_str()))
    }

    /// Everything was put back: it is over with the last outcome, and until then out of the next one's way.
    async fn end(&self, tx: &Transaction<'_>, replay: &LockedReplay) -> Result<(), StoreError> {
        let id = replay.id;
        if replays::finish(tx, id, &self.worker).await? {
            shared::failpoint!("replayer.before_end");
            info!(replay = id, "replay finished");
        } else if replay.state == "running" && replays::waiting(tx, replay).await? == 0 {
            replays::let_settle(tx, id, &self.worker).await?;
            info!(
                replay = id,
                "replay settles: some of its events are retried"
            );
        }
        Ok(())
    }

    async fn advance(
        &self,
        tx: &Transaction<'_>,
        replay: &LockedReplay,
    ) -> Result<Moved, StoreError> {
        let id = replay.id;
        let recent = replays::recent(tx, replay, WATCHED).await?;
        if does_harm(recent) {
            let why = harm(recent);
            warn!(replay = id, ?recent, "replay pauses by itself");
            replays::pause(tx, id, &self.worker, &why).await?;
            return Ok(Moved::default());
        }
        let allowed = if replays::live_traffic_waits(tx).await? {
            least_allowance(replay)
        } else {
            let waiting = replays::waiting(tx, replay).await?;
            allowance(replay, room(replay.rate_per_s, waiting))
        };
        if allowed.events == 0 {
            return Ok(Moved::default());
        }
        let moved = replays::put_back_next(tx, replay, allowed.events, allowed.paced_at).await?;
        debug!(replay = id, ?moved, "events put back");
        Ok(moved)
    }

    /// The database refused a step, and would refuse it again.
    async fn give_up(&self, id: i64, refused: &StoreError) -> Result<(), StoreError> {
        error!(replay = id, error = %refused, "replay failed");
        let why = refused.to_string();
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            replays::fail(client, id, &self.worker, &why).await
        })
        .await
    }
}

/// When the outcomes of replays with very many events in flight were looked for last, by the replay's id.
#[derive(Default)]
struct Settling(Mutex<HashMap<i64, Instant>>);

impl Settling {
    /// Outcomes are looked for in every step, but only now and then where so many events are retried that looking is work.
    fn is_due(&self, replay: &LockedReplay) -> bool {
        if replay.in_flight <= MANY_IN_FLIGHT {
            return true;
        }
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, at| at.elapsed() < SETTLE_MANY_EVERY);
        if last.contains_key(&replay.id) {
            return false;
        }
        last.insert(replay.id, Instant::now());
        true
    }
}

/// Whether the next step would fail as this one did. A statement that took too long may succeed on a quieter server.
fn would_repeat(error: &StoreError) -> bool {
    match error {
        StoreError::Query(error) => error.code() != Some(&SqlState::QUERY_CANCELED),
        StoreError::Rejected(_) => true,
        StoreError::Unavailable(_)
        | StoreError::TimedOut
        | StoreError::Exhausted(_)
        | StoreError::Conflict(_) => false,
    }
}

/// Whether over half of the last events failed. One that is retried counts until it does better: its death may take
/// hours, in which thousands more would follow it.
fn does_harm(recent: Recent) -> bool {
    recent.attempted >= WATCHED && (recent.dead_again + recent.retried) * 2 > recent.attempted
}

fn harm(recent: Recent) -> String {
    let Recent {
        attempted,
        dead_again,
        retried,
    } = recent;
    match retried {
        0 => format!("{dead_again} of the last {attempted} events died again"),
        _ => format!(
            "of the last {attempted} events {dead_again} died again, and {retried} fail and are retried"
        ),
    }
}

/// How many more may wait for their first attempt: a tenth of a second's worth, so that live events never queue behind
/// more.
fn room(rate_per_s: i32, waiting: i64) -> i64 {
    (i64::from(rate_per_s) / 10).max(LEAST_ROOM) - waiting
}

/// What may be put back now.
#[derive(Debug, PartialEq, Eq)]
struct Allowance {
    events: i32,
    paced_at: Timestamp,
}

/// The events that the rate allows since `paced_at`, as far as there is room for them.
fn allowance(replay: &LockedReplay, room: i64) -> Allowance {
    let now = replay.now;
    let since = replay.paced_at.unwrap_or(now);
    let elapsed = now
        .duration_since(since)
        .clamp(SignedDuration::ZERO, MADE_UP_FOR);
    let due = elapsed.as_micros() * i128::from(replay.rate_per_s) / 1_000_000;
    let left = i128::from(replay.planned - replay.cursor);
    let events = due.min(i128::from(room.max(0))).min(left);
    let used = SignedDuration::from_micros(
        i64::try_from(events * 1_000_000 / i128::from(replay.rate_per_s)).unwrap_or(0),
    );
    Allowance {
        events: i32::try_from(events).unwrap_or(0),
        paced_at: now - elapsed + used,
    }
}

/// One event, if there was none for a while. The time until now is not made up for.
fn least_allowance(replay: &LockedReplay) -> Allowance {
    let since = replay.paced_at.unwrap_or(replay.now);
    Allowance {
        events: i32::from(replay.now.duration_since(since) >= LEAST_PACE),
        paced_at: replay.now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(rate_per_s: i32, paced_ms_ago: i64, cursor: i32) -> LockedReplay {
        let now = Timestamp::from_second(1_000_000).unwrap();
        LockedReplay {
            id: 1,
            state: "running".to_owned(),
            planned: 1_000,
            rate_per_s,
            cursor,
            in_flight: 0,
            paced_at: Some(now - SignedDuration::from_millis(paced_ms_ago)),
            watched_from: None,
            now,
        }
    }

    #[test]
    fn the_rate_allows_what_time_and_room_allow() {
        for (rate, ms, cursor, room, events) in [
            (20, 100, 0, 99, 2),
            (20, 40, 0, 99, 0),
            (1, 999, 0, 99, 0),
            (1, 1_000, 0, 99, 1),
            (500, 100, 0, 99, 50),
            (500, 100, 0, 7, 7),
            (500, 100, 0, -3, 0),
            (500, 60_000, 0, 9_999, 1_000),
            (20, 60_000, 0, 9_999, 40),
            (500, 100, 995, 99, 5),
            (20, -50, 0, 99, 0),
        ] {
            let allowed = allowance(&replay(rate, ms, cursor), room);
            assert_eq!(allowed.events, events, "{rate}/s after {ms} ms");
        }
    }

    #[test]
    fn no_time_is_lost_between_steps() {
        let (mut replay, mut events) = (replay(7, 0, 0), 0);
        for _ in 0..1_000 {
            replay.now += SignedDuration::from_millis(33);
            let allowed = allowance(&replay, 99);
            events += allowed.events;
            replay.paced_at = Some(allowed.paced_at);
        }
        assert!((230..=231).contains(&events), "{events} in 33 s at 7/s");
    }

    #[test]
    fn outcomes_of_a_large_replay_are_looked_for_now_and_then_whatever_others_do() {
        let settling = Settling::default();
        let of = |id, in_flight| LockedReplay {
            id,
            in_flight,
            ..replay(20, 0, 0)
        };
        let (small, large, other) = (of(1, 1_000), of(2, 1_001), of(3, 9_000));
        let asked =
            [&large, &small, &large, &other, &small, &other].map(|one| settling.is_due(one));
        assert_eq!(asked, [true, true, false, true, true, false]);
    }

    #[test]
    fn a_replay_pauses_when_over_half_of_fifty_fail() {
        let harmful = |attempted, dead_again, retried| {
            does_harm(Recent {
                attempted,
                dead_again,
                retried,
            })
        };
        assert!(
            harmful(50, 26, 0) && harmful(50, 50, 0) && harmful(50, 0, 26) && harmful(50, 13, 13)
        );
        assert!(!harmful(50, 25, 0) && !harmful(50, 12, 13) && !harmful(49, 49, 0));
    }

    #[test]
    fn live_events_never_queue_behind_many() {
        assert_eq!((room(500, 0), room(500, 50), room(20, 5)), (50, 0, 5));
        assert_eq!(least_allowance(&replay(20, 999, 0)).events, 0);
        let least = least_allowance(&replay(20, 1_000, 0));
        assert_eq!(
            least,
            Allowance {
                events: 1,
                paced_at: replay(20, 0, 0).now
            }
        );
    }
}
