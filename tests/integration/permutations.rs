//! An order's final state does not depend on the order in which its events arrive, nor on repetitions: over generated
//! life cycles. A failure prints the case and its seed.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use shared::money::Money;
use shared::orders::{Dispute, Entitlement, Fact, News, Order, OrderStatus, Payment};

const AMOUNT: i64 = 5_000;

fn new_order() -> Order {
    Order {
        id: "ord_1".to_owned(),
        status: OrderStatus::Pending,
        user_id: None,
        email: "buyer@example.com".to_owned(),
        amount: Money::new(AMOUNT, "usd"),
        unfulfillable: false,
        items: Vec::new(),
        seats: 0,
        payments: Vec::new(),
    }
}

fn apply(order: &mut Order, fact: &Fact) {
    let change = order.apply(fact).unwrap();
    order
        .payments
        .retain(|payment| payment.reference != change.payment.reference);
    order.payments.push(change.payment);
    order.status = change.status;
}

type FinalState = (OrderStatus, Entitlement, Vec<Payment>);

/// What must be the same; the first words of a failure may differ.
fn final_state(facts: &[Fact]) -> FinalState {
    let mut order = new_order();
    facts.iter().for_each(|fact| apply(&mut order, fact));
    let mut payments = order.payments.clone();
    payments
        .iter_mut()
        .for_each(|payment| payment.failure = None);
    payments.sort_by(|one, other| one.reference.cmp(&other.reference));
    (order.status, order.entitlement(), payments)
}

/// The life of one payment, as Stripe may tell it: tries that fail, then the end of it, then what comes after.
fn life(reference: &'static str) -> impl Strategy<Value = Vec<Fact>> {
    let money = || Money::new(AMOUNT, "usd");
    let failed = News::Failed("declined".to_owned());
    let closed = |failed| News::Closed {
        reason: "over".to_owned(),
        failed,
    };
    let tries = proptest::collection::vec(Just(failed), 0..3);
    let refund = (1..=AMOUNT).prop_map(move |refunded_cents| News::Refunded {
        captured: money(),
        refunded_cents,
    });
    let refunds = proptest::collection::vec(refund, 0..4).prop_map(|mut refunds| {
        refunds.sort_by_key(|refund| match refund {
            News::Refunded { refunded_cents, .. } => *refunded_cents,
            _ => 0,
        });
        refunds
    });
    let full_refund = proptest::option::of(Just(News::Refunded {
        captured: money(),
        refunded_cents: AMOUNT,
    }));
    let dispute = prop_oneof![
        4 => Just(vec![]),
        1 => Just(vec![News::Disputed(Dispute::Open)]),
        1 => Just(vec![News::Disputed(Dispute::Open), News::Disputed(Dispute::Won)]),
        1 => Just(vec![News::Disputed(Dispute::Open), News::Disputed(Dispute::Lost)]),
    ];
    let afterwards = (refunds, full_refund, proptest::bool::weighted(0.2), dispute).prop_map(
        |(refunds, full, refund_failed, dispute)| {
            let failed = refund_failed.then_some(News::RefundFailed);
            refunds
                .into_iter()
                .chain(full)
                .chain(failed)
                .chain(dispute)
                .collect::<Vec<_>>()
        },
    );
    let paid = (any::<bool>(), afterwards).prop_map(move |(authorized, afterwards)| {
        let authorized = authorized.then(|| News::Authorized(money()));
        authorized
            .into_iter()
            .chain([News::Succeeded(money())])
            .chain(afterwards)
            .collect::<Vec<_>>()
    });
    let end = prop_oneof![
        6 => paid,
        1 => any::<bool>().prop_map(move |failed| vec![closed(failed)]),
        1 => Just(vec![]),
    ];
    (tries, end).prop_map(move |(tries, end)| {
        let news = tries.into_iter().chain(end);
        news.map(|news| Fact {
            reference: reference.to_owned(),
            news,
        })
        .collect()
    })
}

/// One to three payments of an order, one after the other.
fn life_cycle() -> impl Strategy<Value = Vec<Fact>> {
    (
        life("pi_1"),
        proptest::option::of(life("pi_2")),
        proptest::option::of(life("cs_3")),
    )
        .prop_map(|(first, second, third)| {
            first
                .into_iter()
                .chain(second.unwrap_or_default())
                .chain(third.unwrap_or_default())
                .collect()
        })
}

/// A life cycle, and the same facts in another order, some of them repeated.
fn shuffled() -> impl Strategy<Value = (Vec<Fact>, Vec<Fact>)> {
    (
        life_cycle(),
        proptest::collection::vec(any::<Index>(), 0..6),
    )
        .prop_flat_map(|(facts, repeated)| {
            let mut arriving = facts.clone();
            if !facts.is_empty() {
                arriving.extend(repeated.iter().map(|index| index.get(&facts).clone()));
            }
            (Just(facts), Just(arriving).prop_shuffle())
        })
}

/// Checks 4,000 life cycles, or as many as PROPTEST_CASES says. PERMUTATION_SEED repeats a run.
fn check(end: impl Fn(&[Fact]) -> FinalState) -> Result<(), String> {
    let cases = Config::default().cases.max(4_000);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let given = std::env::var("PERMUTATION_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let checked = runner.run(&shuffled(), |(facts, arriving)| {
        if end(&facts) == end(&arriving) {
            Ok(())
        } else {
            Err(TestCaseError::fail("the order of arrival shows"))
        }
    });
    checked.map_err(|failure| format!("PERMUTATION_SEED={seed}: {failure}"))
}

#[test]
fn the_final_state_does_not_depend_on_the_order_of_arrival() {
    if let Err(failure) = check(final_state) {
        panic!("{failure}");
    }
}

#[test]
fn the_property_catches_a_rule_that_depends_on_the_order_of_arrival() {
    // The usual rule: the last event wins.
    let last_wins = |facts: &[Fact]| {
        let (_, entitlement, payments) = final_state(facts);
        let status = facts
            .iter()
            .fold(OrderStatus::Pending, |status, fact| match &fact.news {
                News::Succeeded(_) => OrderStatus::Paid,
                News::Failed(_) | News::Closed { .. } => OrderStatus::Cancelled,
                News::Refunded { .. } => OrderStatus::Refunded,
                News::Authorized(_) | News::RefundFailed | News::Disputed(_) => status,
            });
        (status, entitlement, payments)
    };
    let caught = check(last_wins).unwrap_err();
    assert!(caught.contains("PERMUTATION_SEED") && caught.contains("the order of arrival shows"));
}
