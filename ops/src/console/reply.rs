//! Answers, and the headers that every one of them bears.

use std::convert::Infallible;
use std::time::Duration;

use askama::Template;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use tracing::error;

/// A body, whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Reply = Response<Body>;

/// On every answer. `Referrer-Policy` is `same-origin` and not `no-referrer`: under the latter browsers send `Origin: null` with
/// a form, and the check of where a change comes from would have nothing to fall back on.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        HeaderName::from_static("content-security-policy"),
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("referrer-policy"), "same-origin"),
    (HeaderName::from_static("x-frame-options"), "DENY"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=()",
    ),
];

/// Adds the headers of every answer; one that says nothing of caching is not stored.
pub fn secure(mut reply: Reply) -> Reply {
    let headers = reply.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    reply
}

/// A whole body of a type.
pub fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).boxed_unsync());
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A page.
pub fn page(status: StatusCode, template: &impl Template) -> Reply {
    match template.render() {
        Ok(html) => whole(status, "text/html; charset=utf-8", html),
        Err(error) => {
            error!(%error, "a page cannot be rendered");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "this page cannot be shown",
            )
        }
    }
}

/// Plain text.
pub fn text(status: StatusCode, text: &'static str) -> Reply {
    whole(status, "text/plain; charset=utf-8", text)
}

/// Sends the browser on after a change.
pub fn see_other(to: &str) -> Reply {
    let mut reply = text(StatusCode::SEE_OTHER, "");
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    reply.headers_mut().insert(LOCATION, to);
    reply
}

/// Says when to try again.
pub fn retry_after(mut reply: Reply, wait: Duration) -> Reply {
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    reply
        .headers_mut()
        .insert(hyper::header::RETRY_AFTER, seconds);
    reply
}
