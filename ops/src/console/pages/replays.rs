//! Replays, newest first.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::store::replays::{self, Replay};

const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "console/replays.html")]
struct Page {
    frame: Frame,
    replays: Vec<Replay>,
    next: Option<String>,
}

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let below = match visit.query.get("before").map(str::parse) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return Err(OpsError::Usage("this page has no such place".to_owned())),
    };
    let client = app.client().await?;
    let most = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let mut replays = replays::list(&client, below, most).await?;
    let more = replays.len() > PAGE;
    replays.truncate(PAGE);
    let next = replays
        .last()
        .filter(|_| more)
        .map(|last| format!("/replays?before={}", last.id));
    let frame = Frame::new(visit, "replays");
    let page = Page {
        frame,
        replays,
        next,
    };
    Ok(reply::page(StatusCode::OK, &page))
}
