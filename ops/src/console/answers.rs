//! How soon gateways answered webhooks within the last minute, from the histograms that they export. Pure.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::probes::label;
use super::view;

/// What is looked back at.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);
const BUCKET: &str = "tollgate_webhook_duration_seconds_bucket{";

/// How many answers took at most so long, by that time in microseconds; the last one is of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    /// Reads Prometheus's text format; empty where it holds no such histogram.
    pub fn read(metrics: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in metrics.lines() {
            if let Some((upper, count)) = line.strip_prefix(BUCKET).and_then(bucket) {
                *counts.entry(upper).or_default() += count;
            }
        }
        Self(counts)
    }

    fn all(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }

    /// What was counted since; all of it where the process has started anew.
    fn since(&self, before: &Self) -> Self {
        let earlier = |upper: &u64| before.0.get(upper).copied().unwrap_or(0);
        let counts = self.0.iter();
        let grown: Option<BTreeMap<u64, u64>> = counts
            .map(|(upper, count)| Some((*upper, count.checked_sub(earlier(upper))?)))
            .collect();
        grown.map_or_else(|| self.clone(), Self)
    }

    fn add(&mut self, other: Self) {
        for (upper, count) in other.0 {
            *self.0.entry(upper).or_default() += count;
        }
    }

    /// The time that this share of the answers did not take longer than, as finely as they were counted.
    fn within(&self, share: f64) -> String {
        let all = self.all();
        if all == 0 {
            return "–".to_owned();
        }
        let enough = |count: u64| count as f64 >= share * all as f64;
        let bounds = || self.0.keys().filter(|upper| **upper != u64::MAX);
        let text = |upper: &u64| view::seconds_finely(*upper as f64 / 1e6);
        let upper = bounds().find(|upper| enough(self.0[*upper]));
        let beyond = || {
            bounds()
                .next_back()
                .map_or("–".to_owned(), |last| format!("> {}", text(last)))
        };
        upper.map_or_else(beyond, |upper| format!("≤ {}", text(upper)))
    }
}

/// Upper bound in microseconds and count of the rest of a line: labels, brace, number.
fn bucket(rest: &str) -> Option<(u64, u64)> {
    let (labels, value) = rest.rsplit_once("} ")?;
    let upper = match label(labels, "le")? {
        "+Inf" => u64::MAX,
        seconds => (seconds.parse::<f64>().ok()? * 1e6).round() as u64,
    };
    Some((upper, value.trim().parse::<f64>().ok()? as u64))
}

/// What gateways answered within the last minute.
#[derive(Default)]
pub struct Answers {
    /// What each gateway exported last.
    exported: BTreeMap<String, Histogram>,
    /// What was counted between one look and the next.
    counted: VecDeque<(Timestamp, Histogram)>,
}

impl Answers {
    /// Notes what gateways export now, by their addresses. One that is seen for the first time may have counted for days.
    pub fn note(&mut self, at: Timestamp, exported: BTreeMap<String, Histogram>) {
        let mut counted = Histogram::default();
        for (url, histogram) in exported {
            if let Some(before) = self.exported.get(&url) {
                counted.add(histogram.since(before));
            }
            self.exported.insert(url, histogram);
        }
        self.counted.push_back((at, counted));
        let is_old =
            |(noted_at, _): &(Timestamp, Histogram)| at.duration_since(*noted_at) >= WINDOW;
        while self.counted.front().is_some_and(is_old) {
            self.counted.pop_front();
        }
    }

    /// How soon 50, 95 and 99 of 100 webhooks were answered.
    pub fn last_minute(&self) -> [String; 3] {
        let mut sum = Histogram::default();
        for (_, counted) in &self.counted {
            sum.add(counted.clone());
        }
        [0.5, 0.95, 0.99].map(|share| sum.within(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(counts: [u64; 4]) -> BTreeMap<String, Histogram> {
        let bounds = ["0.001", "0.0025", "0.5", "+Inf"];
        let lines = bounds.iter().zip(counts).map(|(bound, count)| {
            format!("{BUCKET}otel_scope_name=\"gateway\",le=\"{bound}\"}} {count}\n")
        });
        let text: String = lines.collect();
        BTreeMap::from([("http://g".to_owned(), Histogram::read(&text))])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_last_minute_is_what_was_counted_since_its_beginning() {
        let mut answers = Answers::default();
        assert_eq!(answers.last_minute(), ["–", "–", "–"]);
        answers.note(at(0), exported([0, 0, 0, 1_000]));
        assert_eq!(answers.last_minute(), ["–", "–", "–"]);
        answers.note(at(30), exported([90, 95, 100, 1_100]));
        assert_eq!(answers.last_minute(), ["≤ 1 ms", "≤ 2.5 ms", "≤ 500 ms"]);
        // What came before is over.
        answers.note(at(90), exported([91, 96, 101, 1_101]));
        assert_eq!(answers.last_minute(), ["≤ 1 ms", "≤ 1 ms", "≤ 1 ms"]);
        answers.note(at(91), exported([91, 96, 101, 1_201]));
        assert_eq!(answers.last_minute()[2], "> 500 ms");
    }

    #[test]
    fn a_gateway_that_started_anew_counts_from_its_start() {
        let mut answers = Answers::default();
        answers.note(at(0), exported([0, 50, 50, 50]));
        answers.note(at(3), exported([10, 10, 10, 10]));
        assert_eq!(answers.last_minute()[0], "≤ 1 ms");
        // Also where it has counted as much again.
        answers.note(at(6), exported([0, 0, 10, 10]));
        answers.note(at(9), exported([0, 0, 30, 30]));
        assert_eq!(answers.last_minute()[0], "≤ 500 ms");
        // One that was not there before may have counted for days; one that was away counts on.
        let mut answers = Answers::default();
        answers.note(at(0), BTreeMap::new());
        answers.note(at(3), exported([10, 10, 10, 10]));
        assert_eq!(answers.last_minute()[0], "–");
        answers.note(at(6), BTreeMap::new());
        answers.note(at(9), exported([11, 11, 11, 11]));
        assert_eq!(answers.last_minute()[0], "≤ 1 ms");
    }

    #[test]
    fn other_lines_are_no_histogram() {
        let text = "# HELP x y\ntollgate_webhook_duration_seconds_count 3\n\
            tollgate_webhook_duration_seconds_bucket{le=\"x\"} 3\ntollgate_webhook_duration_seconds_bucket{";
        assert_eq!(Histogram::read(text), Histogram::default());
    }
}
