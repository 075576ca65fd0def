//! What the worker counts. Labels are bounded: registered types or `other`, fixed words for outcomes.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};

use crate::store::events::Backlog;

/// The worker's instruments; clones share them.
#[derive(Clone)]
pub struct Metrics {
    attempts: Counter<u64>,
    duration: Histogram<f64>,
    under_way: UpDownCounter<i64>,
    wait: Histogram<f64>,
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
    backlog: BacklogGauges,
}

/// What waits.
#[derive(Clone)]
struct BacklogGauges {
    events: Gauge<i64>,
    oldest: Gauge<f64>,
    unpublished: Gauge<i64>,
    dead_letters: Gauge<i64>,
    to_replay: Gauge<i64>,
}

impl BacklogGauges {
    fn new(meter: &Meter) -> Self {
        let gauge = |name, text| meter.i64_gauge(name).with_description(text).build();
        Self {
            events: gauge("tollgate_backlog_events", "Events that are not final"),
            oldest: meter
                .f64_gauge("tollgate_backlog_oldest_age")
                .with_unit("s")
                .with_description("Age of the oldest event that is not final")
                .build(),
            unpublished: gauge(
                "tollgate_unpublished_messages",
                "Messages that are due and were not published",
            ),
            dead_letters: gauge(
                "tollgate_open_dead_letters",
                "Dead letters that nobody has replayed or discarded",
            ),
            to_replay: gauge(
                "tollgate_events_to_replay",
                "Events that replays have yet to put back",
            ),
        }
    }
}

/// An attempt that is counted as under way until this is dropped.
pub struct UnderWay<'a>(&'a Metrics);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.add(-1, &[]);
    }
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
            under_way: meter
                .i64_up_down_counter("tollgate_attempts_under_way")
                .with_description("Attempts that have begun and not ended")
                .build(),
            wait: seconds(
                "tollgate_queue_wait",
                "Time from an event's first webhook to its first attempt",
            ),
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
            backlog: BacklogGauges::new(&meter),
        };
        metrics.begin();
        metrics
    }

    /// A counter that begins with its first count has no increase that an alert could see.
    fn begin(&self) {
        self.wrong_mode.add(0, &[]);
        self.under_way.add(0, &[]);
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

    /// Counts an attempt as under way.
    pub fn begun(&self) -> UnderWay<'_> {
        self.under_way.add(1, &[]);
        UnderWay(self)
    }

    /// Counts an attempt that ended.
    pub fn attempted(&self, label: &'static str, outcome: &'static str, took: Duration) {
        let event_type = KeyValue::new("type", label);
        let labels = [event_type.clone(), KeyValue::new("outcome", outcome)];
        self.attempts.add(1, &labels);
        self.duration.record(took.as_secs_f64(), &[event_type]);
    }

    /// Notes how long an event waited for its first attempt.
    pub fn waited(&self, wait_s: f64) {
        self.wait.record(wait_s.max(0.0), &[]);
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
    pub fn backlog(&self, backlog: &Backlog) {
        let Backlog {
            events,
            oldest_s,
            unpublished,
            dead_letters,
            to_replay,
        } = *backlog;
        self.backlog.events.record(events, &[]);
        self.backlog.oldest.record(oldest_s, &[]);
        self.backlog.unpublished.record(unpublished, &[]);
        self.backlog.dead_letters.record(dead_letters, &[]);
        self.backlog.to_replay.record(to_replay, &[]);
    }
}
