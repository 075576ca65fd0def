//! What was sent, and how it was answered.

/// What an event says about its order's payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing that changes it.
    Nothing,
    /// A try failed.
    Failed,
    /// All of it was captured.
    Captured,
    /// This much went back so far, of all that was captured.
    Refunded(i64),
}

/// What must become of an event once it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its effects are in place.
    Done,
    /// There is nothing to do, for this reason.
    Ignored(&'static str),
    /// It is given up at its first attempt, for this reason.
    Dead(&'static str),
}

/// An event that the sender made.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `evt_…`
    pub id: String,
    /// The order that it is about; none where it is about no order.
    pub order: Option<String>,
    /// What it says.
    pub told: Told,
    /// What must become of it.
    pub fate: Fate,
    /// What the order is worth.
    pub amount_cents: i64,
    /// In which currency.
    pub currency: String,
    /// SHA-256 of its body, in hexadecimal.
    pub digest: String,
}

/// How a delivery ended, as its sender saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200.
    Acknowledged,
    /// An answer that is not 200, or no connection: the sender tries again.
    Refused,
    /// No answer: it may have been taken or not.
    Unknown,
}

/// One delivery of an event.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which event.
    pub event_id: String,
    /// When it ended, in milliseconds since the run began.
    pub at_ms: u64,
    /// How long its sender waited.
    pub took_ms: u64,
    /// How.
    pub outcome: Outcome,
    /// The answer's status; 0 where there was none.
    pub status: u16,
}

/// A request that no honest sender makes. Nothing of it may be kept.
#[derive(Debug, Clone)]
pub struct Forgery {
    /// What is wrong with it.
    pub what: String,
    /// The answer's status; 0 where the connection was closed without one.
    pub status: u16,
    /// The answer's body.
    pub answer: String,
    /// Statuses that it may be answered with.
    pub expected: &'static [u16],
    /// Whether its answer must not tell it from the others of one status.
    pub alike: bool,
}

/// All that senders did.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Their events.
    pub sent: Vec<Sent>,
    /// The events' deliveries, in the order in which they ended.
    pub deliveries: Vec<Delivery>,
    /// What was sent beside them.
    pub forgeries: Vec<Forgery>,
}
