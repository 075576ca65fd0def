//! What the gateway counts. Labels are bounded: outcomes and reasons, never ids or types.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};

/// The gateway's instruments; clones share them.
#[derive(Clone)]
pub struct Metrics {
    webhooks: Counter<u64>,
    duration: Histogram<f64>,
    publishes: Counter<u64>,
    confirm: Histogram<f64>,
}

const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

const OUTCOMES: [&str; 16] = [
    "accepted",
    "duplicate",
    "signature_missing",
    "signature_malformed",
    "signature_mismatch",
    "signature_stale",
    "signature_retired",
    "rate_limited",
    "invalid_payload",
    "broken_body",
    "slow_body",
    "payload_too_large",
    "database",
    "too_many_waiting",
    "deadline",
    "interrupted",
];

impl Metrics {
    /// Registers the instruments.
    pub fn new() -> Self {
        let meter = opentelemetry::global::meter("gateway");
        let metrics = Self {
            webhooks: meter
                .u64_counter("tollgate_webhooks")
                .with_description("Requests by outcome: accepted, duplicate, or why they were refused")
                .build(),
            duration: meter
                .f64_histogram("tollgate_webhook_duration")
                .with_unit("s")
                .with_description("Time from the headers of a webhook to its answer")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            publishes: meter
                .u64_counter("tollgate_publishes")
                .with_description("Messages published at once: confirmed, failed, or skipped because too many are under way")
                .build(),
            confirm: meter
                .f64_histogram("tollgate_publish_confirm_duration")
                .with_unit("s")
                .with_description("Time until the broker has answered all of the messages that were published together")
                .with_boundaries(SECONDS.to_vec())
                .build(),
        };
        // A counter that begins with its first count has no increase that an alert could see.
        for outcome in OUTCOMES {
            metrics
                .webhooks
                .add(0, &[KeyValue::new("outcome", outcome)]);
        }
        for result in ["confirmed", "failed", "skipped"] {
            metrics.publishes.add(0, &[KeyValue::new("result", result)]);
        }
        metrics
    }

    /// Counts a request.
    pub fn answered(&self, outcome: &'static str, took: Duration) {
        self.webhooks.add(1, &[KeyValue::new("outcome", outcome)]);
        self.duration.record(took.as_secs_f64(), &[]);
    }

    /// Counts messages that were published together, and how long the broker took.
    pub fn published(&self, confirmed: usize, failed: usize, took: Duration) {
        self.count("confirmed", confirmed);
        self.count("failed", failed);
        // What was not even sent tells nothing of the broker.
        if confirmed > 0 {
            self.confirm.record(took.as_secs_f64(), &[]);
        }
    }

    /// Counts a message that is left to the relay.
    pub fn skipped(&self) {
        self.count("skipped", 1);
    }

    fn count(&self, result: &'static str, count: usize) {
        if count > 0 {
            let label = [KeyValue::new("result", result)];
            self.publishes.add(count as u64, &label);
        }
    }
}
