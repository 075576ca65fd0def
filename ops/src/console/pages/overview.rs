//! How things stand, live, with three charts of the last hour.

use std::sync::Arc;

use askama::Template;
use hyper::StatusCode;
use serde_json::json;

use crate::OpsError;
use crate::console::app::App;
use crate::console::live::{Age, Facts, Snapshot};
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;

#[derive(Template)]
#[template(path = "console/overview.html")]
struct Page {
    frame: Frame,
    snapshot: Arc<Snapshot>,
}

impl Page {
    fn facts(&self) -> &Facts {
        &self.snapshot.facts
    }

    /// The oldest unfinished event's age at the end of a minute, as far as this process saw it.
    fn age_in(&self, minute: &jiff::Timestamp) -> String {
        let within =
            |age: &&Age| age.at.as_second().div_euclid(60) == minute.as_second().div_euclid(60);
        let last = self.facts().ages.iter().rev().find(within);
        last.map_or("–".to_owned(), |age| view::seconds(&age.seconds))
    }
}

/// The page.
pub fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let page = Page {
        frame: Frame::new(visit, "overview"),
        snapshot: app.live.newest(),
    };
    Ok(reply::page(StatusCode::OK, &page))
}

/// The charts' data: seconds since the epoch, and a series each.
pub fn charts(app: &App) -> Reply {
    let snapshot = app.live.newest();
    let Facts { minutes, ages, .. } = &snapshot.facts;
    let series = json!({
        "at": minutes.iter().map(|minute| minute.at.as_second()).collect::<Vec<_>>(),
        "received": minutes.iter().map(|minute| minute.received).collect::<Vec<_>>(),
        "processed": minutes.iter().map(|minute| minute.processed).collect::<Vec<_>>(),
        "dead": minutes.iter().map(|minute| minute.dead).collect::<Vec<_>>(),
        "median_s": minutes.iter().map(|minute| minute.median_s).collect::<Vec<_>>(),
        "p95_s": minutes.iter().map(|minute| minute.p95_s).collect::<Vec<_>>(),
        "p99_s": minutes.iter().map(|minute| minute.p99_s).collect::<Vec<_>>(),
        "age_at": ages.iter().map(|age| age.at.as_second()).collect::<Vec<_>>(),
        "age_s": ages.iter().map(|age| age.seconds).collect::<Vec<_>>(),
    });
    reply::whole(StatusCode::OK, "application/json", series.to_string())
}
