//! Negative controls: a safeguard is taken out, and the checker must notice. One that stays clean would show that the
//! table proves nothing.

mod connections;
mod database;
mod services;

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use harness::checker::{
    Allowed, Delivery, EventRow, Fate, History, Outcome, Sent, Snapshot, Told, check,
};
use harness::faults::Operator;

/// Some safeguards are against races, which a round may miss.
const MOST_ROUNDS: usize = 5;

type Run = for<'a> fn(&'a Operator, u64) -> LocalBoxFuture<'a, Result<Control>>;

/// What a control showed.
pub struct Control {
    /// The safeguard taken out.
    pub without: &'static str,
    /// What was done.
    pub done: &'static str,
    /// What the checker says without the safeguard; empty where it noticed nothing.
    pub caught: String,
    /// What it says with the safeguard, or why it could not be staged; must be empty.
    pub with_it: String,
    /// How often it was staged until the checker noticed, and as often again with the safeguard.
    pub rounds: usize,
}

impl Control {
    /// Stages a scenario without a safeguard until the checker notices, and as often with it. The scenario gives what
    /// the checker says, and fails where nothing happened that could be judged.
    async fn stage(
        (without, done): (&'static str, &'static str),
        mut scenario: impl AsyncFnMut(bool) -> Result<String>,
    ) -> Result<Self> {
        let mut control = Self {
            without,
            done,
            caught: String::new(),
            with_it: String::new(),
            rounds: 0,
        };
        while control.caught.is_empty() && control.rounds < MOST_ROUNDS {
            control.rounds += 1;
            control.caught = scenario(false).await?;
        }
        for _ in 0..control.rounds {
            if control.with_it.is_empty() {
                control.with_it = scenario(true).await?;
            }
        }
        Ok(control)
    }

    /// Caught without, clean with.
    pub fn holds(&self) -> bool {
        !self.caught.is_empty() && self.with_it.is_empty()
    }
}

const CONTROLS: [(&str, Run); 8] = [
    ("relay", |operator, seed| {
        services::relay(operator, seed).boxed_local()
    }),
    ("confirm", |operator, seed| {
        services::confirm(operator, seed).boxed_local()
    }),
    ("ack after the commit", |operator, seed| {
        services::late_ack(operator, seed).boxed_local()
    }),
    ("lock of the seats", |_, _| {
        services::seat_lock().boxed_local()
    }),
    ("unique key", |_, _| database::unique_key().boxed_local()),
    ("synchronous_commit", |operator, seed| {
        database::synchronous_commit(operator, seed).boxed_local()
    }),
    ("time-out for headers", |_, _| {
        connections::header_timer().boxed_local()
    }),
    ("connection of its own", |operator, seed| {
        connections::separate(operator, seed).boxed_local()
    }),
];

/// Runs all of them.
pub async fn every_control(operator: &Operator, seed: u64) -> Vec<Control> {
    let mut controls = Vec::new();
    for (without, run) in CONTROLS {
        let control = run(operator, seed).await.unwrap_or_else(|problem| Control {
            without,
            done: "it could not be staged",
            caught: String::new(),
            with_it: problem.to_string(),
            rounds: 0,
        });
        let judged = if control.holds() {
            "caught"
        } else {
            "NOT CAUGHT"
        };
        eprintln!("without {without}: {judged}");
        controls.push(control);
    }
    controls
}

/// Ids that were told to be stored, against what is there.
fn verdict_of(acknowledged: &[String], snapshot: &Snapshot) -> String {
    let sent = |id: &String| Sent {
        id: id.clone(),
        order: None,
        told: Told::Nothing,
        fate: Fate::Ignored(""),
        amount_cents: 0,
        currency: String::new(),
        digest: String::new(),
    };
    let delivery = |id: &String| Delivery {
        event_id: id.clone(),
        at_ms: 0,
        took_ms: 0,
        outcome: Outcome::Acknowledged,
        status: 200,
    };
    let history = History {
        sent: acknowledged.iter().map(sent).collect(),
        deliveries: acknowledged.iter().map(delivery).collect(),
        forgeries: Vec::new(),
    };
    let allowed = Allowed {
        progress: 0,
        mails_doubled: 0,
        answer_ms: 0,
        burnt_attempts: true,
    };
    check(&history, snapshot, allowed).first_defects()
}

fn snapshot_of(ids: Vec<String>) -> Snapshot {
    let row = |id| EventRow {
        id,
        state: "ignored".to_owned(),
        attempts: 0,
        digest: String::new(),
    };
    Snapshot {
        events: ids.into_iter().map(row).collect(),
        ..Snapshot::default()
    }
}
