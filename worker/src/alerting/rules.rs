//! Which alerts fire. Pure.

use super::measured::{Group, MOST_COUNTED, Measured, Unverified};
use super::news::{Known, Repeat};

/// More failures within an hour, of whatever cause, are an alert.
const MANY_FAILURES: i64 = 5;
/// So many of their groups are named.
const NAMED_GROUPS: usize = 3;
const BACKLOG_WARN_S: f64 = 60.0;
const BACKLOG_PAGE_S: f64 = 300.0;
/// So many events that are retried are no backlog yet.
pub const FEW_RETRIED: i64 = 5;
/// More webhooks that cannot be verified within five minutes are an alert.
const MANY_UNVERIFIED: i64 = 20;
/// The cause of webhooks that are signed with a secret that was replaced.
const RETIRED: &str = "signature_retired";
/// So many in a row are not a passing trouble of Stripe's any more.
const MANY_RECONCILIATIONS: i64 = 3;
/// A silence this many times as long as usual.
const QUIET_FACTOR: f64 = 3.0;
/// No shorter one is an alert.
pub const LEAST_QUIET_S: f64 = 300.0;

/// An alert that fires now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// Which rule.
    pub rule: &'static str,
    /// What it is about, within the rule.
    pub key: String,
    /// For people.
    pub message: String,
    /// How often it is told again while it fires.
    pub repeat: Repeat,
}

/// The alerts that fire. One that fires already goes on until its cause is clearly over, so that nothing at the edge of
/// a limit tells it again and again.
pub fn firing(measured: &Measured, known: &[Known]) -> Vec<Firing> {
    [
        failures(&measured.failures, known).into_iter().collect(),
        measured.payments.iter().map(dead_payments).collect(),
        measured.recurred.iter().map(recurred).collect(),
        backlog(measured.backlog_age_s, known),
        signatures(&measured.unverified, known),
        arrivals(measured, known),
    ]
    .concat()
}

fn fires(rule: &'static str, key: &str, message: String) -> Firing {
    Firing {
        rule,
        key: key.to_owned(),
        message,
        repeat: Repeat::Usual,
    }
}

fn has_fired(known: &[Known], rule: &str, key: &str) -> bool {
    known
        .iter()
        .any(|known| known.firing && known.rule == rule && known.key == key)
}

/// What operators have in hand is not told again.
fn unless_in_hand(mut alert: Firing, acknowledged: bool) -> Firing {
    if acknowledged {
        alert.repeat = Repeat::Never;
    }
    alert
}

fn failures(groups: &[Group], known: &[Known]) -> Option<Firing> {
    let all: i64 = groups.iter().map(|group| group.count).sum();
    let goes_on = has_fired(known, "repeated_failures", "") && all > MANY_FAILURES / 2;
    if all <= MANY_FAILURES && !goes_on {
        return None;
    }
    let named = groups.iter().take(NAMED_GROUPS).map(|group| {
        let Group {
            fingerprint,
            reason,
            count,
            ..
        } = group;
        format!("{count} {reason} (group {fingerprint})")
    });
    let mut text = format!("{} events died within an hour: ", counted(all));
    text += &named.collect::<Vec<_>>().join(", ");
    if groups.len() > NAMED_GROUPS {
        text += &format!(", and {} groups more", groups.len() - NAMED_GROUPS);
    }
    let in_hand = groups.iter().all(|group| group.acknowledged);
    Some(unless_in_hand(
        fires("repeated_failures", "", text),
        in_hand,
    ))
}

fn dead_payments(group: &Group) -> Firing {
    let Group {
        fingerprint,
        reason,
        count,
        acknowledged,
    } = group;
    let count = counted(*count);
    let text = format!("{count} events about money are dead: {reason} (group {fingerprint})");
    unless_in_hand(fires("dead_payments", fingerprint, text), *acknowledged)
}

fn recurred(group: &Group) -> Firing {
    let Group {
        fingerprint,
        reason,
        count,
        ..
    } = group;
    let count = counted(*count);
    let text = format!(
        "{count} events died since their group was resolved: {reason} (group {fingerprint})"
    );
    fires("recurred", fingerprint, text)
}

fn counted(count: i64) -> String {
    let more = if count < MOST_COUNTED { "" } else { " or more" };
    format!("{count}{more}")
}

