//! Lists of Stripe's API (docs.stripe.com/api/pagination): one request a page. An error says whether and when asking again
//! makes sense.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::info;

use super::{ApiKey, KeyError};
use crate::backoff::Backoff;
use crate::https::{self, HttpsClient};

/// The most that Stripe gives at once.
pub(super) const MAX_LISTED: &str = "100";
/// The largest answer, in bytes: a hundred events have some hundred kilobytes.
const MAX_ANSWER: usize = 64 << 20;
/// Between two pages: a tenth of the requests that Stripe allows in live mode.
pub const BREATH: Duration = Duration::from_millis(100);
/// Times that a page is asked for.
const MAX_TRIES: u32 = 6;
/// Whoever asks for more patience than this is not asked again.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The longest text of Stripe's that an error repeats.
const MAX_MESSAGE: usize = 300;

/// The API, for one key.
pub struct StripeApi {
    client: HttpsClient,
    base: String,
    authorization: HeaderValue,
    timeout: Duration,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub struct Page<T> {
    object: String,
    /// What is listed, newest first.
    pub data: Vec<T>,
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
    /// The key is unknown, expired, or may not read this list.
    #[error("Stripe refuses the key with {status}{}: it must be active, and may need the permission to read {what}", named(.request_id))]
    Key {
        /// 401 or 403.
        status: StatusCode,
        /// What is listed.
        what: &'static str,
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
    /// A 200 that is not the list.
    #[error("the answer is not Stripe's list of {what}{}: {problem}", named(.request_id))]
    Garbage {
        /// What is listed.
        what: &'static str,
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

impl StripeApi {
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

    /// Asks for a page of a list, once. `what` is its name in the API's paths and in errors.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        what: &'static str,
        parameters: &str,
    ) -> Result<Page<T>, ApiError> {
        let unreachable = |error: &dyn std::error::Error| ApiError::Unreachable(innermost(error));
        let request = Request::get(format!("{}/v1/{what}?{parameters}", self.base))
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
            Ok(answer) => page(what, &answer?),
            Err(_) => Err(ApiError::Unreachable("no answer in time".to_owned())),
        }
    }

    /// The same until Stripe gives it, as patiently as Stripe asks for.
    pub(super) async fn list_patiently<T: DeserializeOwned>(
        &self,
        what: &'static str,
        parameters: &str,
    ) -> Result<Page<T>, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        for _ in 1..MAX_TRIES {
            let error = match self.list(what, parameters).await {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            let Some(wait) = patience(&error, backoff.next_delay()) else {
                return Err(error);
            };
            info!(%error, wait_ms = wait.as_millis(), "Stripe is asked again");
            tokio::time::sleep(wait).await;
        }
        self.list(what, parameters).await
    }
}

/// How long to wait before the next try; none where none is due.
fn patience(error: &ApiError, delay: Duration) -> Option<Duration> {
    match error.retry() {
        Retry::Never => None,
        Retry::Soon => Some(delay),
        Retry::After(wait) => Some(wait.max(delay)).filter(|wait| *wait <= MAX_WAIT),
    }
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

fn page<T: DeserializeOwned>(what: &'static str, answer: &Answer) -> Result<Page<T>, ApiError> {
    let (status, request_id) = (answer.status, answer.text("request-id"));
    if status.is_success() {
        let garbage = |problem| ApiError::Garbage {
            what,
            problem,
            request_id,
        };
        return match serde_json::from_slice::<Page<T>>(&answer.body) {
            Ok(page) if page.object == "list" => Ok(page),
            Ok(_) => Err(garbage("it is not a list".to_owned())),
            // Never serde's own words: they may repeat what is in the answer.
            Err(error) => Err(garbage(format!("not as expected at line {}", error.line()))),
        };
    }
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ApiError::Key {
            status,
            what,
            request_id,
        },
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
    use serde_json::value::RawValue;

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

    fn events(answer: &Answer) -> Result<Page<Box<RawValue>>, ApiError> {
        page("events", answer)
    }

    #[test]
    fn an_event_is_kept_as_it_is_written() {
        let event = "{ \"id\":\"evt_1\",\n  \"amount\": 12345678901234567890, \"x\": 1.50, \"\\u00e9\": \"é\" }";
        let body =
            format!(r#"{{"object":"list","data":[{event}],"has_more":true,"url":"/v1/events"}}"#);
        let page = events(&answer(200, &[], &body)).unwrap();
        assert_eq!(page.data[0].get(), event);
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
            let error = events(&answer(status, headers, "<html>")).unwrap_err();
            assert_eq!(error.retry(), retry, "{status} {headers:?}: {error}");
        }
    }

    #[test]
    fn errors_name_the_request_and_say_what_stripe_says() {
        let body =
            r#"{"error":{"type":"invalid_request_error","message":"No such event: 'evt_x'\n"}}"#;
        let error = events(&answer(400, &[("request-id", "req_1")], body)).unwrap_err();
        let text = "Stripe refuses the request with 400 Bad Request (request req_1): No such event: 'evt_x'";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn patience_is_bounded_and_never_shorter_than_asked_for() {
        let busy = |retry| ApiError::Busy {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry,
            request_id: None,
        };
        let seconds = Duration::from_secs;
        for (error, wait) in [
            (busy(Retry::Soon), Some(seconds(2))),
            (busy(Retry::After(seconds(1))), Some(seconds(2))),
            (busy(Retry::After(seconds(9))), Some(seconds(9))),
            (busy(Retry::After(seconds(61))), None),
            (busy(Retry::Never), None),
            (ApiError::Unreachable(String::new()), Some(seconds(2))),
        ] {
            assert_eq!(patience(&error, seconds(2)), wait, "{error:?}");
        }
    }
}
