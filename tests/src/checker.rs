//! Judges a run by what was sent and what came of it, in the manner of Jepsen's total-queue: attempts, acknowledged,
//! lost, duplicated, recovered, unexpected; and by effects per key, money, attempts and progress. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

/// An event that the sender made.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `evt_…`
    pub id: String,
    /// The order that it is about; none where it is about no order.
    pub order: Option<String>,
    /// What it says.
    pub told: Told,
    /// What the order is worth.
    pub amount_cents: i64,
    /// In which currency.
    pub currency: String,
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
    /// How.
    pub outcome: Outcome,
    /// The answer's status; 0 where there was none.
    pub status: u16,
}

/// All that a sender did.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Its events.
    pub sent: Vec<Sent>,
    /// Their deliveries, in the order in which they ended.
    pub deliveries: Vec<Delivery>,
}

/// A row of `webhook_events`.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// `evt_…`
    pub id: String,
    /// Its state.
    pub state: String,
    /// Attempts counted.
    pub attempts: i64,
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

/// What a run left behind.
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
    /// Message-IDs in the order in which the mail server took them; none where mails went elsewhere.
    pub taken: Option<Vec<String>>,
    /// Products with more active seats than capacity.
    pub oversold: Vec<String>,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// Acknowledged, and not there.
    Lost(String),
    /// There, but without a final state in time.
    Unfinished(String),
    /// A valid event that was given up: a person would have to replay it.
    Dead(String),
    /// An effect that is there more than once.
    Doubled(String),
    /// An event that nobody sent.
    Unexpected(String),
    /// A valid event that was refused for good.
    Rejected(String),
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
            Self::Doubled(what) => write!(f, "done twice: {what}"),
            Self::Unexpected(id) => write!(f, "sent by nobody: {id}"),
            Self::Rejected(id) => write!(f, "a valid event was refused: {id}"),
            Self::MailsDoubled(mails) => write!(f, "{mails} mails doubled"),
            Self::Mails(what) => write!(f, "mails: {what}"),
            Self::Money(currency, cents) => write!(f, "{cents} {currency} too much in the tables"),
            Self::Attempts(id) => write!(f, "attempts not contiguous: {id}"),
            Self::Order(what) => write!(f, "order {what}"),
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
}

/// The judgement.
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
    /// Mails taken a second time.
    pub mails_doubled: usize,
    /// How far tables and events are apart, over all currencies.
    pub money_difference: i64,
    /// Deliveries that were not answered with 200.
    pub failed_deliveries: usize,
    /// The longest time during which deliveries failed and none succeeded.
    pub unavailable_ms: u64,
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
}

/// Judges a run.
pub fn check(history: &History, snapshot: &Snapshot, allowed: Allowed) -> Verdict {
    let mut verdict = Verdict {
        attempts: history.sent.len(),
        unavailable_ms: unavailable_ms(&history.deliveries),
        failed_deliveries: history
            .deliveries
            .iter()
            .filter(|delivery| delivery.outcome != Outcome::Acknowledged)
            .count(),
        ..Verdict::default()
    };
    let acknowledged = with_outcome(history, Outcome::Acknowledged);
    check_events(&mut verdict, history, snapshot, &acknowledged);
    check_attempts(&mut verdict, snapshot);
    check_orders(&mut verdict, history, snapshot, &acknowledged);
    check_mails(&mut verdict, snapshot, allowed);
    let oversold = snapshot.oversold.iter().cloned().map(Defect::Oversold);
    verdict.defects.extend(oversold);
    if verdict.processed < allowed.progress {
        verdict.defects.push(Defect::NoProgress(verdict.processed));
    }
    verdict
}

fn with_outcome(history: &History, outcome: Outcome) -> BTreeSet<&str> {
    history
        .deliveries
        .iter()
        .filter(|delivery| delivery.outcome == outcome)
        .map(|delivery| delivery.event_id.as_str())
        .collect()
}