fn backlog(age_s: f64, known: &[Known]) -> Vec<Firing> {
    let levels = [("warning", BACKLOG_WARN_S), ("page", BACKLOG_PAGE_S)];
    let firing = levels.into_iter().filter(|(level, limit)| {
        let over = has_fired(known, "backlog_age", level) && age_s > limit / 2.0;
        age_s > *limit || over
    });
    firing
        .map(|(level, limit)| {
            let text = format!("the oldest event waits for more than {limit:.0} s");
            fires("backlog_age", level, text)
        })
        .collect()
}

fn signatures(unverified: &[Unverified], known: &[Known]) -> Vec<Firing> {
    let mut found = Vec::new();
    for Unverified {
        cause,
        recently,
        lately,
    } in unverified
    {
        if cause == RETIRED {
            let text = format!(
                "{lately} webhooks within an hour are signed with a secret that was replaced: \
                 give it back to the gateways until Stripe has stopped using it"
            );
            found.push(fires("retired_secret", "", text));
            continue;
        }
        let goes_on = has_fired(known, "signature_failures", cause) && *lately > MANY_UNVERIFIED;
        if *recently > MANY_UNVERIFIED || goes_on {
            let text = format!("{lately} webhooks within an hour {}", meaning(cause));
            found.push(fires("signature_failures", cause, text));
        }
    }
    found
}

fn meaning(cause: &str) -> &'static str {
    match cause {
        "signature_missing" => {
            "bear no signature (signature_missing): somebody tries the address, or a proxy drops the header"
        }
        "signature_malformed" => {
            "bear a signature that is none (signature_malformed): somebody tries the address"
        }
        "signature_mismatch" => {
            "are signed with no secret of ours (signature_mismatch): an attack, or a secret was rolled and the gateways \
             were not told"
        }
        "signature_stale" => {
            "are signed too long ago or ahead (signature_stale): a clock is wrong, or old webhooks are sent again"
        }
        _ => {
            "could not be verified and came too fast from one client (rate_limited): a flood of forgeries"
        }
    }
}

fn arrivals(measured: &Measured, known: &[Known]) -> Vec<Firing> {
    let mut found = Vec::new();
    if measured.wrong_mode > 0 {
        let text = "events of the other mode (live or test) arrive and are ignored";
        found.push(fires("wrong_mode", "", text.to_owned()));
    }
    if measured.rescued > 0 {
        let count = counted(measured.rescued);
        let text =
            format!("messages of {count} events were lost and published again within the last day");
        found.push(Firing {
            repeat: Repeat::Daily,
            ..fires("rescued", "", text)
        });
    }
    if measured.failed_reconciliations >= MANY_RECONCILIATIONS {
        let text = "reconciling with Stripe fails again and again: see its runs in the console";
        found.push(fires("reconciliation", "", text.to_owned()));
    }
    found.extend(silence(measured, known));
    found
}

