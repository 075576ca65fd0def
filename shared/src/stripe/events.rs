//! Stripe's list of events (docs.stripe.com/api/events/list): one request a page, newest first, 30 days back. Who asks
//! decides whether to ask again; an error says whether and when that makes sense.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ApiKey, KeyError};
use crate::https::{self, HttpsClient};

/// The most that Stripe gives at once.
const MAX_EVENTS: u8 = 100;
/// The largest answer, in bytes: a hundred events have some hundred kilobytes.
const MAX_ANSWER: usize = 64 << 20;
/// The longest text of Stripe's that an error repeats.
const MAX_MESSAGE: usize = 300;

/// The list of events, for one key. No `Stripe-Version` is sent: an event is shown as it was made, whatever the request
/// says.
pub struct EventsApi {
    client: HttpsClient,
    base: String,
    authorization: HeaderValue,
    timeout: Duration,
}

/// Which events.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Created then or later.
    pub since: Timestamp,
    /// Created then or earlier.
    pub until: Timestamp,
    /// Only those that some endpoint has not answered with 2xx, be it that they are still on their way.
    pub undelivered: bool,
    /// Only those behind this one, which are older.
    pub after: Option<&'a str>,
}

/// A page of events.
#[derive(Debug, Deserialize)]
pub struct Page {
    object: String,
    /// Each event's exact JSON text.
    #[serde(rename = "data")]
    pub events: Vec<Box<RawValue>>,
    /// Whether older ones follow.
    pub has_more: bool,
}

/// Why there is no page. No message holds the key.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer, or half of one.
    #[error("Stripe cannot be reached: {0}")]
    Unreachable(String),
    /// Too many requests, or trouble of Stripe's own.
    #[error("Stripe answers {status}{}", named(.request_id))]
    Busy {
        /// 409, 429 or 5xx.
        status: StatusCode,
        /// When to ask again.
        retry: Retry,
        /// Stripe's name of the request.
        request_id: Option<String>,
    },
    /// The key is unknown, expired, or may not read events.
    #[error("Stripe refuses the key with {status}{}: it must be active, and may need the permission to read events", named(.request_id))]
    Key {
        /// 401 or 403.
        status: StatusCode,
        /// Stripe's name of the request.
        request_id: Option<String>,
    },
    /// The request is wrong.
    #[error("Stripe refuses the request with {status}{}: {message}", named(.request_id))]
    Refused {
        /// Another 4xx.
        status: StatusCode,
        /// Stripe's words.
        message: String,
        /// Stripe's name of the request.
        request_id: Option<String>,
    },
    /// A 200 that is not a list of events.
    #[error("the answer is not Stripe's list of events{}: {problem}", named(.request_id))]
    Garbage {
        /// What is wrong with it.
        problem: String,
        /// Stripe's name of the request.
        request_id: Option<String>,
    },
}

/// When to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: Stripe said so, or nothing would change.
    Never,
    /// After a while.
    Soon,
    /// After this time.
    After(Duration),
}

impl ApiError {
    /// When to ask again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable(_) | Self::Garbage { .. } => Retry::Soon,
            Self::Busy { retry, .. } => *retry,
            Self::Key { .. } | Self::Refused { .. } => Retry::Never,
        }
    }
}

fn named(request_id: &Option<String>) -> String {
    let text = |id: &String| format!(" (request {id})");
    request_id.as_ref().map_or(String::new(), text)
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl EventsApi {
    /// The API at a URL without a slash at its end; each answer must be there within `timeout`.
    pub fn new(key: &ApiKey, base: &str, timeout: Duration) -> Result<Self, KeyError> {
        let bearer = format!("Bearer {}", key.reveal());
        let mut authorization: HeaderValue = bearer.parse().map_err(|_| KeyError::NotAKey)?;
        authorization.set_sensitive(true);
        Ok(Self {
            client: https::client().map_err(KeyError::Tls)?,
            base: base.to_owned(),
            authorization,
            timeout,
        })
    }

    /// Asks for a page, once.
    pub async fn page(&self, query: &Query<'_>) -> Result<Page, ApiError> {
        let unreachable = |error: &dyn std::error::Error| ApiError::Unreachable(innermost(error));
        let request = Request::get(format!("{}/v1/events?{}", self.base, parameters(query)))
            .header(AUTHORIZATION, &self.authorization)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("Tollgate/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|error| unreachable(&error))?;
        let asked = async {
            let answer = self.client.request(request).await;
            read(answer.map_err(|error| unreachable(&error))?).await
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => page(&answer?),
            Err(_) => Err(ApiError::Unreachable("no answer in time".to_owned())),
        }
    }
}

fn parameters(query: &Query<'_>) -> String {
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    parameters
        .append_pair("limit", &MAX_EVENTS.to_string())
        .append_pair("created[gte]", &query.since.as_second().to_string())
        .append_pair("created[lte]", &query.until.as_second().to_string());
    if query.undelivered {
        parameters.append_pair("delivery_success", "false");
    }
    if let Some(after) = query.after {
        parameters.append_pair("starting_after", after);
    }
    parameters.finish()
}

async fn read(answer: Response<Incoming>) -> Result<Answer, ApiError> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| ApiError::Unreachable(innermost(error.as_ref())))?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

/// The cause of the cause: what hyper says itself is only that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn page(answer: &Answer) -> Result<Page, ApiError> {
    let (status, request_id) = (answer.status, answer.text("request-id"));
    if status.is_success() {
        let garbage = |problem| ApiError::Garbage {
            problem,
            request_id,
        };
        return match serde_json::from_slice::<Page>(&answer.body) {
            Ok(page) if page.object == "list" => Ok(page),
            Ok(_) => Err(garbage("it is not a list".to_owned())),
            // Never serde's own words: they may repeat what is in the answer.
            Err(error) => Err(garbage(format!("not as expected at line {}", error.line()))),
        };
    }
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ApiError::Key { status, request_id },
        _ => match answer.retry() {
            Some(retry) => ApiError::Busy {
                status,
                retry,
                request_id,
            },
            None => ApiError::Refused {
                status,
                message: answer.message(),
                request_id,
            },
        },
    })
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorFields,
}

