//! A clean run is clean, and each way to spoil it is noticed.

use super::*;

const ALLOWED: Allowed = Allowed {
    progress: 2,
    mails_doubled: 0,
    answer_ms: 1_000,
    burnt_attempts: true,
};

fn sent(id: &str, told: Told) -> Sent {
    Sent {
        id: id.to_owned(),
        order: Some("ord_1".to_owned()),
        told,
        fate: Fate::Done,
        amount_cents: 5_000,
        currency: "usd".to_owned(),
        digest: "d".to_owned(),
    }
}

fn delivery(event_id: &str, at_ms: u64, outcome: Outcome) -> Delivery {
    Delivery {
        event_id: event_id.to_owned(),
        at_ms,
        took_ms: 1,
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
        digest: "d".to_owned(),
    }
}

fn attempt(event_id: &str, number: i64) -> AttemptRow {
    AttemptRow {
        event_id: event_id.to_owned(),
        number,
        outcome: "processed".to_owned(),
        kind: String::new(),
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
        forgeries: Vec::new(),
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
        ..Snapshot::default()
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
fn an_event_that_is_stored_again_is_noticed() {
    let again = spoilt(|_, snapshot| {
        snapshot.events[1] = event("evt_1");
        snapshot.attempts.pop();
    });
    let told = "evt_1 is stored again".to_owned();
    assert!(again.contains(&Defect::Doubled(told)), "{again:?}");
}

#[test]
fn a_state_that_goes_back_is_noticed() {
    let moved = |kind: &str, from: &str, to: &str| {
        let change = Move {
            kind: kind.to_owned(),
            id: "x".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        };
        spoilt(move |_, snapshot| snapshot.moves.push(change)).len()
    };
    for (kind, from, to) in [
        ("event", "received", "processed"),
        ("event", "retrying", "dead"),
        ("event", "dead", "received"),
        ("order", "pending", "paid"),
        ("order", "cancelled", "paid"),
        ("order", "paid", "refunded"),
    ] {
        assert_eq!(moved(kind, from, to), 0, "{kind} {from} {to}");
    }
    for (kind, from, to) in [
        ("event", "processed", "received"),
        ("event", "ignored", "processed"),
        ("event", "dead", "processed"),
        ("order", "paid", "pending"),
        ("order", "refunded", "paid"),
    ] {
        assert_eq!(moved(kind, from, to), 1, "{kind} {from} {to}");
    }
}

#[test]
fn an_attempt_that_fails_for_nothing_is_noticed_where_none_may_fail() {
    let (history, mut snapshot) = clean();
    snapshot.events[0].attempts = 2;
    snapshot.attempts[0].outcome = "transient".to_owned();
    snapshot.attempts.push(attempt("evt_1", 2));
    assert!(check(&history, &snapshot, ALLOWED).is_clean());
    let strict = Allowed {
        burnt_attempts: false,
        ..ALLOWED
    };
    let defects = check(&history, &snapshot, strict).defects;
    assert!(matches!(defects[..], [Defect::Burnt(_)]), "{defects:?}");
}

#[test]
fn what_is_left_over_is_noticed() {
    let waiting = |left| spoilt(move |_, snapshot| snapshot.waiting.push(("messages", left)));
    assert_eq!(waiting(0), []);
    assert_eq!(waiting(2), [Defect::Leftover("2 messages".to_owned())]);
}

#[test]
fn a_sender_that_waits_too_long_is_noticed() {
    let slow = spoilt(|history, _| history.deliveries[0].took_ms = 1_001);
    assert_eq!(slow, [Defect::Slow(1_001)]);
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
    let lost = Defect::Order("ord_1 is gone".to_owned());
    assert_eq!(gone, [Defect::Money("usd".to_owned(), -5_000), lost]);
    let between_orders = spoilt(|_, snapshot| {
        let mut other = snapshot.orders[0].clone();
        other.id = "ord_2".to_owned();
        (other.status, other.captured_cents) = ("pending".to_owned(), 1);
        (other.active, other.tickets) = (0, 0);
        snapshot.orders[0].captured_cents = 4_999;
        snapshot.orders.push(other);
    });
    assert_eq!(between_orders.len(), 2, "{between_orders:?}");
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

#[test]
fn an_event_that_ends_otherwise_than_it_must_is_noticed() {
    let ended = |state: &'static str, kind: &'static str, fate: Fate| {
        spoilt(move |history, snapshot| {
            (history.sent[0].fate, history.sent[0].told) = (fate, Told::Nothing);
            snapshot.events[0].state = state.to_owned();
            (snapshot.attempts[0].outcome, snapshot.attempts[0].kind) =
                (state.to_owned(), kind.to_owned());
        })
    };
    let fates = |defects: Vec<Defect>| {
        let of_fate = |defect: &&Defect| matches!(defect, Defect::Fate(_));
        defects.iter().filter(of_fate).count()
    };
    assert_eq!(fates(ended("dead", "x", Fate::Dead("x"))), 0);
    assert_eq!(fates(ended("dead", "y", Fate::Dead("x"))), 1);
    assert_eq!(fates(ended("processed", "", Fate::Dead("x"))), 1);
    assert_eq!(fates(ended("ignored", "x", Fate::Ignored("x"))), 0);
    assert_eq!(fates(ended("processed", "", Fate::Ignored("x"))), 1);
    assert_eq!(fates(ended("ignored", "x", Fate::Done)), 1);
}

#[test]
fn a_body_that_is_not_the_sent_one_is_noticed() {
    let altered = spoilt(|_, snapshot| snapshot.events[0].digest = "e".to_owned());
    assert_eq!(altered, [Defect::Altered("evt_1".to_owned())]);
}

#[test]
fn a_forged_request_that_is_taken_or_learns_why_not_is_noticed() {
    let forgery = |status, answer: &str| Forgery {
        what: "forged".to_owned(),
        status,
        answer: answer.to_owned(),
        expected: &[400, 429],
        alike: true,
    };
    let answered =
        |forgeries: Vec<Forgery>| spoilt(move |history, _| history.forgeries = forgeries).len();
    assert_eq!(answered(vec![forgery(400, "no"), forgery(429, "stop")]), 0);
    assert_eq!(answered(vec![forgery(200, "yes")]), 1);
    assert_eq!(
        answered(vec![forgery(400, "no"), forgery(400, "too old")]),
        1
    );
}

#[test]
fn a_replay_that_is_not_over_or_does_not_add_up_is_noticed() {
    let replayed = |state: &str, counted: [i64; 4], items: [i64; 4], audited| {
        let replay = ReplayRow {
            id: 1,
            state: state.to_owned(),
            planned: 5,
            counted,
            items,
            audited,
        };
        spoilt(move |_, snapshot| snapshot.replays.push(replay)).len()
    };
    let all = [0, 3, 1, 1];
    assert_eq!(replayed("finished", all, all, 3), 0);
    assert_eq!(replayed("cancelled", [0, 2, 0, 0], [0, 2, 0, 0], 3), 0);
    assert_eq!(replayed("finished", all, all, 2), 1);
    assert_eq!(replayed("finished", all, [0, 4, 1, 1], 3), 1);
    assert_eq!(replayed("finished", [0, 3, 1, 0], [0, 3, 1, 0], 3), 1);
    assert_eq!(replayed("cancelled", [1, 2, 0, 0], [1, 2, 0, 0], 3), 1);
    for state in ["planned", "running", "paused", "failed"] {
        assert_eq!(replayed(state, all, all, 3), 1, "{state}");
    }
}