/// Once told it is over with the next event, and not with an hour in which none is usual.
fn silence(measured: &Measured, known: &[Known]) -> Option<Firing> {
    let quiet = measured.quiet_s.filter(|quiet| *quiet > LEAST_QUIET_S)?;
    let unusual = |gap: &f64| quiet > gap * QUIET_FACTOR;
    let text = match measured.usual_gap_s.filter(unusual) {
        Some(gap) => format!("no event arrives; at this time one usually comes every {gap:.0} s"),
        None if has_fired(known, "silence", "") => "no event arrives".to_owned(),
        None => return None,
    };
    Some(fires("silence", "", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn rules(measured: &Measured, known: &[Known]) -> Vec<String> {
        let name = |alert: &Firing| format!("{}/{}", alert.rule, alert.key);
        firing(measured, known).iter().map(name).collect()
    }

    fn known(rule: &str, key: &str) -> Known {
        let now = Timestamp::from_second(1_000_000).unwrap();
        Known {
            rule: rule.to_owned(),
            key: key.to_owned(),
            firing: true,
            message: "m".to_owned(),
            since: now,
            told_at: now,
        }
    }

    fn unverified(cause: &str, recently: i64, lately: i64) -> Measured {
        Measured {
            unverified: vec![Unverified {
                cause: cause.to_owned(),
                recently,
                lately,
            }],
            ..Measured::default()
        }
    }

    fn group(fingerprint: &str, count: i64, acknowledged: bool) -> Group {
        Group {
            fingerprint: fingerprint.to_owned(),
            reason: "r".to_owned(),
            count,
            acknowledged,
        }
    }

    #[test]
    fn failures_count_together_whatever_their_groups() {
        let of = |groups: &[(&str, i64, bool)], known: &[Known]| {
            let groups = groups
                .iter()
                .map(|(name, count, acknowledged)| group(name, *count, *acknowledged));
            failures(&groups.collect::<Vec<_>>(), known)
        };
        let singles = [
            ("a", 1, false),
            ("b", 1, false),
            ("c", 1, true),
            ("d", 1, true),
            ("e", 1, false),
        ];
        assert_eq!(of(&singles, &[]), None);
        let one_more = [&singles[..], &[("f", 1, false)]].concat();
        let alert = of(&one_more, &[]).unwrap();
        assert_eq!(
            (alert.message.as_str(), alert.repeat),
            (
                "6 events died within an hour: 1 r (group a), 1 r (group b), 1 r (group c), and 3 groups more",
                Repeat::Usual
            )
        );
        let in_hand = of(&[("a", 6, true)], &[]).unwrap();
        assert_eq!(in_hand.repeat, Repeat::Never);
        // It ends below half of its limit.
        let fired = [known("repeated_failures", "")];
        assert!(of(&singles, &fired).is_some());
        assert_eq!(of(&singles[..2], &fired), None);
    }

    #[test]
    fn each_rule_fires_beyond_its_limit() {
        let group = || vec![group("f", 6, false)];
        let none = Measured::default;
        let quiet = |quiet_s, usual_gap_s| Measured {
            quiet_s,
            usual_gap_s,
            ..none()
        };
        let age = |backlog_age_s| Measured {
            backlog_age_s,
            ..none()
        };
        let failed = |failed_reconciliations| Measured {
            failed_reconciliations,
            ..none()
        };
        for (measured, fires) in [
            (none(), vec![]),
            (
                Measured {
                    failures: group(),
                    ..none()
                },
                vec!["repeated_failures/"],
            ),
            (
                Measured {
                    recurred: group(),
                    ..none()
                },
                vec!["recurred/f"],
            ),
            (
                Measured {
                    payments: group(),
                    ..none()
                },
                vec!["dead_payments/f"],
            ),
            (age(60.0), vec![]),
            (age(61.0), vec!["backlog_age/warning"]),
            (age(301.0), vec!["backlog_age/warning", "backlog_age/page"]),
            (
                Measured {
                    wrong_mode: 1,
                    ..none()
                },
                vec!["wrong_mode/"],
            ),
            (
                Measured {
                    rescued: 1,
                    ..none()
                },
                vec!["rescued/"],
            ),
            (failed(2), vec![]),
            (failed(3), vec!["reconciliation/"]),
            (quiet(Some(301.0), Some(100.0)), vec!["silence/"]),
            (quiet(Some(301.0), Some(101.0)), vec![]),
            (quiet(Some(299.0), Some(1.0)), vec![]),
            (quiet(Some(9_999.0), None), vec![]),
        ] {
            assert_eq!(rules(&measured, &[]), fires, "{measured:?}");
        }
    }

    #[test]
    fn silence_goes_on_through_an_hour_in_which_none_is_usual() {
        let quiet = |quiet_s| Measured {
            quiet_s: Some(quiet_s),
            ..Measured::default()
        };
        let told = [known("silence", "")];
        assert_eq!(rules(&quiet(9_999.0), &told), ["silence/"]);
        assert!(rules(&quiet(3.0), &told).is_empty());
    }

    #[test]
    fn what_cannot_be_verified_fires_by_its_cause() {
        for (measured, fires) in [
            (unverified("signature_stale", 20, 900), vec![]),
            (
                unverified("signature_stale", 21, 21),
                vec!["signature_failures/signature_stale"],
            ),
            (
                unverified("signature_retired", 0, 1),
                vec!["retired_secret/"],
            ),
        ] {
            assert_eq!(rules(&measured, &[]), fires, "{measured:?}");
        }
    }

    #[test]
    fn what_fires_goes_on_until_it_is_clearly_over() {
        let age = |backlog_age_s| Measured {
            backlog_age_s,
            ..Measured::default()
        };
        let cause = "signature_mismatch";
        for (known, measured, goes_on) in [
            (known("backlog_age", "warning"), age(31.0), true),
            (known("backlog_age", "warning"), age(30.0), false),
            (
                known("signature_failures", cause),
                unverified(cause, 0, 21),
                true,
            ),
            (
                known("signature_failures", cause),
                unverified(cause, 0, 20),
                false,
            ),
        ] {
            assert_eq!(
                rules(&measured, &[known]).len() == 1,
                goes_on,
                "{measured:?}"
            );
        }
    }
}
