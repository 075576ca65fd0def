//! Stripe's charges of a day, held against the payments that are kept here. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use shared::money::Money;
use shared::stripe::Charge;

use crate::event::order_ids;

/// Payments that are named, of each kind.
const MOST_NAMED: usize = 5;
/// The longest text of Stripe's that is kept: its ids are shorter.
const MOST_CHARS: usize = 100;

/// What moved in one payment, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Three lower-case letters.
    pub currency: String,
    /// What was taken.
    pub captured_cents: i64,
    /// What of it was given back.
    pub refunded_cents: i64,
}

impl Moved {
    fn none(currency: &str) -> Self {
        Self {
            currency: currency.to_owned(),
            captured_cents: 0,
            refunded_cents: 0,
        }
    }

    /// What comes from outside may be any number.
    fn add(&mut self, captured_cents: i64, refunded_cents: i64) {
        self.captured_cents = self.captured_cents.saturating_add(captured_cents);
        self.refunded_cents = self.refunded_cents.saturating_add(refunded_cents);
    }
}

/// A text of Stripe's, or of whoever paid there, for a line of a mail and for a look into the database.
fn plain(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { '?' } else { c });
    plain.take(MOST_CHARS).collect()
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let money = |cents| Money::new(cents, self.currency.as_str());
        let (captured, refunded) = (money(self.captured_cents), money(self.refunded_cents));
        write!(f, "{captured} captured, {refunded} refunded")
    }
}

/// What came of asking Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtStripe {
    /// There is no key to ask with.
    NotAsked,
    /// It could not be compared, and why.
    Unknown(String),
    /// It was compared.
    Compared(Comparison),
}

/// How Stripe's payments and ours agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What moved at Stripe, by currency.
    pub moved: Vec<Moved>,
    /// Payments that are the same here.
    pub agreeing: usize,
    /// Payments that name no order and are not kept here: whatever else the account sells.
    pub foreign: Vec<(String, Moved)>,
    /// Payments that name an order, which comes second, and are not kept here.
    pub missing: Vec<(String, String, Moved)>,
    /// Payments whose money is not the same here: as it is there, and as it is here.
    pub differing: Vec<(String, Moved, Moved)>,
}

/// A payment as Stripe has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct There {
    /// What moved.
    pub moved: Moved,
    /// The order that it names.
    pub order: Option<String>,
}

/// Payments at Stripe by what they are known by.
#[derive(Debug, Default)]
pub struct Payments(BTreeMap<String, There>);

impl Payments {
    /// Adds a charge, unless it took nothing.
    pub fn add(&mut self, charge: &Charge) {
        if charge.amount_captured == 0 {
            return;
        }
        let new = || There {
            moved: Moved::none(&plain(&charge.currency)),
            order: order_ids(&charge.metadata).next().map(|id| plain(&id)),
        };
        let reference = plain(charge.reference());
        let payment = self.0.entry(reference).or_insert_with(new);
        payment
            .moved
            .add(charge.amount_captured, charge.amount_refunded);
    }

    /// What they are known by.
    pub fn references(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Holds Stripe's payments against those that are kept here.
pub fn compare(there: &Payments, here: &HashMap<String, Moved>) -> Comparison {
    let mut comparison = Comparison::default();
    let mut sums: BTreeMap<&str, Moved> = BTreeMap::new();
    for (reference, There { moved, order }) in &there.0 {
        let none_yet = || Moved::none(&moved.currency);
        let sum = sums.entry(&moved.currency).or_insert_with(none_yet);
        sum.add(moved.captured_cents, moved.refunded_cents);
        let (payment, moved) = (reference.clone(), moved.clone());
        match (here.get(reference), order) {
            (Some(kept), _) if *kept == moved => comparison.agreeing += 1,
            (Some(kept), _) => comparison.differing.push((payment, moved, kept.clone())),
            (None, Some(order)) => comparison.missing.push((payment, order.clone(), moved)),
            (None, None) => comparison.foreign.push((payment, moved)),
        }
    }
    comparison.moved = sums.into_values().collect();
    comparison
}

impl AtStripe {
    /// Whether somebody should look at it.
    pub fn differs(&self) -> bool {
        matches!(self, Self::Compared(comparison) if !(comparison.differing.is_empty() && comparison.missing.is_empty()))
    }
}

/// For people, a line for each number.
impl fmt::Display for AtStripe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => Ok(()),
            Self::Unknown(why) => writeln!(f, "not compared with Stripe: {why}"),
            Self::Compared(comparison) => comparison.fmt(f),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            moved,
            agreeing,
            foreign,
            missing,
            differing,
        } = self;
        let payments = agreeing + foreign.len() + missing.len() + differing.len();
        writeln!(
            f,
            "{payments} payments at Stripe, {agreeing} of them the same here"
        )?;
        for moved in moved {
            writeln!(f, "  {moved} there")?;
        }
        for (payment, there, here) in differing.iter().take(MOST_NAMED) {
            writeln!(f, "  {payment} differs: {there} there; {here} here")?;
        }
        more(f, differing.len(), "differ")?;
        for (payment, order, there) in missing.iter().take(MOST_NAMED) {
            writeln!(f, "  {payment} is not kept here: order {order}, {there}")?;
        }
        more(f, missing.len(), "are not kept here")?;
        for (payment, there) in foreign.iter().take(MOST_NAMED) {
            writeln!(f, "  {payment} names no order: {there}")?;
        }
        more(f, foreign.len(), "name no order")
    }
}

