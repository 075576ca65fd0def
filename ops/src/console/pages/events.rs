//! Events by filter, newest first, a page at a time.

use askama::Template;
use hyper::StatusCode;
use jiff::Timestamp;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::filter::{Filter, STATES};
use crate::page::Cursor;
use crate::store::events::Event;
use crate::store::search::{self, Found};

/// Rows of one page.
const PAGE: i64 = 50;

#[derive(Template)]
#[template(path = "console/events.html")]
struct Page {
    frame: Frame,
    /// As it was typed.
    filter: String,
    problem: Option<String>,
    states: Vec<Choice>,
    windows: Vec<Choice>,
    types: Vec<String>,
    events: Vec<Event>,
    /// Whether this is not the first page.
    further: bool,
    next: Option<String>,
    /// Where the looking ended before the page was full.
    looked_until: Option<Timestamp>,
    command: String,
}

/// A link that changes one term of the filter.
struct Choice {
    label: &'static str,
    link: String,
    chosen: bool,
}

const WINDOWS: [(&str, &str); 5] = [
    ("any time", ""),
    ("15 min", "15m"),
    ("2 h", "2h"),
    ("24 h", "24h"),
    ("7 d", "7d"),
];

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let typed = visit.query.get("filter").unwrap_or_default();
    let before = match visit.query.get("before") {
        Some(raw) => Some(
            raw.parse::<Cursor>()
                .map_err(|_| OpsError::Usage("this page has no such place".to_owned()))?,
        ),
        None => None,
    };
    let client = app.client().await?;
    let types = search::types(&client).await?;
    let (found, problem) = match Filter::parse(typed, visit.now) {
        Ok(filter) => {
            let found = search::look(&client, &filter, before.as_ref(), PAGE).await?;
            (found, None)
        }
        Err(problem) => (Found::default(), Some(problem.to_string())),
    };
    let rows = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let next = found.next.as_ref();
    let looked_until = next
        .filter(|_| found.events.len() < rows)
        .map(|next| next.at);
    let status = if problem.is_some() {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::OK
    };
    let page = Page {
        frame: Frame::new(visit, "events"),
        filter: typed.to_owned(),
        problem,
        states: states(typed),
        windows: windows(typed),
        types,
        next: next.map(|next| link_behind(typed, next)),
        looked_until,
        events: found.events,
        further: before.is_some(),
        command: command(typed),
    };
    Ok(reply::page(status, &page))
}

fn states(typed: &str) -> Vec<Choice> {
    let choice = |(label, value): (&'static str, &str)| choice(typed, label, "state", value);
    [("any", "")]
        .into_iter()
        .chain(STATES.map(|state| (state, state)))
        .map(choice)
        .collect()
}

fn windows(typed: &str) -> Vec<Choice> {
    WINDOWS
        .map(|(label, value)| choice(typed, label, "since", value))
        .into()
}

/// The filter with one term in place of what it says there now.
fn choice(typed: &str, label: &'static str, key: &str, value: &str) -> Choice {
    let is_term = |word: &&str| {
        word.strip_prefix(key)
            .is_some_and(|rest| rest.starts_with(':'))
    };
    let current = typed.split_whitespace().find(is_term);
    let term = format!("{key}:{value}");
    let chosen = match current {
        Some(current) => current == term,
        None => value.is_empty(),
    };
    let kept = typed.split_whitespace().filter(|word| !is_term(word));
    let words: Vec<&str> = kept
        .chain(Some(term.as_str()).filter(|_| !value.is_empty()))
        .collect();
    Choice {
        label,
        link: link(&words.join(" ")),
        chosen,
    }
}

/// The events of a filter.
pub fn link(filter: &str) -> String {
    if filter.is_empty() {
        "/events".to_owned()
    } else {
        format!("/events?filter={}", view::encoded(filter))
    }
}

fn link_behind(typed: &str, place: &Cursor) -> String {
    let place = view::encoded(&place.to_string());
    format!("/events?filter={}&before={place}", view::encoded(typed))
}

fn command(typed: &str) -> String {
    if typed.is_empty() {
        "ops events list".to_owned()
    } else {
        format!("ops events list --filter {}", view::quoted(typed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_replaces_its_term_and_keeps_the_others() {
        let chosen = choice(
            "type:a state:dead since:2h",
            "retrying",
            "state",
            "retrying",
        );
        assert_eq!(chosen.link, link("type:a since:2h state:retrying"));
        assert!(!chosen.chosen && choice("state:dead", "dead", "state", "dead").chosen);
        assert_eq!(choice("state:dead", "any", "state", "").link, "/events");
        assert!(choice("", "any", "state", "").chosen);
    }
}
