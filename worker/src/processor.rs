//! One attempt at one event: lock, run the handler, and commit its effects together with the event's new state.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool, Transaction};
use futures_util::FutureExt;
use jiff::Timestamp;
use shared::database::{StoreError, with_client};
use shared::health::Health;
use shared::references::object_ids;
use shared::trace_context::TraceContext;
use tracing::{error, info, warn};

use crate::decision::{Next, Policy, decide};
use crate::fingerprint::fingerprint;
use crate::handlers::{Failure, Outcome, Registry, is_about_money};
use crate::metrics::Metrics;
use crate::store::events::{self, Attempt, Death, Error, Lock, LockedEvent};

/// How long a handler may run: below the time after which the database ends an idle transaction.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an attempt may take with all that the database does for it: above the handler's time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a rollback may take where the database is not what hung.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);
/// Immediate tries of a transaction that ran into another one.
const MAX_CONFLICTS: u32 = 3;
/// The longest error text kept.
const MAX_ERROR_CHARS: usize = 2_000;

/// What the processor made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// The event has a new state.
    Attempted,
    /// Nothing was due: the event is final, waits for a later time, or another worker was faster.
    NotDue,
    /// Another worker holds the event now.
    Busy,
    /// There is no such event.
    UnknownEvent,
}

/// Runs attempts.
pub struct Processor {
    /// A connection for each attempt at a time.
    pub pool: Pool,
    /// Who handles which type.
    pub registry: Registry,
    /// When to retry.
    pub policy: Policy,
    /// Events of the other mode are ignored.
    pub livemode: bool,
    /// The name that attempts bear.
    pub worker: String,
    /// Whose fault a time-out is.
    pub health: Health,
    /// Told of each attempt.
    pub metrics: Metrics,
}

/// What an attempt knows of itself.
struct Run<'a> {
    locked: &'a LockedEvent,
    label: &'static str,
    trace: &'a TraceContext,
    started: Instant,
    /// The ids that the event's object bears, unless an attempt before this one has written them.
    objects: Vec<String>,
}

impl<'a> Run<'a> {
    fn begin(locked: &'a LockedEvent, label: &'static str, trace: &'a TraceContext) -> Self {
        let objects = if locked.attempts == 0 {
            object_ids(&locked.event.body)
        } else {
            Vec::new()
        };
        Self {
            locked,
            label,
            trace,
            started: Instant::now(),
            objects,
        }
    }
}

