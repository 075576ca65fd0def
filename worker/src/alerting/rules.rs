//! Which alerts fire, and what is told of it: on a change, and again from time to time. Pure.

use jiff::{SignedDuration, Timestamp};

/// A group of open dead letters.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they share.
    pub fingerprint: String,
    /// A fixed word for the cause.
    pub reason: String,
    /// How many, up to [`MOST_COUNTED`].
    pub count: i64,
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
    /// Groups that grew by more than [`MANY_FAILURES`] within an hour.
    pub growing: Vec<Group>,
    /// Groups of events about payments.
    pub payments: Vec<Group>,
    /// Seconds that the oldest new event waits for its first attempt.
    pub backlog_age_s: f64,
    /// What gateways refused as not signed by Stripe.
    pub unverified: Vec<Unverified>,
    /// Events of the other mode within an hour.
    pub wrong_mode: i64,
    /// Events whose message was lost within a day.
    pub rescued: i64,
    /// Scheduled reconciliations that failed since the last one that did not.
    pub failed_reconciliations: i64,
    /// Seconds since the last event.
    pub quiet_s: Option<f64>,
    /// Seconds between events at this hour of the week, in the last four weeks.
    pub usual_gap_s: Option<f64>,
}

/// More failures of one cause within an hour are an alert.
pub const MANY_FAILURES: i64 = 5;
/// Of a group no more are counted than these.
pub const MOST_COUNTED: i64 = 100;
const BACKLOG_WARN_S: f64 = 60.0;
const BACKLOG_PAGE_S: f64 = 300.0;
/// More webhooks that cannot be verified within five minutes are an alert.
const MANY_UNVERIFIED: i64 = 20;
/// The cause of webhooks that are signed with a secret that was replaced.
const RETIRED: &str = "signature_retired";
/// So many in a row are not a passing trouble of Stripe's any more.
const MANY_RECONCILIATIONS: i64 = 3;
/// A silence this many times as long as usual.
const QUIET_FACTOR: f64 = 3.0;
const LEAST_QUIET_S: f64 = 300.0;

/// An alert that fires now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// Which rule.
    pub rule: &'static str,
    /// What it is about, within the rule.
    pub key: String,
    /// For people.
    pub message: String,
}

/// Where an alert stood.
#[derive(Debug, Clone)]
pub struct Known {
    /// Which rule.
    pub rule: String,
    /// What it is about.
    pub key: String,
    /// Whether it fires.
    pub firing: bool,
    /// What was said of it.
    pub message: String,
    /// Since when it stands so.
    pub since: Timestamp,
    /// When that was told last.
    pub told_at: Timestamp,
}

/// What is new of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It fires, and did not.
    Fires(Firing),
    /// It fires still, for so long that it is told again.
    FiresStill(Firing, Timestamp),
    /// It does not fire any more.
    Resolved {
        /// Which rule.
        rule: String,
        /// What it was about.
        key: String,
        /// What was said.
        message: String,
        /// Since when it had fired.
        since: Timestamp,
    },
}

/// The alerts that fire. One that fires already goes on until its cause is clearly over, so that nothing at the edge of
/// a limit tells it again and again.
pub fn firing(measured: &Measured, known: &[Known]) -> Vec<Firing> {
    [
        dead_letters(measured),
        backlog(measured.backlog_age_s, known),
        signatures(&measured.unverified, known),
        arrivals(measured),
    ]
    .concat()
}

fn fires(rule: &'static str, key: &str, message: String) -> Firing {
    Firing {
        rule,
        key: key.to_owned(),
        message,
    }
}

fn has_fired(known: &[Known], rule: &str, key: &str) -> bool {
    known
        .iter()
        .any(|known| known.firing && known.rule == rule && known.key == key)
}