fn more(f: &mut fmt::Formatter<'_>, all: usize, what: &str) -> fmt::Result {
    match all.saturating_sub(MOST_NAMED) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more {what}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn payments(charges: &[Charge]) -> Payments {
        let mut payments = Payments::default();
        charges.iter().for_each(|charge| payments.add(charge));
        payments
    }

    fn charge(id: &str, payment: Option<&str>, captured: i64, refunded: i64) -> Charge {
        Charge {
            id: id.to_owned(),
            payment_intent: payment.map(str::to_owned),
            amount_captured: captured,
            amount_refunded: refunded,
            currency: "usd".to_owned(),
            metadata: json!({}),
        }
    }

    fn moved(captured_cents: i64, refunded_cents: i64) -> Moved {
        Moved {
            currency: "usd".to_owned(),
            captured_cents,
            refunded_cents,
        }
    }

    #[test]
    fn payments_agree_differ_are_missing_or_name_no_order() {
        let charges = [
            charge("ch_1", Some("pi_same"), 2_500, 100),
            charge("ch_2", Some("pi_refunded"), 2_500, 2_500),
            charge("ch_3", None, 999, 0),
            // Declined, and then paid; and one that was never captured.
            charge("ch_4", Some("pi_again"), 0, 0),
            charge("ch_5", Some("pi_again"), 700, 0),
            charge("ch_6", Some("pi_held"), 0, 0),
            Charge {
                metadata: json!({ "orderId": "ord_1" }),
                ..charge("ch_7", Some("pi_lost"), 100, 0)
            },
        ];
        let here = HashMap::from([
            ("pi_same".to_owned(), moved(2_500, 100)),
            ("pi_refunded".to_owned(), moved(2_500, 0)),
            ("pi_again".to_owned(), moved(700, 0)),
        ]);
        let comparison = compare(&payments(&charges), &here);
        let told = AtStripe::Compared(comparison);
        assert!(told.differs());
        assert_eq!(
            told.to_string(),
            "5 payments at Stripe, 2 of them the same here\n\
             \x20 67.99 USD captured, 26.00 USD refunded there\n\
             \x20 pi_refunded differs: 25.00 USD captured, 25.00 USD refunded there; 25.00 USD captured, 0.00 USD refunded here\n\
             \x20 pi_lost is not kept here: order ord_1, 1.00 USD captured, 0.00 USD refunded\n\
             \x20 ch_3 names no order: 9.99 USD captured, 0.00 USD refunded\n"
        );
    }

    #[test]
    fn whatever_a_charge_holds_is_counted_and_makes_no_line_of_its_own() {
        let odd = Charge {
            currency: "us\nd".to_owned(),
            metadata: json!({ "order_id": "ord\r\nBcc: x" }),
            ..charge("ch_1", Some("pi_\0\n1"), i64::MAX, 1)
        };
        let charges = [
            odd.clone(),
            odd,
            charge("ch_2", Some(&"x".repeat(9_999)), 1, 0),
        ];
        let there = payments(&charges);
        assert_eq!(there.references()[0], "pi_??1");
        let text = AtStripe::Compared(compare(&there, &HashMap::new())).to_string();
        assert!(
            text.contains("pi_??1 is not kept here: order ord??Bcc: x, "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 5);
        assert!(text.lines().all(|line| line.len() < 250), "{text}");
    }

    #[test]
    fn many_are_counted_and_not_named() {
        let charges: Vec<Charge> = (10..30)
            .map(|n| charge(&format!("ch_{n}"), None, 100, 0))
            .collect();
        let told = AtStripe::Compared(compare(&payments(&charges), &HashMap::new()));
        assert!(!told.differs());
        let text = told.to_string();
        assert!(text.starts_with("20 payments at Stripe, 0 of them the same here\n  20.00 USD"));
        assert!(text.ends_with("ch_14 names no order: 1.00 USD captured, 0.00 USD refunded\n  and 15 more name no order\n"), "{text}");
    }
}
