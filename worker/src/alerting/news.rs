//! What is told of alerts: on a change, and again from time to time. Pure.

use jiff::{SignedDuration, Timestamp};

use super::rules::Firing;

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

/// How often an alert is told again while it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// As often as the settings say.
    Usual,
    /// Once a day, where the settings do not say less often.
    Daily,
    /// Somebody has it in hand.
    Never,
}

impl Repeat {
    fn is_due(self, after: SignedDuration, usual: SignedDuration) -> bool {
        match self {
            Self::Usual => after >= usual,
            Self::Daily => after >= usual.max(SignedDuration::from_hours(24)),
            Self::Never => false,
        }
    }
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
            Some(known)
                if alert
                    .repeat
                    .is_due(now.duration_since(known.told_at), repeat) =>
            {
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

    #[test]
    fn a_change_is_told_once_and_again_after_a_while() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let alert = Firing {
            rule: "rescued",
            key: String::new(),
            message: "m".to_owned(),
            repeat: Repeat::Usual,
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

    #[test]
    fn what_is_in_hand_is_not_told_again_and_some_only_daily() {
        let (hour, day) = (
            SignedDuration::from_hours(1),
            SignedDuration::from_hours(24),
        );
        for (repeat, after, usual, due) in [
            (Repeat::Usual, hour, hour, true),
            (Repeat::Daily, hour, hour, false),
            (Repeat::Daily, day, hour, true),
            (Repeat::Daily, day, day * 2, false),
            (Repeat::Never, day * 99, hour, false),
        ] {
            assert_eq!(
                repeat.is_due(after, usual),
                due,
                "{repeat:?} {after} {usual}"
            );
        }
    }
}
