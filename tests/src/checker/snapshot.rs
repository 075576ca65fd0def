//! What a run left behind.

/// A row of `webhook_events`, with its body.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// `evt_…`
    pub id: String,
    /// Its state.
    pub state: String,
    /// Attempts counted.
    pub attempts: i64,
    /// SHA-256 of the stored body, in hexadecimal; empty where there is none.
    pub digest: String,
}

/// A row of `event_attempts`.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Which event.
    pub event_id: String,
    /// From 1.
    pub number: i64,
    /// How it ended.
    pub outcome: String,
    /// Why, as a fixed word; empty where it succeeded.
    pub kind: String,
}

/// An order with its money and its seats.
#[derive(Debug, Clone)]
pub struct OrderRow {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: String,
    /// Seats ordered.
    pub seats: i64,
    /// Seats that are active.
    pub active: i64,
    /// Valid tickets.
    pub tickets: i64,
    /// Registrations with more than one valid ticket.
    pub doubled: i64,
    /// Captured by its payments.
    pub captured_cents: i64,
    /// Of that, gone back.
    pub refunded_cents: i64,
}

/// A row of `emails`.
#[derive(Debug, Clone)]
pub struct MailRow {
    /// The order.
    pub order: String,
    /// Which mail.
    pub kind: String,
    /// What tells it from others of its kind.
    pub key: String,
    /// Whether the mail server took it.
    pub sent: bool,
}

/// A row of `replays`: what it counts, and what its items say.
#[derive(Debug, Clone)]
pub struct ReplayRow {
    /// Its id.
    pub id: i64,
    /// Its state.
    pub state: String,
    /// Events planned.
    pub planned: i64,
    /// Counted as put back and not final yet, processed, dead again and skipped.
    pub counted: [i64; 4],
    /// The same by its items.
    pub items: [i64; 4],
    /// Entries of the audit log that name an actor and a reason.
    pub audited: i64,
}

/// A change of a state, as a trigger saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// `event` or `order`.
    pub kind: String,
    /// Of what.
    pub id: String,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
}

/// All tables that the checker looks at.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every event.
    pub events: Vec<EventRow>,
    /// Every attempt.
    pub attempts: Vec<AttemptRow>,
    /// Every order.
    pub orders: Vec<OrderRow>,
    /// Every mail to send.
    pub mails: Vec<MailRow>,
    /// Every replay.
    pub replays: Vec<ReplayRow>,
    /// Every change of the state of an event or an order.
    pub moves: Vec<Move>,
    /// What waits to be published or consumed: a name and how many.
    pub waiting: Vec<(&'static str, i64)>,
    /// Message-IDs in the order in which the mail server took them; none where mails went elsewhere.
    pub taken: Option<Vec<String>>,
    /// Products with more active seats than capacity.
    pub oversold: Vec<String>,
}
