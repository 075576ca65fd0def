//! One replay: how far it is, what became of each event, and its switches.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::auth::Role;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::filter::Filter;
use crate::store::replays::{self, Item, Replay, Step};

const PAGE: usize = 50;
/// What an item can have come to.
const OUTCOMES: [&str; 5] = ["waiting", "replayed", "processed", "dead_again", "skipped"];

#[derive(Template)]
#[template(path = "console/replay.html")]
struct Page {
    frame: Frame,
    replay: Replay,
    filter: String,
    outcome: Option<&'static str>,
    items: Vec<Item>,
    next: Option<String>,
}

impl Page {
    /// Whether there is anything to look for still.
    fn moves(&self) -> bool {
        !self.replay.is_over() || self.replay.in_flight > 0
    }

    /// Whether a part of the way back is left.
    fn sends(&self) -> bool {
        ["planned", "running", "paused"].contains(&self.replay.state.as_str())
    }

    fn left(&self) -> String {
        let left = f64::from(self.replay.planned - self.replay.done);
        view::seconds(&(left / f64::from(self.replay.rate_per_s)))
    }

    fn is_chosen(&self, outcome: &str) -> bool {
        self.outcome == Some(outcome)
    }
}

fn number(raw: &str) -> Result<i64, OpsError> {
    let number = raw.parse();
    number.map_err(|_| OpsError::NotFound(format!("there is no replay {raw}")))
}

/// The page.
pub async fn show(app: &App, visit: &Visit, id: &str) -> Result<Reply, OpsError> {
    let id = number(id)?;
    let client = app.client().await?;
    let replay = replays::find(&client, id)
        .await?
        .ok_or_else(|| OpsError::NotFound(format!("there is no replay {id}")))?;
    let chosen = visit.query.get("outcome");
    let outcome = OUTCOMES
        .into_iter()
        .find(|outcome| Some(*outcome) == chosen);
    let above = visit
        .query
        .get("above")
        .and_then(|raw| raw.parse().ok())
        .unwrap_or(0);
    let most = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let mut items = replays::items(&client, id, outcome, above, most).await?;
    let more = items.len() > PAGE;
    items.truncate(PAGE);
    let next = items.last().filter(|_| more).map(|last| {
        let outcome = outcome.unwrap_or_default();
        format!("/replays/{id}?outcome={outcome}&above={}", last.position)
    });
    let filter: Option<Filter> = serde_json::from_value(replay.filter.clone()).ok();
    let page = Page {
        frame: Frame::new(visit, "replays"),
        filter: filter.map_or_else(|| replay.filter.to_string(), |filter| filter.to_string()),
        replay,
        outcome,
        items,
        next,
    };
    Ok(reply::page(StatusCode::OK, &page))
}

/// Pauses, resumes or cancels it.
pub async fn take(app: &App, visit: &Visit, id: &str, step: &str) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let step = match step {
        "pause" => Step::Pause,
        "resume" => Step::Resume,
        "cancel" => Step::Cancel,
        _ => return Err(OpsError::NotFound("there is no such page".to_owned())),
    };
    let id = number(id)?;
    let client = app.client().await?;
    if replays::take(&client, id, step, &visit.who.name, visit.reason()?).await? {
        return Ok(reply::see_other(&format!("/replays/{id}")));
    }
    match replays::find(&client, id).await? {
        None => Err(OpsError::NotFound(format!("there is no replay {id}"))),
        Some(replay) => Err(OpsError::Conflict(format!(
            "replay {id} is {}: it cannot become {}",
            replay.state,
            step.state()
        ))),
    }
}
