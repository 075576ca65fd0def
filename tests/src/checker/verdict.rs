//! The judgement.

use std::fmt;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// Acknowledged, and not there.
    Lost(String),
    /// There, but without a final state in time.
    Unfinished(String),
    /// A valid event that was given up: a person would have to replay it.
    Dead(String),
    /// An event that did not end as it must.
    Fate(String),
    /// Its body is not the one that was sent.
    Altered(String),
    /// An effect that is there more than once.
    Doubled(String),
    /// An event that nobody sent.
    Unexpected(String),
    /// A valid event that was refused for good.
    Rejected(String),
    /// A forged request that was answered as it must not be.
    Forgery(String),
    /// More mails than the fault explains.
    MailsDoubled(usize),
    /// A mail that was never taken, or one that nobody asked for.
    Mails(String),
    /// The tables hold so much more (or less) than was told.
    Money(String, i64),
    /// The numbers of its attempts have a gap, or are not as counted.
    Attempts(String),
    /// An order is not as its events say.
    Order(String),
    /// A replay that does not add up.
    Replay(String),
    /// Something went back from where nothing goes back.
    Backwards(String),
    /// An attempt that failed although nothing was wrong with the event.
    Burnt(String),
    /// Something that nobody will ever look at again.
    Leftover(String),
    /// A sender waited too long, in milliseconds.
    Slow(u64),
    /// More seats than there are.
    Oversold(String),
    /// Hardly anything happened: a run in which everything fails proves nothing.
    NoProgress(usize),
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(id) => write!(f, "lost: {id}"),
            Self::Unfinished(id) => write!(f, "not final: {id}"),
            Self::Dead(id) => write!(f, "given up: {id}"),
            Self::Fate(what) => write!(f, "ended otherwise: {what}"),
            Self::Altered(id) => write!(f, "stored with another body: {id}"),
            Self::Doubled(what) => write!(f, "done twice: {what}"),
            Self::Unexpected(id) => write!(f, "sent by nobody: {id}"),
            Self::Rejected(id) => write!(f, "a valid event was refused: {id}"),
            Self::Forgery(what) => write!(f, "forged: {what}"),
            Self::MailsDoubled(mails) => write!(f, "{mails} mails doubled"),
            Self::Mails(what) => write!(f, "mails: {what}"),
            Self::Money(currency, cents) => write!(f, "{cents} {currency} too much in the tables"),
            Self::Attempts(id) => write!(f, "attempts not contiguous: {id}"),
            Self::Order(what) => write!(f, "order {what}"),
            Self::Replay(what) => write!(f, "replay {what}"),
            Self::Backwards(what) => write!(f, "backwards: {what}"),
            Self::Burnt(id) => write!(f, "an attempt was burnt: {id}"),
            Self::Leftover(what) => write!(f, "left over: {what}"),
            Self::Slow(ms) => write!(f, "a sender waited for {ms} ms"),
            Self::Oversold(product) => write!(f, "oversold: {product}"),
            Self::NoProgress(done) => write!(f, "only {done} events were processed"),
        }
    }
}

/// What a run may do without being defective.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Events that must have been processed.
    pub progress: usize,
    /// Mails that may have gone out a second time.
    pub mails_doubled: usize,
    /// The longest that a sender may wait.
    pub answer_ms: u64,
    /// Whether attempts may fail: not where only the database or the broker was away.
    pub burnt_attempts: bool,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Events sent.
    pub attempts: usize,
    /// Of them, answered with 200 at least once.
    pub acknowledged: usize,
    /// Of them, never answered with 200, and once not at all.
    pub unknown: usize,
    /// Acknowledged, but not there or not final.
    pub lost: usize,
    /// Effects that are there more than once.
    pub duplicated: usize,
    /// Not acknowledged, and there nevertheless.
    pub recovered: usize,
    /// There, and never sent.
    pub unexpected: usize,
    /// Forged requests sent.
    pub forged: usize,
    /// Mails taken a second time.
    pub mails_doubled: usize,
    /// How far tables and events are apart, over all currencies.
    pub money_difference: i64,
    /// Deliveries that were not answered with 200.
    pub failed_deliveries: usize,
    /// The longest time during which deliveries failed and none succeeded.
    pub unavailable_ms: u64,
    /// The longest that a sender waited, for whatever answer.
    pub longest_answer_ms: u64,
    /// Events processed.
    pub processed: usize,
    /// All that must not be.
    pub defects: Vec<Defect>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.defects.is_empty()
    }

    /// The first defects, for people.
    pub fn first_defects(&self) -> String {
        let told: Vec<String> = self.defects.iter().take(5).map(Defect::to_string).collect();
        told.join("; ")
    }

    pub(super) fn fail(&mut self, defect: Defect) {
        self.defects.push(defect);
    }
}
