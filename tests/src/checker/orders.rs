//! Orders: status, seats, tickets and money.

use std::collections::{BTreeMap, BTreeSet};

use super::{Defect, History, OrderRow, Sent, Snapshot, Told, Verdict};

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

    fn net_cents(&self) -> i64 {
        self.captured_cents - self.refunded_cents
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

/// Each order is as the events say that were taken, with its seats, its tickets and its money.
pub fn check(
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
    for order in &snapshot.orders {
        let (due, currency) = due.remove(order.id.as_str()).unwrap_or_default();
        let is = order.captured_cents - order.refunded_cents;
        check_money(verdict, currency, is - due.net_cents());
        check_order(verdict, order, &due, snapshot);
    }
    for (id, (due, currency)) in due {
        check_money(verdict, currency, -due.net_cents());
        verdict.fail(Defect::Order(format!("{id} is gone")));
    }
}

/// Order by order: what one has too much must not make up for what another lacks.
fn check_money(verdict: &mut Verdict, currency: &str, cents: i64) {
    if cents != 0 {
        verdict.money_difference += cents.abs();
        verdict.fail(Defect::Money(currency.to_owned(), cents));
    }
}

fn check_order(verdict: &mut Verdict, order: &OrderRow, due: &Due, snapshot: &Snapshot) {
    let status = due.status();
    let seats = if status == "paid" { order.seats } else { 0 };
    if order.status != status || order.active != seats {
        let (id, is, active) = (&order.id, &order.status, order.active);
        let told = format!("{id} is {is} with {active} seats, must be {status} with {seats}");
        verdict.fail(Defect::Order(told));
    }
    if order.doubled > 0 || order.tickets > order.active {
        verdict.duplicated += 1;
        verdict.fail(Defect::Doubled(format!("tickets of {}", order.id)));
    } else if order.tickets < order.active {
        verdict.fail(Defect::Order(format!("{} lacks tickets", order.id)));
    }
    let thanked = snapshot
        .mails
        .iter()
        .filter(|mail| mail.order == order.id && mail.kind == "order_paid");
    if status == "paid" && due.refunded_cents == 0 && thanked.count() == 0 {
        let told = format!("nobody was told that {} is paid", order.id);
        verdict.fail(Defect::Mails(told));
    }
}