/// The longest stretch from a failed delivery to the next acknowledged one.
fn unavailable_ms(deliveries: &[Delivery]) -> u64 {
    let (mut longest, mut failing_since) = (0, None);
    for delivery in deliveries {
        match (delivery.outcome, failing_since) {
            (Outcome::Acknowledged, Some(since)) => {
                longest = longest.max(delivery.at_ms.saturating_sub(since));
                failing_since = None;
            }
            (Outcome::Acknowledged, None) | (_, Some(_)) => {}
            (_, None) => failing_since = Some(delivery.at_ms),
        }
    }
    longest
}

fn check_events(
    verdict: &mut Verdict,
    history: &History,
    snapshot: &Snapshot,
    acknowledged: &BTreeSet<&str>,
) {
    let sent: BTreeSet<&str> = history.sent.iter().map(|sent| sent.id.as_str()).collect();
    let stored: BTreeMap<&str, &str> = snapshot
        .events
        .iter()
        .map(|event| (event.id.as_str(), event.state.as_str()))
        .collect();
    let unknown = with_outcome(history, Outcome::Unknown);
    verdict.acknowledged = acknowledged.len();
    verdict.unknown = unknown.difference(acknowledged).count();
    for id in acknowledged {
        match stored.get(id) {
            None => verdict.defects.push(Defect::Lost((*id).to_owned())),
            Some(state) if is_final(state) => continue,
            Some(_) => verdict.defects.push(Defect::Unfinished((*id).to_owned())),
        }
        verdict.lost += 1;
    }
    for (id, state) in &stored {
        if !sent.contains(id) {
            verdict.unexpected += 1;
            verdict.defects.push(Defect::Unexpected((*id).to_owned()));
        } else if !acknowledged.contains(id) {
            verdict.recovered += 1;
        }
        if *state == "dead" {
            verdict.defects.push(Defect::Dead((*id).to_owned()));
        }
        verdict.processed += usize::from(*state == "processed");
    }
    for delivery in &history.deliveries {
        if (400..500).contains(&delivery.status) {
            let id = delivery.event_id.clone();
            verdict.defects.push(Defect::Rejected(id));
        }
    }
}

fn is_final(state: &str) -> bool {
    ["processed", "ignored", "dead", "discarded"].contains(&state)
}

fn check_attempts(verdict: &mut Verdict, snapshot: &Snapshot) {
    let mut attempts: BTreeMap<&str, Vec<&AttemptRow>> = BTreeMap::new();
    for attempt in &snapshot.attempts {
        attempts.entry(&attempt.event_id).or_default().push(attempt);
    }
    for event in &snapshot.events {
        let mut made = attempts.remove(event.id.as_str()).unwrap_or_default();
        made.sort_by_key(|attempt| attempt.number);
        let contiguous = made
            .iter()
            .map(|attempt| attempt.number)
            .eq(1..=event.attempts);
        if !contiguous {
            verdict.defects.push(Defect::Attempts(event.id.clone()));
        }
        let successes = made.iter().filter(|attempt| attempt.outcome == "processed");
        if successes.count() > 1 {
            verdict.duplicated += 1;
            verdict.defects.push(Defect::Doubled(event.id.clone()));
        }
    }
    for id in attempts.keys() {
        verdict.defects.push(Defect::Attempts((*id).to_owned()));
    }
}

/// What an order must be, by the events that were taken.
#[derive(Default)]
struct Due {
    captured_cents: i64,
    refunded_cents: i64,
    failed: bool,
}

impl Due {
    fn hear(&mut self, sent: &Sent) {
        match sent.told {
            Told::Nothing => {}
            Told::Failed => self.failed = true,
            Told::Captured => self.captured_cents = sent.amount_cents,
            Told::Refunded(cents) => {
                self.captured_cents = sent.amount_cents;
                self.refunded_cents = self.refunded_cents.max(cents);
            }
        }
    }

    fn status(&self) -> &'static str {
        match self.captured_cents {
            0 if self.failed => "cancelled",
            0 => "pending",
            captured if captured == self.refunded_cents => "refunded",
            _ => "paid",
        }
    }
}

