//! What this console runs with, and what it is connected to. Nothing is changed here.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::probes::Probe;
use crate::console::reply::{self, Reply};
use crate::console::shown::Setting;
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::store::console::server::{self, Server};

#[derive(Template)]
#[template(path = "console/settings.html")]
struct Page<'a> {
    frame: Frame,
    settings: &'a [Setting],
    version: &'static str,
    server: Server,
    services: Vec<(&'static str, Probe)>,
}

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let (gateways, workers) =
        tokio::join!(app.prober.ask(&app.gateways), app.prober.ask(&app.workers));
    let gateways = gateways.into_iter().map(|probe| ("gateway", probe));
    let workers = workers.into_iter().map(|probe| ("worker", probe));
    let page = Page {
        frame: Frame::new(visit, "settings"),
        settings: &app.settings,
        version: env!("CARGO_PKG_VERSION"),
        server: server::find(&app.client().await?).await?,
        services: gateways.chain(workers).collect(),
    };
    Ok(reply::page(StatusCode::OK, &page))
}