#[derive(Deserialize)]
struct ErrorFields {
    message: Option<String>,
}

impl Answer {
    fn text(&self, header: &str) -> Option<String> {
        let text = self.headers.get(header)?.to_str().ok()?;
        Some(text.chars().take(MAX_MESSAGE).collect())
    }

    /// When to ask again (docs.stripe.com/error-low-level, docs.stripe.com/rate-limits); none where the request is at
    /// fault. `Stripe-Should-Retry` goes before the status.
    fn retry(&self) -> Option<Retry> {
        let is_busy = self.status.is_server_error()
            || [StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS].contains(&self.status);
        let after = self.text("retry-after").and_then(|text| text.parse().ok());
        let retry = after.map_or(Retry::Soon, |s| Retry::After(Duration::from_secs(s)));
        match self.text("stripe-should-retry").as_deref() {
            Some("false") if is_busy => Some(Retry::Never),
            Some("true") => Some(retry),
            _ => is_busy.then_some(retry),
        }
    }

    fn message(&self) -> String {
        let body: Option<ErrorBody> = serde_json::from_slice(&self.body).ok();
        let message = body.and_then(|body| body.error.message);
        let message = message.unwrap_or_else(|| "it does not say why".to_owned());
        let plain = message.chars().filter(|c| !c.is_control());
        plain.take(MAX_MESSAGE).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers.iter();
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn an_event_is_kept_as_it_is_written() {
        let event = "{ \"id\":\"evt_1\",\n  \"amount\": 12345678901234567890, \"x\": 1.50, \"\\u00e9\": \"é\" }";
        let body =
            format!(r#"{{"object":"list","data":[{event}],"has_more":true,"url":"/v1/events"}}"#);
        let page = page(&answer(200, &[], &body)).unwrap();
        assert_eq!(page.events[0].get(), event);
        assert!(page.has_more);
    }

    #[test]
    fn each_answer_says_whether_and_when_to_ask_again() {
        const AFTER: (&str, &str) = ("retry-after", "7");
        const DO: (&str, &str) = ("stripe-should-retry", "true");
        const DO_NOT: (&str, &str) = ("stripe-should-retry", "false");
        let seven = Retry::After(Duration::from_secs(7));
        for (status, headers, retry) in [
            (500, &[] as &[_], Retry::Soon),
            (503, &[AFTER], seven),
            (429, &[AFTER], seven),
            (429, &[("retry-after", "soon")], Retry::Soon),
            (409, &[], Retry::Soon),
            (500, &[DO_NOT, AFTER], Retry::Never),
            (400, &[DO], Retry::Soon),
            (400, &[AFTER], Retry::Never),
            (401, &[], Retry::Never),
            (403, &[], Retry::Never),
            (302, &[], Retry::Never),
            (200, &[], Retry::Soon),
        ] {
            let error = page(&answer(status, headers, "<html>")).unwrap_err();
            assert_eq!(error.retry(), retry, "{status} {headers:?}: {error}");
        }
    }

    #[test]
    fn errors_name_the_request_and_say_what_stripe_says() {
        let body =
            r#"{"error":{"type":"invalid_request_error","message":"No such event: 'evt_x'\n"}}"#;
        let error = page(&answer(400, &[("request-id", "req_1")], body)).unwrap_err();
        let text = "Stripe refuses the request with 400 Bad Request (request req_1): No such event: 'evt_x'";
        assert_eq!(error.to_string(), text);
    }
}
