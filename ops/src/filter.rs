//! The filter grammar of the command line and the console: `type:charge.* since:2h fingerprint:…`. Terms are separated
//! by blanks and all of them must hold; values of one term are separated by commas and one of them must. Pure.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::settings::duration;

/// Which events or dead letters. An empty field means any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Event types; `*` stands for anything.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// States of an event; dead letters that are open are of dead events anyway.
    #[serde(rename = "state", skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// Received, or died, from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Received, or died, before then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Groups of dead letters.
    #[serde(rename = "fingerprint", skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<String>,
    /// Fixed words for the cause of death.
    #[serde(rename = "reason", skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Ids of events, or their beginnings (`evt_1*`, too) in lists of events, or numbers of dead letters.
    #[serde(rename = "id", skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Ids that their objects bear: of an order, a payment, a charge. Known once an event was attempted.
    #[serde(rename = "object", skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// Live or test mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub livemode: Option<bool>,
    /// The connected account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The version that rendered the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// At least so many attempts.
    #[serde(rename = "attempts", skip_serializing_if = "Option::is_none")]
    pub min_attempts: Option<i32>,
    /// Said `all`: no other term is needed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What is wrong with a filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

/// The states that an event can have.
pub const STATES: [&str; 6] = [
    "received",
    "processed",
    "ignored",
    "retrying",
    "dead",
    "discarded",
];

/// The grammar in one line, for `--help` and error texts.
pub const GRAMMAR: &str = "type:GLOB state:STATE since:TIME until:TIME fingerprint:HEX reason:WORD id:ID object:ID \
                           livemode:true|false account:ID api_version:VERSION attempts:N, or `all`";

impl Filter {
    /// Reads a filter. Durations (`2h`) count back from `now`.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for term in split(text)? {
            filter.add_term(&term, now)?;
        }
        filter.check()?;
        Ok(filter)
    }

    /// Whether it names anything at all, `all` included.
    pub fn says_something(&self) -> bool {
        *self != Self::default()
    }

    /// Whether it holds nothing but ids.
    pub fn names_only(&self) -> bool {
        let ids = self.ids.clone();
        !ids.is_empty()
            && *self
                == Self {
                    ids,
                    ..Self::default()
                }
    }

    /// Dead letters' numbers among the ids.
    pub fn letter_ids(&self) -> Vec<i64> {
        self.ids.iter().filter_map(|id| id.parse().ok()).collect()
    }

    /// Both filters at once; a single-valued term may not be given by both.
    pub fn and(mut self, other: Self) -> Result<Self, FilterError> {
        for (mine, theirs) in [
            (&mut self.types, other.types),
            (&mut self.states, other.states),
            (&mut self.fingerprints, other.fingerprints),
            (&mut self.reasons, other.reasons),
            (&mut self.ids, other.ids),
            (&mut self.objects, other.objects),
        ] {
            if !mine.is_empty() && !theirs.is_empty() {
                return Err(FilterError("the same term is given twice".to_owned()));
            }
            mine.extend(theirs);
        }
        merge(&mut self.since, other.since, "since")?;
        merge(&mut self.until, other.until, "until")?;
        merge(&mut self.livemode, other.livemode, "livemode")?;
        merge(&mut self.account, other.account, "account")?;
        merge(&mut self.api_version, other.api_version, "api_version")?;
        merge(&mut self.min_attempts, other.min_attempts, "attempts")?;
        self.all |= other.all;
        self.check()?;
        Ok(self)
    }

    fn add_term(&mut self, term: &str, now: Timestamp) -> Result<(), FilterError> {
        if term == "all" {
            self.all = true;
            return Ok(());
        }
        let (key, value) = term.split_once(':').unwrap_or((term, ""));
        if value.is_empty() {
            let text = format!("`{term}` is not a term: write {GRAMMAR}");
            return Err(FilterError(text));
        }
        match key {
            "type" => add(&mut self.types, value),
            "state" | "status" => add(&mut self.states, value),
            "fingerprint" | "group" => add(&mut self.fingerprints, value),
            "reason" | "kind" => add(&mut self.reasons, value),
            "id" => add(&mut self.ids, value),
            "object" => add(&mut self.objects, value),
            "since" => merge(&mut self.since, Some(time(value, now)?), key)?,
            "until" => merge(&mut self.until, Some(time(value, now)?), key)?,
            "livemode" => merge(&mut self.livemode, Some(parsed(key, value)?), key)?,
            "account" => merge(&mut self.account, Some(value.to_owned()), key)?,
            "api_version" => merge(&mut self.api_version, Some(value.to_owned()), key)?,
            "attempts" => {
                let least = value.strip_prefix(">=").unwrap_or(value);
                merge(&mut self.min_attempts, Some(parsed(key, least)?), key)?;
            }
            _ => {
                let text = format!("there is no term `{key}`: write {GRAMMAR}");
                return Err(FilterError(text));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), FilterError> {
        if let Some(unknown) = self
            .states
            .iter()
            .find(|state| !STATES.contains(&state.as_str()))
        {
            let known = STATES.join(", ");
            return Err(FilterError(format!(
                "there is no state `{unknown}`: {known}"
            )));
        }
        if self
            .since
            .zip(self.until)
            .is_some_and(|(since, until)| since >= until)
        {
            return Err(FilterError("since is not before until".to_owned()));
        }
        if self.all
            && *self
                != (Self {
                    all: true,
                    ..Self::default()
                })
        {
            return Err(FilterError("`all` goes with no other term".to_owned()));
        }
        Ok(())
    }
}

/// As [`Filter::parse`] reads it.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms = Vec::new();
        for (key, values) in [
            ("type", &self.types),
            ("state", &self.states),
            ("fingerprint", &self.fingerprints),
            ("reason", &self.reasons),
            ("id", &self.ids),
            ("object", &self.objects),
        ] {
            if !values.is_empty() {
                terms.push((key, values.join(",")));
            }
        }
        for (key, value) in [
            ("since", self.since.map(|at| at.to_string())),
            ("until", self.until.map(|at| at.to_string())),
            ("livemode", self.livemode.map(|live| live.to_string())),
            ("account", self.account.clone()),
            ("api_version", self.api_version.clone()),
            ("attempts", self.min_attempts.map(|least| least.to_string())),
        ] {
            terms.extend(value.map(|value| (key, value)));
        }
        let mut words: Vec<String> = terms.iter().map(|(key, value)| word(key, value)).collect();
        if self.all {
            words.push("all".to_owned());
        }
        f.write_str(&words.join(" "))
    }
}

