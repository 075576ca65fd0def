//! What the rules look at.

/// No more are counted than these.
pub const MOST_COUNTED: i64 = 1_000;

/// A group of open dead letters.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they share.
    pub fingerprint: String,
    /// A fixed word for the cause.
    pub reason: String,
    /// How many, up to [`MOST_COUNTED`].
    pub count: i64,
    /// Whether an operator has it in hand.
    pub acknowledged: bool,
}

/// Webhooks that could not be verified, of one cause.
#[derive(Debug, Clone)]
pub struct Unverified {
    /// As in the metrics.
    pub cause: String,
    /// Within five minutes.
    pub recently: i64,
    /// Within an hour.
    pub lately: i64,
}

/// What the rules look at.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// What died within an hour, largest group first.
    pub failures: Vec<Group>,
    /// Groups of events about money.
    pub payments: Vec<Group>,
    /// Groups that were resolved, with what died since.
    pub recurred: Vec<Group>,
    /// Seconds that the oldest event waits which was not replayed; of those that are retried a few do not count.
    pub backlog_age_s: f64,
    /// What gateways refused as not signed by Stripe.
    pub unverified: Vec<Unverified>,
    /// Events of the other mode within an hour.
    pub wrong_mode: i64,
    /// Events whose message was lost within a day, up to [`MOST_COUNTED`].
    pub rescued: i64,
    /// Scheduled reconciliations that failed since the last one, scheduled or not, that did not.
    pub failed_reconciliations: i64,
    /// Seconds since the last event that Stripe delivered.
    pub quiet_s: Option<f64>,
    /// Seconds between delivered events at the silence's hours of the week, in the last four weeks; not looked at while
    /// events come.
    pub usual_gap_s: Option<f64>,
}
