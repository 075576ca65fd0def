//! Who did what, and why.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::store::console::audit::{self, Entry, Filter};

const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "console/audit.html")]
struct Page {
    frame: Frame,
    actor: String,
    action: String,
    event: String,
    actions: Vec<String>,
    entries: Vec<Entry>,
    next: Option<String>,
}

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let before = match visit.query.get("before").map(str::parse) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return Err(OpsError::Usage("this page has no such place".to_owned())),
    };
    let filter = Filter {
        actor: visit.query.get("actor"),
        action: visit.query.get("action"),
        event_id: visit.query.get("event"),
        before,
    };
    let client = app.client().await?;
    let most = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let mut entries = audit::list(&client, &filter, most).await?;
    let more = entries.len() > PAGE;
    entries.truncate(PAGE);
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let (actor, action, event) = (
        text(filter.actor),
        text(filter.action),
        text(filter.event_id),
    );
    let query = |name: &str, value: &str| format!("{name}={}", view::encoded(value));
    let next = entries.last().filter(|_| more).map(|last| {
        let terms = [
            query("actor", &actor),
            query("action", &action),
            query("event", &event),
            query("before", &last.id.to_string()),
        ];
        format!("/audit?{}", terms.join("&"))
    });
    let page = Page {
        frame: Frame::new(visit, "audit"),
        actor,
        action,
        event,
        actions: audit::actions(&client).await?,
        entries,
        next,
    };
    Ok(reply::page(StatusCode::OK, &page))
}