fn word(key: &str, value: &str) -> String {
    if value.contains(char::is_whitespace) {
        format!("{key}:\"{value}\"")
    } else {
        format!("{key}:{value}")
    }
}

/// A duration before `now`, or an RFC 3339 time.
pub fn time(raw: &str, now: Timestamp) -> Result<Timestamp, FilterError> {
    if let Ok(at) = raw.parse() {
        return Ok(at);
    }
    let ago: Duration = duration(raw).map_err(|_| {
        let text = format!("`{raw}` is neither a duration (2h, 30m, 7d) nor an RFC 3339 time");
        FilterError(text)
    })?;
    now.checked_sub(ago)
        .map_err(|error| FilterError(error.to_string()))
}

fn add(values: &mut Vec<String>, raw: &str) {
    for value in raw.split(',').filter(|value| !value.is_empty()) {
        if !values.iter().any(|known| known == value) {
            values.push(value.to_owned());
        }
    }
}

fn merge<T>(mine: &mut Option<T>, theirs: Option<T>, key: &str) -> Result<(), FilterError> {
    match (mine.is_some(), theirs) {
        (true, Some(_)) => Err(FilterError(format!("`{key}` is given twice"))),
        (false, Some(value)) => {
            *mine = Some(value);
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

fn parsed<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, FilterError> {
    value
        .parse()
        .map_err(|_| FilterError(format!("`{key}:{value}` cannot be read")))
}

/// Words; a double quote begins and ends a stretch in which blanks do not separate.
fn split(text: &str) -> Result<Vec<String>, FilterError> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
            }
            c => word.push(c),
        }
    }
    if quoted {
        return Err(FilterError("a quote is not closed".to_owned()));
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn parse(text: &str) -> Result<Filter, String> {
        Filter::parse(text, now()).map_err(|error| error.to_string())
    }

    #[test]
    fn terms_and_values_are_read() {
        let filter = parse("type:charge.*,invoice.paid since:2h until:2026-01-02T02:00:00Z fingerprint:ab12 attempts:>=3 \
                            reason:order_not_found id:17,evt_1 livemode:false account:\"a b\"").unwrap();
        assert_eq!(filter.types, ["charge.*", "invoice.paid"]);
        assert_eq!(filter.since.unwrap().to_string(), "2026-01-02T01:04:05Z");
        assert_eq!(filter.until.unwrap().to_string(), "2026-01-02T02:00:00Z");
        assert_eq!(filter.fingerprints, ["ab12"]);
        assert_eq!(filter.reasons, ["order_not_found"]);
        assert_eq!((filter.letter_ids(), filter.ids.len()), (vec![17], 2));
        assert_eq!(
            (filter.livemode, filter.min_attempts),
            (Some(false), Some(3))
        );
        assert_eq!(filter.account.as_deref(), Some("a b"));
        assert!(!filter.names_only() && parse("id:1,2").unwrap().names_only());
    }

    #[test]
    fn what_is_printed_reads_as_the_same_filter() {
        for text in [
            "",
            "all",
            "type:charge.*,a.b state:dead,retrying fingerprint:f reason:r,s id:evt_1 object:pi_1,ord_1",
            "since:3d until:1h livemode:true account:\"x y\" api_version:2025-09-30.clover attempts:2",
        ] {
            let filter = parse(text).unwrap();
            assert_eq!(parse(&filter.to_string()).unwrap(), filter, "{text}");
            let json = serde_json::to_value(&filter).unwrap();
            assert_eq!(serde_json::from_value::<Filter>(json).unwrap(), filter);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, problem) in [
            ("charge", "not a term"),
            ("type:", "not a term"),
            ("colour:red", "no term `colour`"),
            ("state:gone", "no state `gone`"),
            ("since:soon", "neither a duration"),
            ("since:1h since:2h", "given twice"),
            ("since:1h until:2h", "not before"),
            ("all type:a", "no other term"),
            ("livemode:maybe", "cannot be read"),
            ("account:\"a", "not closed"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn flags_and_a_filter_add_up() {
        let both = parse("type:a").unwrap().and(parse("since:1h").unwrap());
        assert_eq!(both, Ok(parse("type:a since:1h").unwrap()));
        let twice = parse("since:1h").unwrap().and(parse("since:2h").unwrap());
        assert!(twice.is_err());
        assert!(!Filter::default().says_something() && parse("all").unwrap().says_something());
    }
}
