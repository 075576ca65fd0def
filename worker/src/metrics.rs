//! What the worker counts. Labels are bounded: registered types or `other`, fixed words for outcomes.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram};

/// The worker's instruments; clones share them.
#[derive(Clone)]
pub struct Metrics {
    attempts: Counter<u64>,
    duration: Histogram<f64>,
    age: Histogram<f64>,
    dead_letters: Counter<u64>,
    wrong_mode: Counter<u64>,
    relayed: Counter<u64>,
    rescued: Counter<u64>,
    emails: Counter<u64>,
    pruned: Counter<u64>,
    alert_notices: Counter<u64>,
    reconciliations: Counter<u64>,
    imported: Counter<u64>,
    backlog: Gauge<i64>,
    backlog_age: Gauge<f64>,
}

const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0,
];

impl Metrics {
    /// Registers the instruments.
    pub fn new() -> Self {
        let meter = opentelemetry::global::meter("worker");
        let counter = |name, text| meter.u64_counter(name).with_description(text).build();
        let seconds = |name, text| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(SECONDS.to_vec())
                .build()
        };
        let metrics = Self {
            attempts: counter("tollgate_attempts", "Attempts by event type and outcome"),
            duration: seconds("tollgate_attempt_duration", "Time of one attempt"),
            age: seconds(
                "tollgate_event_age_when_final",
                "Time from an event's first webhook to its final state",
            ),
            dead_letters: counter(
                "tollgate_dead_letters",
                "Events that died, by kind of error",
            ),
            wrong_mode: counter(
                "tollgate_wrong_mode_events",
                "Events of the other mode (live or test) that were ignored",
            ),
            relayed: counter(
                "tollgate_relayed_messages",
                "Messages published by the relay, by result",
            ),
            rescued: counter(
                "tollgate_rescued_events",
                "Events whose lost message was published again",
            ),
            emails: counter("tollgate_emails", "Mails by result"),
            pruned: counter(
                "tollgate_pruned_rows",
                "Rows that retention removed, by table",
            ),
            alert_notices: counter(
                "tollgate_alert_notices",
                "Notices of alerts, by channel and result",
            ),
            reconciliations: counter(
                "tollgate_reconciliations",
                "Scheduled comparisons with Stripe's list of events, by result",
            ),
            imported: counter(
                "tollgate_reconciled_events",
                "Events that scheduled reconciliations imported",
            ),
            backlog: meter
                .i64_gauge("tollgate_backlog_events")
                .with_description("Events that are not final")
                .build(),
            backlog_age: meter
                .f64_gauge("tollgate_backlog_oldest_age")
                .with_unit("s")
                .with_description("Age of the oldest event that is not final")
                .build(),
        };
        metrics.begin();
        metrics
    }

    /// A counter that begins with its first count has no increase that an alert could see.
    fn begin(&self) {
        self.wrong_mode.add(0, &[]);
        self.rescued.add(0, &[]);
        self.imported.add(0, &[]);
        for result in ["finished", "failed"] {
            self.reconciliations
                .add(0, &[KeyValue::new("result", result)]);
        }
        for result in ["sent", "retried", "failed"] {
            let result = KeyValue::new("result", result);
            self.emails.add(0, std::slice::from_ref(&result));
            for channel in ["mail", "hook"] {
                let labels = [KeyValue::new("channel", channel), result.clone()];
                self.alert_notices.add(0, &labels);
            }
        }
        for result in ["confirmed", "failed"] {
            self.relayed.add(0, &[KeyValue::new("result", result)]);
        }
        for table in [
            "event_payloads",
            "webhook_events",
            "rejections",
            "alert_notices",
        ] {
            self.pruned.add(0, &[KeyValue::new("table", table)]);
        }
    }

    /// Counts an attempt.
    pub fn attempted(&self, label: &'static str, outcome: &'static str, took: Duration) {
        self.attempts.add(
            1,
            &[
                KeyValue::new("type", label),
                KeyValue::new("outcome", outcome),
            ],
        );
        self.duration
            .record(took.as_secs_f64(), &[KeyValue::new("type", label)]);
    }

    /// Notes an event's age when it became final.
    pub fn finished(&self, age_s: f64) {
        self.age.record(age_s.max(0.0), &[]);
    }

    /// Counts a dead letter.
    pub fn dead_letter(&self, kind: &'static str) {
        self.dead_letters.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// Counts an event of the other mode.
    pub fn wrong_mode(&self) {
        self.wrong_mode.add(1, &[]);
    }

    /// Counts relayed messages.
    pub fn relayed(&self, result: &'static str, messages: usize) {
        self.relayed
            .add(messages as u64, &[KeyValue::new("result", result)]);
    }

    /// Counts rescued events.
    pub fn rescued(&self, events: u64) {
        self.rescued.add(events, &[]);
    }

    /// Counts a mail.
    pub fn email(&self, result: &'static str) {
        self.emails.add(1, &[KeyValue::new("result", result)]);
    }

    /// Counts what retention removed.
    pub fn pruned(&self, table: &'static str, rows: u64) {
        self.pruned.add(rows, &[KeyValue::new("table", table)]);
    }

    /// Counts a notice of an alert.
    pub fn alert_notice(&self, channel: &'static str, result: &'static str) {
        let labels = [
            KeyValue::new("channel", channel),
            KeyValue::new("result", result),
        ];
        self.alert_notices.add(1, &labels);
    }

    /// Counts a reconciliation.
    pub fn reconciled(&self, result: &'static str) {
        self.reconciliations
            .add(1, &[KeyValue::new("result", result)]);
    }

    /// Counts events that a reconciliation imported.
    pub fn imported(&self, events: u32) {
        self.imported.add(u64::from(events), &[]);
    }

    /// Notes how much waits.
    pub fn backlog(&self, events: i64, oldest_s: f64) {
        self.backlog.record(events, &[]);
        self.backlog_age.record(oldest_s, &[]);
    }
}
