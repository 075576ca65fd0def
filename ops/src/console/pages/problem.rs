//! What is shown in place of a page that cannot be.

use askama::Template;
use hyper::StatusCode;
use tracing::error;

use crate::OpsError;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;

#[derive(Template)]
#[template(path = "console/problem.html")]
struct Page {
    frame: Frame,
    title: &'static str,
    text: String,
    /// Where the form stands that was sent.
    back: Option<String>,
}

/// The page of a problem. What nobody expected is logged, and not told.
pub fn show(visit: &Visit, problem: &OpsError) -> Reply {
    let (status, title) = match problem {
        OpsError::Usage(_) => (StatusCode::BAD_REQUEST, "That cannot be meant"),
        OpsError::NotFound(_) => (StatusCode::NOT_FOUND, "Not found"),
        OpsError::Refused(_) => (StatusCode::CONFLICT, "Refused"),
        OpsError::NotPermitted(_) => (StatusCode::FORBIDDEN, "Not permitted"),
        OpsError::Conflict(_) => (StatusCode::CONFLICT, "Changed meanwhile"),
        OpsError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong"),
    };
    let text = match problem {
        OpsError::Unavailable(_) | OpsError::Unexpected(_) => {
            error!(path = visit.path, %problem, "a page failed");
            "The console's log tells more.".to_owned()
        }
        told => told.to_string(),
    };
    let page = Page {
        frame: Frame::new(visit, ""),
        title,
        text,
        back: Some(visit.here.clone()).filter(|here| visit.is_change && here != "/"),
    };
    reply::page(status, &page)
}
