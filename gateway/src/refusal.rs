//! Every answer but 200: what the sender learns, what the metrics count, and how loud the log is, in one place.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER};
use serde_json::json;
use shared::database::StoreError;
use shared::http::{self, Answer};
use shared::signature::SignatureError;

use crate::envelope::EnvelopeError;

/// Why a request is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The sender's fault: the same request will not do better.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Ours: the same request may do better soon.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The sender's fault.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Not signed by Stripe for this endpoint, or too long ago.
    #[error(transparent)]
    InvalidSignature(#[from] SignatureError),
    /// Signed with a secret that is not taken any more.
    #[error("signed with a secret that was replaced")]
    RetiredSecret,
    /// Signed, but not an event.
    #[error(transparent)]
    InvalidPayload(#[from] EnvelopeError),
    /// The body ended early or broke HTTP's rules.
    #[error("the body could not be read")]
    BrokenBody,
    /// The body dripped past the deadline.
    #[error("the body did not arrive in time")]
    SlowBody,
    /// Over the limit.
    #[error("the body is too large")]
    PayloadTooLarge,
    /// The path takes another method.
    #[error("the path takes only {0}")]
    MethodNotAllowed(&'static str),
    /// No such path.
    #[error("no such path")]
    NotFound,
    /// Too many requests of this client failed verification.
    #[error("too many failed verifications from this client")]
    RateLimited {
        /// When the next one may come.
        retry_after: Duration,
    },
}

/// Our fault.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The database is away, read-only or too slow, or refused the write.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The database is known to be away: nothing was tried.
    #[error("the database is away")]
    DatabaseLost,
    /// As many requests as may wait for the database do so already.
    #[error("too many requests wait for the database")]
    TooManyWaiting,
    /// The request's deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// The task that persists the event ended without a result.
    #[error("the event could not be persisted")]
    Interrupted,
}

/// What a kind of refusal looks like from outside and inside.
struct Look {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    /// The metric's label and the log's reason.
    reason: &'static str,
}

impl Look {
    /// The code says it all, also to the metrics.
    fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
            reason: code,
        }
    }

    fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }
}

fn unverified(status: StatusCode) -> Look {
    let message = "the signature could not be verified";
    Look::new(status, "invalid_signature", message)
}

impl Rejection {
    /// The metric's label, and the cause under which it is stored.
    pub fn reason(&self) -> &'static str {
        self.look(StatusCode::BAD_REQUEST).reason
    }

    fn look(&self, invalid_signature_status: StatusCode) -> Look {
        match self {
            Self::InvalidSignature(cause) => {
                unverified(invalid_signature_status).because(match cause {
                    SignatureError::Missing => "signature_missing",
                    SignatureError::Malformed => "signature_malformed",
                    SignatureError::Mismatch => "signature_mismatch",
                    SignatureError::Stale => "signature_stale",
                })
            }
            Self::RetiredSecret => {
                unverified(invalid_signature_status).because("signature_retired")
            }
            Self::InvalidPayload(_) => {
                let message = "the body must be a JSON object with string `id` and `type`";
                Look::new(StatusCode::BAD_REQUEST, "invalid_payload", message)
            }
            Self::BrokenBody => {
                let message = "the body could not be read";
                Look::new(StatusCode::BAD_REQUEST, "invalid_payload", message)
                    .because("broken_body")
            }
            Self::SlowBody => {
                let message = "the body did not arrive in time";
                Look::new(StatusCode::REQUEST_TIMEOUT, "invalid_payload", message)
                    .because("slow_body")
            }
            Self::PayloadTooLarge => Look::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                "the body is too large",
            ),
            Self::MethodNotAllowed(_) => {
                let message = "this path does not take this method";
                Look::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    message,
                )
            }
            Self::NotFound => Look::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing at this path",
            ),
            Self::RateLimited { .. } => {
                let message = "too many requests that could not be verified";
                Look::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            }
        }
    }
}

impl Unavailable {
    fn look(&self) -> Look {
        let message = "the event could not be stored now, send it again later";
        Look::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).because(match self {
            Self::Store(_) | Self::DatabaseLost => "database",
            Self::TooManyWaiting => "too_many_waiting",
            Self::Deadline => "deadline",
            Self::Interrupted => "interrupted",
        })
    }
}

impl Refusal {
    fn look(&self, invalid_signature_status: StatusCode) -> Look {
        match self {
            Self::Rejected(rejection) => rejection.look(invalid_signature_status),
            Self::Unavailable(unavailable) => unavailable.look(),
        }
    }

    /// The metric's label.
    pub fn reason(&self) -> &'static str {
        self.look(StatusCode::BAD_REQUEST).reason
    }

    /// The answer, without internals.
    pub fn answer(&self, invalid_signature_status: StatusCode) -> Answer {
        let look = self.look(invalid_signature_status);
        let body = json!({ "error": { "code": look.code, "message": look.message } });
        let mut answer = http::json(look.status, body.to_string());
        let headers = answer.headers_mut();
        match self {
            Self::Rejected(Rejection::MethodNotAllowed(allowed)) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Rejected(Rejection::RateLimited { retry_after }) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs() + 1));
            }
            Self::Rejected(
                Rejection::PayloadTooLarge | Rejection::SlowBody | Rejection::BrokenBody,
            ) => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Unavailable(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Rejected(_) => {}
        }
        answer
    }

    /// Logs it once: ours loudly, the sender's quietly.
    pub fn log(&self) {
        let reason = self.reason();
        match self {
            Self::Unavailable(cause) => tracing::error!(reason, error = %cause, "webhook refused"),
            Self::Rejected(Rejection::NotFound | Rejection::MethodNotAllowed(_)) => {
                tracing::debug!(reason, "request refused");
            }
            Self::Rejected(cause) => tracing::warn!(reason, error = %cause, "webhook refused"),
        }
    }
}