fn check_orders(
    verdict: &mut Verdict,
    history: &History,
    snapshot: &Snapshot,
    acknowledged: &BTreeSet<&str>,
) {
    let stored: BTreeSet<&str> = snapshot
        .events
        .iter()
        .map(|event| event.id.as_str())
        .collect();
    let mut due: BTreeMap<&str, (Due, &str)> = BTreeMap::new();
    for sent in &history.sent {
        let taken = acknowledged.contains(sent.id.as_str()) || stored.contains(sent.id.as_str());
        if let Some(order) = sent.order.as_deref().filter(|_| taken) {
            let (due, _) = due.entry(order).or_insert((Due::default(), &sent.currency));
            due.hear(sent);
        }
    }
    let mut difference: BTreeMap<&str, i64> = BTreeMap::new();
    for order in &snapshot.orders {
        let (due, currency) = due.remove(order.id.as_str()).unwrap_or_default();
        let is = order.captured_cents - order.refunded_cents;
        *difference.entry(currency).or_default() += is - (due.captured_cents - due.refunded_cents);
        check_order(verdict, order, &due, snapshot);
    }
    for (_, (due, currency)) in due {
        *difference.entry(currency).or_default() -= due.captured_cents - due.refunded_cents;
    }
    for (currency, cents) in difference.into_iter().filter(|(_, cents)| *cents != 0) {
        verdict.money_difference += cents.abs();
        verdict
            .defects
            .push(Defect::Money(currency.to_owned(), cents));
    }
}

fn check_order(verdict: &mut Verdict, order: &OrderRow, due: &Due, snapshot: &Snapshot) {
    let status = due.status();
    let seats = if status == "paid" { order.seats } else { 0 };
    if order.status != status || order.active != seats {
        let (id, is, active) = (&order.id, &order.status, order.active);
        let told = format!("{id} is {is} with {active} seats, must be {status} with {seats}");
        verdict.defects.push(Defect::Order(told));
    }
    if order.doubled > 0 || order.tickets > order.active {
        verdict.duplicated += 1;
        verdict
            .defects
            .push(Defect::Doubled(format!("tickets of {}", order.id)));
    } else if order.tickets < order.active {
        verdict
            .defects
            .push(Defect::Order(format!("{} lacks tickets", order.id)));
    }
    let thanked = snapshot
        .mails
        .iter()
        .filter(|mail| mail.order == order.id && mail.kind == "order_paid");
    if status == "paid" && due.refunded_cents == 0 && thanked.count() == 0 {
        let told = format!("nobody was told that {} is paid", order.id);
        verdict.defects.push(Defect::Mails(told));
    }
}