impl Processor {
    /// Attempts an event if one is due. An error means that nothing could be recorded.
    pub async fn process(
        &self,
        event_id: &str,
        trace: &TraceContext,
    ) -> Result<Handled, StoreError> {
        let _under_way = self.metrics.begun();
        let mut conflicts = 0;
        loop {
            match self.attempt(event_id, trace).await {
                Err(StoreError::Conflict(_)) if conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(Duration::from_millis(rand::random_range(
                        1..=20 * u64::from(conflicts),
                    )))
                    .await;
                }
                other => return other,
            }
        }
    }

    async fn attempt(&self, event_id: &str, trace: &TraceContext) -> Result<Handled, StoreError> {
        let result = with_client(&self.pool, ATTEMPT_TIMEOUT, async |client| {
            self.attempt_with(client, event_id, trace).await
        })
        .await;
        // A probe only reads: it does not see that a disk is full.
        match &result {
            Ok(Handled::Attempted) => self.health.note_write(None),
            Err(error @ StoreError::Exhausted(_)) => self.health.note_write(Some(error)),
            // Nothing was written, or it is not the disk that is full.
            _ => {}
        }
        result
    }

    async fn attempt_with(
        &self,
        client: &mut Object,
        event_id: &str,
        trace: &TraceContext,
    ) -> Result<Handled, StoreError> {
        let tx = client.transaction().await?;
        let locked = match events::lock(&tx, event_id).await? {
            Lock::Taken(locked) => locked,
            Lock::Busy => return Ok(Handled::Busy),
            Lock::Unknown => return Ok(Handled::UnknownEvent),
        };
        shared::failpoint!("worker.after_lock", event_id);
        if !locked.due {
            return Ok(Handled::NotDue);
        }
        let label = self
            .registry
            .find(&locked.event.event_type)
            .map_or("other", |(label, _)| label);
        let run = Run::begin(&locked, label, trace);
        match self.run_handler(&tx, &locked).await {
            Ok(outcome) => {
                let finished = self.finish(&tx, &run, outcome).await?;
                if !finished {
                    return Ok(Handled::NotDue);
                }
                shared::failpoint!("worker.before_commit");
                tx.commit().await?;
                shared::failpoint!("worker.after_commit");
                self.tell(&run, outcome);
                Ok(Handled::Attempted)
            }
            // The database's doing, not the event's: no attempt is burnt.
            Err(Failure::Store(error)) if error.is_unavailable() || error.is_conflict() => {
                Err(error)
            }
            Err(failure) => {
                self.roll_back(tx).await?;
                self.record_failure(client, &run, failure).await
            }
        }
    }

    async fn run_handler(
        &self,
        tx: &Transaction<'_>,
        locked: &LockedEvent,
    ) -> Result<Outcome, Failure> {
        let event = &locked.event;
        let handler = self.registry.find(&event.event_type);
        // An event that does not tell its mode is of the other one where something would be done.
        let is_of_ours = locked.livemode == Some(self.livemode);
        if !is_of_ours && (locked.livemode.is_some() || handler.is_some()) {
            self.metrics.wrong_mode();
            return Ok(Outcome::Ignored("wrong_mode"));
        }
        let Some((_, handler)) = handler else {
            return Ok(Outcome::Ignored("no_handler"));
        };
        let handling = AssertUnwindSafe(async {
            let result = handler.handle(event, tx).await;
            shared::failpoint!("worker.in_handler", &event.id);
            result
        });
        let handling = handling.catch_unwind();
        match tokio::time::timeout(HANDLER_TIMEOUT, handling).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::transient("panic", panic_message(panic.as_ref()))),
            Err(_) => Err(Failure::transient(
                "timeout",
                "the handler took longer than 10 s",
            )),
        }
    }

    /// A database that does not even end the transaction was what the handler waited for.
    async fn roll_back(&self, tx: Transaction<'_>) -> Result<(), StoreError> {
        if !self.health.database_is_up() {
            return Err(StoreError::TimedOut);
        }
        let ended = tokio::time::timeout(ROLLBACK_TIMEOUT, tx.rollback()).await;
        Ok(ended.map_err(|_| StoreError::TimedOut)??)
    }

    async fn finish(
        &self,
        tx: &Transaction<'_>,
        run: &Run<'_>,
        outcome: Outcome,
    ) -> Result<bool, StoreError> {
        let (state, note) = match outcome {
            Outcome::Processed => ("processed", None),
            Outcome::Ignored(reason) => ("ignored", Some(reason)),
        };
        let trace_id = run.trace.trace_id();
        events::finish(tx, &self.record(run, &trace_id), state, note).await
    }

    /// Records a failed attempt in a transaction of its own: the handler's was rolled back.
    async fn record_failure(
        &self,
        client: &Object,
        run: &Run<'_>,
        failure: Failure,
    ) -> Result<Handled, StoreError> {
        let (event, trace_id) = (&run.locked.event, run.trace.trace_id());
        let (kind, message) = (failure.kind(), storable(&failure.to_string()));
        let outcome = if failure.is_permanent() {
            "permanent"
        } else {
            "transient"
        };
        let attempt = self.record(run, &trace_id);
        let recorded = Error {
            outcome,
            kind,
            message: &message,
        };
        let budget = run.locked.next_in_budget();
        let next = decide(&Err(failure), budget, &self.policy, rand::random());
        let saved = if let Next::Retry { after } = next {
            let traceparent = run.trace.traceparent();
            events::retry_later(client, &attempt, &recorded, after, &traceparent).await?
        } else {
            let death = Death {
                fingerprint: fingerprint(run.label, kind, &message),
                about_money: is_about_money(&run.locked.event.event_type),
            };
            events::bury(client, &attempt, &recorded, &death).await?
        };
        if !saved {
            return Ok(Handled::NotDue);
        }
        let (event_id, event_type, attempt) =
            (&event.id, &event.event_type, run.locked.attempts + 1);
        if let Next::Retry { after } = next {
            let retry_in_ms = after.as_millis();
            warn!(
                event_id,
                event_type, attempt, trace_id, kind, retry_in_ms, "attempt failed"
            );
        } else {
            error!(
                event_id,
                event_type, attempt, trace_id, kind, "event is dead"
            );
            self.metrics.dead_letter(kind);
        }
        self.count(run, outcome);
        Ok(Handled::Attempted)
    }

    /// Counts an event whose message the broker put aside as one failed attempt.
    pub async fn record_lost_delivery(
        &self,
        event_id: &str,
        trace: &TraceContext,
    ) -> Result<Handled, StoreError> {
        with_client(&self.pool, ATTEMPT_TIMEOUT, async |client| {
            self.record_lost_delivery_with(client, event_id, trace)
                .await
        })
        .await
    }

    async fn record_lost_delivery_with(
        &self,
        client: &mut Object,
        event_id: &str,
        trace: &TraceContext,
    ) -> Result<Handled, StoreError> {
        let tx = client.transaction().await?;
        let locked = match events::lock(&tx, event_id).await? {
            Lock::Taken(locked) => locked,
            Lock::Busy => return Ok(Handled::Busy),
            Lock::Unknown => return Ok(Handled::UnknownEvent),
        };
        tx.rollback().await?;
        if !locked.due {
            return Ok(Handled::NotDue);
        }
        let label = self
            .registry
            .find(&locked.event.event_type)
            .map_or("other", |(label, _)| label);
        let run = Run::begin(&locked, label, trace);
        let message = "its message came back too often: workers crashed or lost their connection while they had it";
        self.record_failure(client, &run, Failure::transient("delivery_limit", message))
            .await
    }

    fn record<'a>(&'a self, run: &'a Run<'_>, trace_id: &'a str) -> Attempt<'a> {
        Attempt {
            event_id: &run.locked.event.id,
            attempts_before: run.locked.attempts,
            started_at: run.locked.now,
            worker: &self.worker,
            trace_id,
            objects: &run.objects,
        }
    }

    fn tell(&self, run: &Run<'_>, outcome: Outcome) {
        let event = &run.locked.event;
        let (attempt, trace_id) = (run.locked.attempts + 1, run.trace.trace_id());
        let (word, reason) = match outcome {
            Outcome::Processed => ("processed", ""),
            Outcome::Ignored(reason) => ("ignored", reason),
        };
        let took_us = run.started.elapsed().as_micros();
        if reason == "wrong_mode" {
            warn!(
                event_id = event.id,
                event_type = event.event_type,
                attempt,
                trace_id,
                reason,
                "event ignored"
            );
        } else {
            info!(
                event_id = event.id,
                event_type = event.event_type,
                attempt,
                trace_id,
                reason,
                took_us,
                "event {word}"
            );
        }
        self.count(run, word);
        let age = Timestamp::now()
            .duration_since(run.locked.received_at)
            .as_secs_f64();
        self.metrics.finished(age);
    }

    fn count(&self, run: &Run<'_>, outcome: &'static str) {
        let LockedEvent {
            attempts,
            now,
            received_at,
            ..
        } = run.locked;
        if *attempts == 0 {
            let wait = now.duration_since(*received_at);
            self.metrics.waited(wait.as_secs_f64());
        }
        self.metrics
            .attempted(run.label, outcome, run.started.elapsed());
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "the handler panicked: {}",
        text.unwrap_or("without a message")
    )
}

/// Text as PostgreSQL takes it, of bounded length.
fn storable(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\0')
        .take(MAX_ERROR_CHARS)
        .collect()
}
