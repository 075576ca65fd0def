//! What a service knows of the services it depends on, asked afresh every second.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::database::{StoreError, with_client};

/// How often each dependency is asked. With [`PROBE_TIMEOUT`], a loss shows within 3 s.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How soon one that is away is asked again: it may be back, or another host be there in its place.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long an answer may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the broker as seen from one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BrokerState {
    /// No usable connection.
    Down = 0,
    /// The broker accepts no publishes for now: a memory or disk alarm.
    Blocked = 1,
    /// It answers.
    Up = 2,
}

/// Shared by everything in a process that learns or tells its health.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

/// How long a refused write speaks against the database, where no other follows.
const REFUSED_WRITE_COUNTS: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Inner {
    database_up: AtomicBool,
    /// When the database last refused a write, if it has taken none since.
    write_refused_at: Mutex<Option<Instant>>,
    /// Whether there is such a time: asked for by every request.
    write_refused: AtomicBool,
    /// The database should be asked at once.
    doubted: Notify,
    broker: AtomicU8,
    consumer_lost: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// Notes whether the database takes writes.
    pub fn set_database(&self, up: bool) {
        if self.0.database_up.swap(up, Ordering::Relaxed) != up {
            if up {
                info!("database is up")
            } else {
                warn!("database is down")
            }
        }
    }

    /// Notes whether the database took a write, and if not, why. One that did not answer in time is down until a probe,
    /// which is made at once, finds it up: only the connection may have been slow.
    pub fn note_write(&self, error: Option<&StoreError>) {
        let refused = error.is_some_and(StoreError::is_unavailable);
        if matches!(error, Some(StoreError::TimedOut)) {
            self.set_database(false);
            self.0.doubted.notify_one();
        }
        if refused || self.0.write_refused.load(Ordering::Relaxed) {
            *self.write_refused_at() = refused.then(Instant::now);
            self.0.write_refused.store(refused, Ordering::Relaxed);
        }
    }

    /// Whether the database did not take the last write and does not answer a probe either: trying it again would only
    /// be waiting.
    pub fn database_is_lost(&self) -> bool {
        self.0.write_refused.load(Ordering::Relaxed) && !self.database_is_up()
    }

    fn refuses_writes(&self) -> bool {
        self.write_refused_at()
            .is_some_and(|at| at.elapsed() < REFUSED_WRITE_COUNTS)
    }

    fn write_refused_at(&self) -> MutexGuard<'_, Option<Instant>> {
        let refused_at = &self.0.write_refused_at;
        refused_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the broker's state.
    pub fn set_broker(&self, state: BrokerState) {
        if self.0.broker.swap(state as u8, Ordering::Relaxed) != state as u8 {
            match state {
                BrokerState::Up => info!("broker is up"),
                BrokerState::Blocked => warn!("broker accepts no publishes: memory or disk alarm"),
                BrokerState::Down => warn!("broker is down"),
            }
        }
    }

    /// Notes whether a consumer has its queue. A service without one never says so.
    pub fn set_consuming(&self, consuming: bool) {
        self.0.consumer_lost.store(!consuming, Ordering::Relaxed);
    }

    /// Notes that the service takes no more work.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the database took a probe last time.
    pub fn database_is_up(&self) -> bool {
        self.0.database_up.load(Ordering::Relaxed)
    }

    /// The broker's state as last seen.
    pub fn broker(&self) -> BrokerState {
        match self.0.broker.load(Ordering::Relaxed) {
            2 => BrokerState::Up,
            1 => BrokerState::Blocked,
            _ => BrokerState::Down,
        }
    }

    /// Whether everything is there.
    pub fn is_ready(&self) -> bool {
        let working = !self.0.draining.load(Ordering::Relaxed)
            && !self.0.consumer_lost.load(Ordering::Relaxed);
        let database = self.database_is_up() && !self.refuses_writes();
        database && self.broker() == BrokerState::Up && working
    }

    /// What `/readyz` tells.
    pub fn report(&self) -> serde_json::Value {
        let broker = match self.broker() {
            BrokerState::Up if self.0.consumer_lost.load(Ordering::Relaxed) => "not consuming",
            BrokerState::Up => "up",
            BrokerState::Blocked => "blocked",
            BrokerState::Down => "down",
        };
        let database = match self.database_is_up() {
            true if self.refuses_writes() => "refuses writes",
            true => "up",
            false => "down",
        };
        json!({
            "ready": self.is_ready(),
            "database": database,
            "broker": broker,
            "draining": self.0.draining.load(Ordering::Relaxed),
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// Asks the database every second whether it takes writes, and more often while it does not. `pool` must be one of its
/// own: the work's pool may be busy without the database being away.
pub async fn watch_database(pool: Pool, health: Health, shutdown: CancellationToken) {
    loop {
        let answer = with_client(&pool, PROBE_TIMEOUT, probe).await;
        let up = matches!(answer, Ok(true));
        health.set_database(up);
        let pause = if up { PROBE_INTERVAL } else { RETRY_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = health.0.doubted.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// A primary that was demoted answers, but takes no writes: its connection is dropped, so that the next one finds the
/// new primary.
async fn probe(client: &mut deadpool_postgres::Object) -> Result<bool, StoreError> {
    let row = client
        .query_one(
            "SELECT NOT current_setting('transaction_read_only')::boolean",
            &[],
        )
        .await?;
    if row.get(0) {
        Ok(true)
    } else {
        Err(StoreError::Unavailable("read-only".into()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_write_without_an_answer_asks_for_a_probe_at_once_and_one_that_was_refused_does_not() {
        let health = Health::default();
        let asked = || health.0.doubted.notified().now_or_never().is_some();
        health.set_database(true);
        health.note_write(Some(&StoreError::Unavailable("read-only".into())));
        assert!(!asked() && health.database_is_up());
        health.note_write(Some(&StoreError::TimedOut));
        assert!(health.database_is_lost());
        assert!(asked() && !asked());
    }
}
