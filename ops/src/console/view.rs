//! What templates use: the frame around each page, times, links.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};

use super::auth::Role;
use super::visit::Visit;
use crate::output;

/// What the frame of every page shows.
pub struct Frame {
    /// Who is signed in.
    pub name: String,
    /// As what.
    pub role: &'static str,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Whether this visitor may change things.
    pub operates: bool,
    /// `auto`, `light` or `dark`.
    pub theme: &'static str,
    /// Where this page is.
    pub here: String,
    /// Which entry of the navigation is this page's.
    pub section: &'static str,
    /// When it was made.
    pub now: Timestamp,
}

impl Frame {
    /// The frame of a page.
    pub fn new(visit: &Visit, section: &'static str) -> Self {
        Self {
            name: visit.who.name.clone(),
            role: visit.who.role.as_str(),
            read_only: visit.read_only,
            operates: visit.may(Role::Operator),
            theme: visit.theme,
            here: visit.here.clone(),
            section,
            now: visit.now,
        }
    }

    /// Whether this page is of a section.
    pub fn is_at(&self, section: &str) -> bool {
        self.section == section
    }

    /// Whether these colours are chosen.
    pub fn has_theme(&self, theme: &str) -> bool {
        self.theme == theme
    }

    /// How long ago, in words.
    pub fn ago(&self, at: &Timestamp) -> String {
        ago(&self.now, at)
    }

    /// The time of the day, with its date unless it is today's.
    pub fn clock(&self, at: &Timestamp) -> String {
        clock(&self.now, at)
    }
}

/// Every page of the navigation: section, path, title.
pub const SECTIONS: [(&str, &str, &str); 8] = [
    ("overview", "/", "Overview"),
    ("events", "/events", "Events"),
    ("dead-letters", "/dead-letters", "Dead letters"),
    ("replays", "/replays", "Replays"),
    ("reconcile", "/reconcile", "Reconcile"),
    ("rejections", "/rejections", "Rejections"),
    ("audit", "/audit", "Audit log"),
    ("settings", "/settings", "Settings"),
];

/// How long ago, in words.
pub fn ago(now: &Timestamp, at: &Timestamp) -> String {
    let past = now.duration_since(*at);
    if past.is_negative() {
        format!("in {}", span(&-past))
    } else if past.as_secs() == 0 {
        "just now".to_owned()
    } else {
        format!("{} ago", span(&past))
    }
}

/// The time of the day, with its date unless it is today's.
pub fn clock(now: &Timestamp, at: &Timestamp) -> String {
    let day = |at: &Timestamp| at.strftime("%Y-%m-%d").to_string();
    if day(now) == day(at) {
        at.strftime("%H:%M:%SZ").to_string()
    } else {
        at.strftime("%b %-d %H:%MZ").to_string()
    }
}

/// A duration in its two largest units at the most.
pub fn span(duration: &SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Seconds as a duration in words.
pub fn seconds(seconds: &f64) -> String {
    let seconds = *seconds;
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1_000.0)
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        span(&SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::MAX))
    }
}

/// Seconds as a duration in words, with tenths of milliseconds.
pub fn seconds_finely(value: f64) -> String {
    match value {
        0.0..0.01 => format!("{} ms", (value * 10_000.0).round() / 10.0),
        value => seconds(&value),
    }
}

/// Seconds as a duration in words, or a dash.
pub fn seconds_or_dash(value: &Option<f64>) -> String {
    value.as_ref().map_or("–".to_owned(), seconds)
}

/// A time to the second.
pub fn time(at: &Timestamp) -> String {
    output::time(*at)
}

/// A time to the millisecond.
pub fn exact(at: &Timestamp) -> String {
    output::exact(*at)
}

/// A number with separated thousands.
pub fn number(value: &(impl Copy + Into<i64>)) -> String {
    let value: i64 = (*value).into();
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest unit that it fills.
pub fn bytes(bytes: &i64) -> String {
    let size = *bytes as f64;
    match size {
        ..1024.0 => format!("{bytes} B"),
        ..1_048_576.0 => format!("{:.0} KiB", size / 1024.0),
        ..1_073_741_824.0 => format!("{:.1} MiB", size / 1_048_576.0),
        _ => format!("{:.1} GiB", size / 1_073_741_824.0),
    }
}

/// An amount in minor units with its currency.
pub fn money(cents: &i64, currency: &str) -> String {
    shared::money::Money::new(*cents, currency).to_string()
}

/// A value within a URL's path or query.
pub fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// A segment of a path as it was meant.
pub fn decoded(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    // The database takes no zero byte.
    String::from_utf8_lossy(&bytes).replace('\0', "")
}

/// A word of a shell command.
pub fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

/// An e-mail address that tells no more than who knows it needs.
pub fn masked(address: &str) -> String {
    match address.split_once('@') {
        Some((name, domain)) => {
            format!(
                "{}•••@{domain}",
                name.chars().next().map(String::from).unwrap_or_default()
            )
        }
        None => "•••".to_owned(),
    }
}

/// The points of a sparkline of 100 by 20.
pub fn sparkline(values: &[i64]) -> String {
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    let step = 100.0 / values.len().saturating_sub(1).max(1) as f64;
    let point = |(at, value): (usize, &i64)| {
        format!(
            "{:.1},{:.1}",
            at as f64 * step,
            19.0 - 18.0 * (*value as f64) / most as f64
        )
    };
    let points: Vec<String> = values.iter().enumerate().map(point).collect();
    points.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_for_people() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (at, text) in [
            ("2026-01-02T03:04:05Z", "just now"),
            ("2026-01-02T03:03:35Z", "30 s ago"),
            ("2026-01-02T03:00:00Z", "4 min ago"),
            ("2026-01-02T00:00:00Z", "3 h 4 min ago"),
            ("2025-12-31T03:04:05Z", "2 d 0 h ago"),
            ("2026-01-02T03:05:05Z", "in 1 min"),
        ] {
            assert_eq!(ago(&now, &at.parse().unwrap()), text);
        }
        let clock = |at: &str| clock(&now, &at.parse().unwrap());
        assert_eq!(clock("2026-01-02T00:59:05Z"), "00:59:05Z");
        assert_eq!(clock("2025-12-31T23:59:05Z"), "Dec 31 23:59Z");
        assert_eq!(number(&1_234_567), "1,234,567");
        assert_eq!(
            (number(&-1_000), number(&999_i64)),
            ("-1,000".into(), "999".into())
        );
    }

    #[test]
    fn what_goes_into_a_shell_or_a_url_stays_one_word() {
        assert_eq!(quoted("evt_1"), "evt_1");
        assert_eq!(quoted("a'; rm -rf /"), r"'a'\''; rm -rf /'");
        assert_eq!(
            encoded("type:a b&c=\"d\"/…"),
            "type%3Aa%20b%26c%3D%22d%22%2F%E2%80%A6"
        );
        assert_eq!(decoded("a%20b%2Fc%é%zz%"), "a b/c%é%zz%");
        assert_eq!(masked("buyer@example.com"), "b•••@example.com");
    }
}
