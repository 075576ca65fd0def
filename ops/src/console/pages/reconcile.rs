//! Reconciliations with Stripe's list of events, newest first.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::store::reconciliations::{self, Reconciliation};

const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "console/reconcile.html")]
struct Page {
    frame: Frame,
    runs: Vec<Reconciliation>,
    next: Option<String>,
}

impl Page {
    /// How long a run took, or runs by now.
    fn took(&self, run: &Reconciliation) -> String {
        let end = run.finished_at.unwrap_or(self.frame.now);
        view::seconds(&end.duration_since(run.started_at).as_secs_f64().max(0.0))
    }
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
    let mut runs = reconciliations::list(&client, below, most).await?;
    let more = runs.len() > PAGE;
    runs.truncate(PAGE);
    let next = runs
        .last()
        .filter(|_| more)
        .map(|last| format!("/reconcile?before={}", last.id));
    let frame = Frame::new(visit, "reconcile");
    Ok(reply::page(StatusCode::OK, &Page { frame, runs, next }))
}