fn dead_letters(measured: &Measured) -> Vec<Firing> {
    let of = |rule, what: &str, group: &Group| {
        let Group {
            fingerprint,
            reason,
            count,
        } = group;
        let more = if *count < MOST_COUNTED {
            ""
        } else {
            " or more"
        };
        let text = format!("{count}{more} {what}: {reason} (group {fingerprint})");
        fires(rule, fingerprint, text)
    };
    let growing = measured.growing.iter();
    let payments = measured.payments.iter();
    growing
        .map(|group| of("repeated_failures", "events died within an hour", group))
        .chain(payments.map(|group| of("dead_payments", "payment events are dead", group)))
        .collect()
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

fn arrivals(measured: &Measured) -> Vec<Firing> {
    let mut found = Vec::new();
    if measured.wrong_mode > 0 {
        let text = "events of the other mode (live or test) arrive and are ignored";
        found.push(fires("wrong_mode", "", text.to_owned()));
    }
    if measured.rescued > 0 {
        let text = "messages of events were lost and published again within the last day";
        found.push(fires("rescued", "", text.to_owned()));
    }
    if measured.failed_reconciliations >= MANY_RECONCILIATIONS {
        let text = "reconciling with Stripe fails again and again: see its runs in the console";
        found.push(fires("reconciliation", "", text.to_owned()));
    }
    if let (Some(quiet), Some(gap)) = (measured.quiet_s, measured.usual_gap_s)
        && quiet > (gap * QUIET_FACTOR).max(LEAST_QUIET_S)
    {
        let text = format!("no event arrives; at this hour one comes every {gap:.0} s");
        found.push(fires("silence", "", text));
    }
    found
}

/// What has changed since it was told, or was told longer than `repeat` ago.
pub fn news(
    firing: &[Firing],
    known: &[Known],
    now: Timestamp,
    repeat: SignedDuration,
) -> Vec<News> {
    let state = |rule: &str, key: &str| {
        known
            .iter()
            .find(|known| known.firing && known.rule == rule && known.key == key)
    };
    let mut news = Vec::new();
    for alert in firing {
        match state(alert.rule, &alert.key) {
            None => news.push(News::Fires(alert.clone())),
            Some(known) if now.duration_since(known.told_at) >= repeat => {
                news.push(News::FiresStill(alert.clone(), known.since));
            }
            Some(_) => {}
        }
    }
    let fires = |known: &Known| {
        firing
            .iter()
            .any(|alert| alert.rule == known.rule && alert.key == known.key)
    };
    news.extend(
        known
            .iter()
            .filter(|known| known.firing && !fires(known))
            .map(|known| News::Resolved {
                rule: known.rule.clone(),
                key: known.key.clone(),
                message: known.message.clone(),
                since: known.since,
            }),
    );
    news
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn each_rule_fires_beyond_its_limit() {
        let group = || {
            vec![Group {
                fingerprint: "f".to_owned(),
                reason: "r".to_owned(),
                count: 6,
            }]
        };
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
                    growing: group(),
                    ..none()
                },
                vec!["repeated_failures/f"],
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

    #[test]
    fn a_change_is_told_once_and_again_after_a_while() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let alert = Firing {
            rule: "rescued",
            key: String::new(),
            message: "m".to_owned(),
        };
        let known = |firing, told_s_ago| Known {
            rule: "rescued".to_owned(),
            key: String::new(),
            firing,
            message: "m".to_owned(),
            since: now,
            told_at: now - SignedDuration::from_secs(told_s_ago),
        };
        let repeat = SignedDuration::from_secs(100);
        let told = |firing: &[Firing], known: Known| news(firing, &[known], now, repeat);
        let fires = [alert.clone()];
        assert_eq!(told(&fires, known(true, 99)), []);
        assert_eq!(told(&fires, known(false, 1)), [News::Fires(alert.clone())]);
        assert_eq!(
            told(&fires, known(true, 100)),
            [News::FiresStill(alert, now)]
        );
        assert_eq!(told(&[], known(false, 999)), []);
        assert!(matches!(
            told(&[], known(true, 1))[..],
            [News::Resolved { .. }]
        ));
    }
}
