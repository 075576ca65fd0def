//! One request: route, read, verify, persist, answer. Nothing is parsed before it is verified, and 200 comes after the
//! commit.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use shared::http::{self, Answer};
use shared::signature::{self, SignatureError, SigningKey};
use shared::trace_context::TraceContext;
use tokio::time::timeout_at;
use tracing::{Instrument, info_span};

use crate::body::{Bodies, Whole};
use crate::client_limit::ClientLimit;
use crate::envelope::Envelope;
use crate::metrics::Metrics;
use crate::refusal::{Refusal, Rejection, Unavailable};
use crate::rejections::Rejections;
use crate::writer::{Accepted, NewEvent, Writers};

const HEALTH_PATH: &str = "/healthz";
const SIGNATURE_HEADER: &str = "stripe-signature";

/// What a request is held against.
pub struct Rules {
    /// Paths that take webhooks.
    pub webhook_paths: Vec<String>,
    /// How bodies are read.
    pub bodies: Bodies,
    /// Deadline of a request.
    pub request_timeout: Duration,
    /// Seconds.
    pub signature_tolerance_s: u64,
    /// 400 or 401.
    pub invalid_signature_status: StatusCode,
}

/// What all requests share.
pub struct Service {
    rules: Rules,
    keys: RwLock<Keys>,
    failures: ClientLimit,
    rejections: Rejections,
    writers: Writers,
    metrics: Metrics,
}

/// What may have signed a webhook.
struct Keys {
    current: Arc<[SigningKey]>,
    /// Those replaced last. They open nothing: they only tell a secret that was rolled too early from a forgery.
    retired: Arc<[SigningKey]>,
}

const MAX_RETIRED_KEYS: usize = 4;

impl Service {
    /// A service without requests yet.
    pub fn new(
        rules: Rules,
        keys: Vec<SigningKey>,
        failures: ClientLimit,
        rejections: Rejections,
        writers: Writers,
    ) -> Arc<Self> {
        let keys = Keys {
            current: keys.into(),
            retired: Arc::new([]),
        };
        Arc::new(Self {
            rules,
            keys: RwLock::new(keys),
            failures,
            rejections,
            writers,
            metrics: Metrics::new(),
        })
    }

    /// Takes other keys for the requests to come.
    pub fn replace_keys(&self, new: Vec<SigningKey>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = keys.current.iter().chain(keys.retired.iter());
        *keys = Keys {
            retired: replaced.take(MAX_RETIRED_KEYS).cloned().collect(),
            current: new.into(),
        };
    }

    /// Forgets clients that fail no more.
    pub fn forget_calm_clients(&self) {
        self.failures.forget_calm_clients();
    }

    /// Answers a request.
    pub async fn handle(self: Arc<Self>, peer: SocketAddr, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if path == HEALTH_PATH {
            return match *request.method() {
                Method::GET | Method::HEAD => http::json(StatusCode::OK, r#"{"status":"ok"}"#),
                _ => self.refuse(&Rejection::MethodNotAllowed("GET, HEAD").into()),
            };
        }
        if !self
            .rules
            .webhook_paths
            .iter()
            .any(|webhook_path| webhook_path == path)
        {
            return self.refuse(&Rejection::NotFound.into());
        }
        if request.method() != Method::POST {
            return self.refuse(&Rejection::MethodNotAllowed("POST").into());
        }
        let started = Instant::now();
        let (outcome, answer) = match self.accept(peer, request, started).await {
            Ok(accepted) if accepted.duplicate => ("duplicate", received(&accepted)),
            Ok(accepted) => ("accepted", received(&accepted)),
            Err(refusal) => (refusal.reason(), self.refuse(&refusal)),
        };
        self.metrics.answered(outcome, started.elapsed());
        answer
    }

    fn refuse(&self, refusal: &Refusal) -> Answer {
        refusal.log();
        refusal.answer(self.rules.invalid_signature_status)
    }

    async fn accept(
        self: &Arc<Self>,
        peer: SocketAddr,
        request: Request<Incoming>,
        started: Instant,
    ) -> Result<Accepted, Refusal> {
        let deadline = (started + self.rules.request_timeout).into();
        let (head, body) = request.into_parts();
        let note = |rejection: &Rejection, body| self.rejections.note(rejection, peer, body);
        let Whole { bytes: body, share } = timeout_at(deadline, self.rules.bodies.read(body))
            .await
            .unwrap_or(Err(Rejection::SlowBody))
            .inspect_err(|rejection| note(rejection, None))?;
        shared::failpoint!("gateway.after_read");
        let envelope = self
            .open(peer, &head.headers, &body)
            .inspect_err(|rejection| note(rejection, Some(&body)))?;
        let span =
            info_span!("webhook", event_id = %envelope.id, event_type = %envelope.event_type);
        let persist = async {
            let event = NewEvent {
                envelope,
                body,
                _share: share,
                traceparent: TraceContext::current_or_new().traceparent(),
                started,
            };
            self.writers.persist(event).await
        };
        let persisted = timeout_at(deadline, persist.instrument(span)).await;
        Ok(persisted.map_err(|_| Unavailable::Deadline)??)
    }

    /// Verifies a body, then reads what is needed of it.
    fn open(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Envelope, Rejection> {
        let header = signature_header(headers);
        header
            .and_then(|header| self.verify(header, body))
            .map_err(|cause| self.failed(peer, cause, header, body))?;
        Envelope::read(body).map_err(Rejection::InvalidPayload)
    }

    fn verify(&self, header: &str, body: &[u8]) -> Result<(), SignatureError> {
        let keys = self.keys().current.clone();
        self.verify_with(&keys, header, body)
    }

    fn verify_with(
        &self,
        keys: &[SigningKey],
        header: &str,
        body: &[u8],
    ) -> Result<(), SignatureError> {
        let (now, tolerance) = (
            Timestamp::now().as_second(),
            self.rules.signature_tolerance_s,
        );
        signature::verify(header, body, keys, now, tolerance)
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failed verification, and says what it was.
    fn failed(
        &self,
        peer: SocketAddr,
        cause: SignatureError,
        header: Result<&str, SignatureError>,
        body: &[u8],
    ) -> Rejection {
        if let Err(retry_after) = self.failures.count_failure(peer.ip()) {
            return Rejection::RateLimited { retry_after };
        }
        match (cause, header) {
            (SignatureError::Mismatch, Ok(header)) => {
                let retired = self.keys().retired.clone();
                match self.verify_with(&retired, header, body) {
                    Ok(()) | Err(SignatureError::Stale) => Rejection::RetiredSecret,
                    Err(_) => cause.into(),
                }
            }
            _ => cause.into(),
        }
    }
}

fn signature_header(headers: &HeaderMap) -> Result<&str, SignatureError> {
    let mut values = headers.get_all(SIGNATURE_HEADER).iter();
    let header = values.next().ok_or(SignatureError::Missing)?;
    if values.next().is_some() {
        return Err(SignatureError::Malformed);
    }
    header.to_str().map_err(|_| SignatureError::Malformed)
}

/// What the sender of an accepted event learns.
#[derive(Serialize)]
struct Received<'a> {
    received: bool,
    id: &'a str,
    duplicate: bool,
}

fn received(accepted: &Accepted) -> Answer {
    let body = Received {
        received: true,
        id: &accepted.id,
        duplicate: accepted.duplicate,
    };
    let body = serde_json::to_vec(&body).unwrap_or_else(|_| unreachable!("a string is JSON"));
    http::json(StatusCode::OK, body)
}
