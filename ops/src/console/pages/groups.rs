//! Dead letters by cause.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::store::console::groups::{self, Group};
use crate::triage::STATES;

const MOST: i64 = 200;

#[derive(Template)]
#[template(path = "console/groups.html")]
struct Page {
    frame: Frame,
    state: Option<&'static str>,
    groups: Vec<Group>,
}

impl Page {
    fn is_chosen(&self, state: &str) -> bool {
        self.state == Some(state)
    }
}

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let state = match visit.query.get("state") {
        None => None,
        Some(word) => Some(state(word)?),
    };
    let client = app.client().await?;
    let page = Page {
        frame: Frame::new(visit, "dead-letters"),
        state,
        groups: groups::list(&client, state, MOST).await?,
    };
    Ok(reply::page(StatusCode::OK, &page))
}

/// The state of a word.
pub fn state(word: &str) -> Result<&'static str, OpsError> {
    STATES
        .into_iter()
        .find(|state| *state == word)
        .ok_or_else(|| OpsError::Usage(format!("a group is one of {}", STATES.join(", "))))
}