fn check_mails(verdict: &mut Verdict, snapshot: &Snapshot, allowed: Allowed) {
    let mut keys = BTreeSet::new();
    for mail in &snapshot.mails {
        if !keys.insert((&mail.order, &mail.kind, &mail.key)) {
            verdict.duplicated += 1;
            let told = format!("mail {} of {}", mail.kind, mail.order);
            verdict.defects.push(Defect::Doubled(told));
        }
    }
    let Some(taken) = &snapshot.taken else {
        return;
    };
    let distinct: BTreeSet<&String> = taken.iter().collect();
    verdict.mails_doubled = taken.len() - distinct.len();
    if verdict.mails_doubled > allowed.mails_doubled {
        let defect = Defect::MailsDoubled(verdict.mails_doubled);
        verdict.defects.push(defect);
    }
    let sent = snapshot.mails.iter().filter(|mail| mail.sent).count();
    if sent != snapshot.mails.len() || sent != distinct.len() {
        let told = format!(
            "{} queued, {sent} noted as sent, {} taken",
            snapshot.mails.len(),
            distinct.len()
        );
        verdict.defects.push(Defect::Mails(told));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowed = Allowed {
        progress: 2,
        mails_doubled: 0,
    };

    fn sent(id: &str, told: Told) -> Sent {
        Sent {
            id: id.to_owned(),
            order: Some("ord_1".to_owned()),
            told,
            amount_cents: 5_000,
            currency: "usd".to_owned(),
        }
    }

    fn delivery(event_id: &str, at_ms: u64, outcome: Outcome) -> Delivery {
        Delivery {
            event_id: event_id.to_owned(),
            at_ms,
            outcome,
            status: if outcome == Outcome::Acknowledged {
                200
            } else {
                503
            },
        }
    }

    fn event(id: &str) -> EventRow {
        EventRow {
            id: id.to_owned(),
            state: "processed".to_owned(),
            attempts: 1,
        }
    }

    fn attempt(event_id: &str, number: i64) -> AttemptRow {
        AttemptRow {
            event_id: event_id.to_owned(),
            number,
            outcome: "processed".to_owned(),
        }
    }

    /// One order, paid by two events, of which the second was refused once.
    fn clean() -> (History, Snapshot) {
        let history = History {
            sent: vec![sent("evt_1", Told::Captured), sent("evt_2", Told::Captured)],
            deliveries: vec![
                delivery("evt_1", 10, Outcome::Acknowledged),
                delivery("evt_2", 20, Outcome::Refused),
                delivery("evt_2", 320, Outcome::Acknowledged),
            ],
        };
        let order = OrderRow {
            id: "ord_1".to_owned(),
            status: "paid".to_owned(),
            seats: 2,
            active: 2,
            tickets: 2,
            doubled: 0,
            captured_cents: 5_000,
            refunded_cents: 0,
        };
        let mail = MailRow {
            order: "ord_1".to_owned(),
            kind: "order_paid".to_owned(),
            key: String::new(),
            sent: true,
        };
        let snapshot = Snapshot {
            events: vec![event("evt_1"), event("evt_2")],
            attempts: vec![attempt("evt_1", 1), attempt("evt_2", 1)],
            orders: vec![order],
            mails: vec![mail],
            taken: Some(vec!["<1@x>".to_owned()]),
            oversold: Vec::new(),
        };
        (history, snapshot)
    }

    #[test]
    fn a_clean_run_is_clean_and_counted() {
        let (history, snapshot) = clean();
        let verdict = check(&history, &snapshot, ALLOWED);
        assert_eq!(verdict.defects, []);
        assert_eq!((verdict.attempts, verdict.acknowledged), (2, 2));
        assert_eq!((verdict.processed, verdict.unavailable_ms), (2, 300));
    }

    #[test]
    fn what_was_not_acknowledged_but_is_there_is_recovered_and_counts() {
        let (mut history, snapshot) = clean();
        history.deliveries = vec![
            delivery("evt_1", 10, Outcome::Unknown),
            delivery("evt_2", 20, Outcome::Acknowledged),
        ];
        let verdict = check(&history, &snapshot, ALLOWED);
        assert_eq!(verdict.defects, []);
        assert_eq!((verdict.unknown, verdict.recovered), (1, 1));
    }

    #[test]
    fn what_is_neither_acknowledged_nor_there_owes_nothing() {
        let (mut history, snapshot) = clean();
        history.sent.push(sent("evt_3", Told::Refunded(5_000)));
        history
            .deliveries
            .push(delivery("evt_3", 400, Outcome::Unknown));
        assert!(check(&history, &snapshot, ALLOWED).is_clean());
    }

    /// Spoils a clean run, and gives what the checker says of it.
    fn spoilt(spoil: impl FnOnce(&mut History, &mut Snapshot)) -> Vec<Defect> {
        let (mut history, mut snapshot) = clean();
        spoil(&mut history, &mut snapshot);
        check(&history, &snapshot, ALLOWED).defects
    }

    #[test]
    fn a_lost_event_is_noticed_with_its_money() {
        let defects = spoilt(|_, snapshot| {
            snapshot.events.clear();
            snapshot.attempts.clear();
            snapshot.orders[0].captured_cents = 0;
        });
        assert!(defects.contains(&Defect::Lost("evt_1".to_owned())));
        assert!(defects.contains(&Defect::Money("usd".to_owned(), -5_000)));
        assert!(defects.contains(&Defect::NoProgress(0)));
    }

    #[test]
    fn an_event_that_never_ends_is_noticed() {
        let defects = spoilt(|_, snapshot| snapshot.events[0].state = "retrying".to_owned());
        assert!(defects.contains(&Defect::Unfinished("evt_1".to_owned())));
    }

    #[test]
    fn a_valid_event_that_was_given_up_is_noticed() {
        let defects = spoilt(|_, snapshot| snapshot.events[0].state = "dead".to_owned());
        assert!(defects.contains(&Defect::Dead("evt_1".to_owned())));
    }

    #[test]
    fn an_event_that_nobody_sent_is_noticed() {
        let defects = spoilt(|_, snapshot| {
            snapshot.events.push(event("evt_9"));
            snapshot.attempts.push(attempt("evt_9", 1));
        });
        assert_eq!(defects, [Defect::Unexpected("evt_9".to_owned())]);
    }

    #[test]
    fn a_refusal_of_a_valid_event_is_noticed() {
        let defects = spoilt(|history, _| history.deliveries[1].status = 400);
        assert_eq!(defects, [Defect::Rejected("evt_2".to_owned())]);
    }

    #[test]
    fn a_second_effect_is_noticed() {
        let twice = spoilt(|_, snapshot| {
            snapshot.events[0].attempts = 2;
            snapshot.attempts.push(attempt("evt_1", 2));
        });
        assert_eq!(twice, [Defect::Doubled("evt_1".to_owned())]);
        let tickets = spoilt(|_, snapshot| snapshot.orders[0].tickets = 3);
        assert_eq!(tickets, [Defect::Doubled("tickets of ord_1".to_owned())]);
        let mails = spoilt(|_, snapshot| {
            let again = snapshot.mails[0].clone();
            snapshot.mails.push(again);
            snapshot.taken = None;
        });
        assert_eq!(
            mails,
            [Defect::Doubled("mail order_paid of ord_1".to_owned())]
        );
    }

    #[test]
    fn a_missing_effect_is_noticed() {
        assert!(!spoilt(|_, snapshot| snapshot.orders[0].tickets = 1).is_empty());
        assert!(!spoilt(|_, snapshot| snapshot.orders[0].active = 1).is_empty());
        assert!(!spoilt(|_, snapshot| snapshot.orders[0].status = "pending".to_owned()).is_empty());
        let unthanked = spoilt(|_, snapshot| {
            snapshot.mails.clear();
            snapshot.taken = Some(Vec::new());
        });
        assert!(matches!(unthanked[..], [Defect::Mails(_)]));
    }

    #[test]
    fn money_that_does_not_add_up_is_noticed_in_each_currency() {
        let more = spoilt(|_, snapshot| snapshot.orders[0].captured_cents = 5_001);
        assert_eq!(more, [Defect::Money("usd".to_owned(), 1)]);
        let unrefunded = spoilt(|history, _| history.sent[1].told = Told::Refunded(2_000));
        assert_eq!(unrefunded, [Defect::Money("usd".to_owned(), 2_000)]);
        let gone = spoilt(|_, snapshot| snapshot.orders.clear());
        assert_eq!(gone, [Defect::Money("usd".to_owned(), -5_000)]);
    }

    #[test]
    fn a_mail_that_went_out_twice_or_never_is_noticed() {
        let again = "<1@x>".to_owned();
        let twice = spoilt(|_, snapshot| snapshot.taken.as_mut().unwrap().push(again));
        assert_eq!(twice, [Defect::MailsDoubled(1)]);
        let never = spoilt(|_, snapshot| snapshot.taken = Some(Vec::new()));
        assert!(matches!(never[..], [Defect::Mails(_)]));
        let unnoted = spoilt(|_, snapshot| snapshot.mails[0].sent = false);
        assert!(matches!(unnoted[..], [Defect::Mails(_)]));
    }

    #[test]
    fn attempts_with_a_gap_or_of_nobody_are_noticed() {
        let gap = spoilt(|_, snapshot| snapshot.attempts[0].number = 2);
        assert_eq!(gap, [Defect::Attempts("evt_1".to_owned())]);
        let uncounted = spoilt(|_, snapshot| snapshot.events[0].attempts = 0);
        assert_eq!(uncounted, [Defect::Attempts("evt_1".to_owned())]);
        let nobodys = spoilt(|_, snapshot| snapshot.attempts.push(attempt("evt_9", 1)));
        assert_eq!(nobodys, [Defect::Attempts("evt_9".to_owned())]);
    }

    #[test]
    fn an_oversold_product_is_noticed() {
        let defects = spoilt(|_, snapshot| snapshot.oversold.push("ga".to_owned()));
        assert_eq!(defects, [Defect::Oversold("ga".to_owned())]);
    }
}
