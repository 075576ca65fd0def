//! One request: route, read, verify, persist, answer. Nothing is parsed before it is verified, and 200 comes after the
//! commit.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use jiff::Timestamp;
use serde_json::json;
use shared::broker::Message;
use shared::http::{self, Answer};
use shared::signature::{self, SignatureError, SigningKey};
use shared::trace_context::TraceContext;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span};

use crate::client_limit::ClientLimit;
use crate::dispatch::Dispatcher;
use crate::envelope::Envelope;
use crate::metrics::Metrics;
use crate::refusal::{Refusal, Rejection, Unavailable};
use crate::store::{EventStore, Stored};

/// Requests that may wait for the database at a time.
const MAX_WAITING: usize = 512;
const HEALTH_PATH: &str = "/healthz";
const SIGNATURE_HEADER: &str = "stripe-signature";

/// What a request is held against.
pub struct Rules {
    /// Paths that take webhooks.
    pub webhook_paths: Vec<String>,
    /// Largest body.
    pub max_body_bytes: usize,
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
    keys: RwLock<Arc<[SigningKey]>>,
    failures: ClientLimit,
    store: EventStore,
    dispatcher: Dispatcher,
    waiting: Arc<Semaphore>,
    persisting: TaskTracker,
    metrics: Metrics,
}

impl Service {
    /// A service without requests yet.
    pub fn new(
        rules: Rules,
        keys: Vec<SigningKey>,
        failures: ClientLimit,
        store: EventStore,
        dispatcher: Dispatcher,
    ) -> Arc<Self> {
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let (persisting, metrics) = (TaskTracker::new(), Metrics::new());
        Arc::new(Self {
            rules,
            keys: RwLock::new(keys.into()),
            failures,
            store,
            dispatcher,
            waiting,
            persisting,
            metrics,
        })
    }

    /// Takes other keys for the requests to come.
    pub fn replace_keys(&self, keys: Vec<SigningKey>) {
        *self
            .keys
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = keys.into();
    }

    /// Forgets clients that fail no more.
    pub fn forget_calm_clients(&self) {
        self.failures.forget_calm_clients();
    }

    /// Waits for what is being persisted and published.
    pub async fn drain(&self) {
        self.persisting.close();
        self.persisting.wait().await;
        self.dispatcher.clone().drain().await;
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
            Ok((envelope, Stored::New { .. })) => ("accepted", accepted(&envelope.id, false)),
            Ok((envelope, Stored::Duplicate)) => ("duplicate", accepted(&envelope.id, true)),
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
    ) -> Result<(Envelope, Stored), Refusal> {
        let deadline = (started + self.rules.request_timeout).into();
        let (head, body) = request.into_parts();
        let body = timeout_at(deadline, self.read(body))
            .await
            .map_err(|_| Rejection::SlowBody)??;
        shared::failpoint!("gateway.after_read");
        self.verify(&head.headers, &body)
            .map_err(|cause| self.count_failure(peer, cause))?;
        let envelope = Envelope::read(&body).map_err(Rejection::InvalidPayload)?;
        let place = self
            .waiting
            .clone()
            .try_acquire_owned()
            .map_err(|_| Unavailable::TooManyWaiting)?;
        let span =
            info_span!("webhook", event_id = %envelope.id, event_type = %envelope.event_type);
        // hyper drops this future when the client leaves; the event must not be dropped with it.
        let this = self.clone();
        let persisting = self.persisting.spawn(
            async move {
                let stored = this.persist(&envelope, &body, started).await;
                drop(place);
                stored.map(|stored| (envelope, stored))
            }
            .instrument(span),
        );
        let persisted = timeout_at(deadline, persisting)
            .await
            .map_err(|_| Unavailable::Deadline)?;
        Ok(persisted.map_err(|_| Unavailable::Interrupted)??)
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Rejection> {
        let limit = self.rules.max_body_bytes;
        if body.size_hint().lower() > limit as u64 {
            return Err(Rejection::PayloadTooLarge);
        }
        match Limited::new(body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Rejection::PayloadTooLarge),
            Err(_) => Err(Rejection::BrokenBody),
        }
    }

    fn verify(&self, headers: &hyper::HeaderMap, body: &[u8]) -> Result<(), SignatureError> {
        let mut values = headers.get_all(SIGNATURE_HEADER).iter();
        let header = values.next().ok_or(SignatureError::Missing)?;
        let header = header.to_str().map_err(|_| SignatureError::Malformed)?;
        if values.next().is_some() {
            return Err(SignatureError::Malformed);
        }
        let keys = self
            .keys
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        signature::verify(
            header,
            body,
            &keys,
            Timestamp::now().as_second(),
            self.rules.signature_tolerance_s,
        )
    }

    fn count_failure(&self, peer: SocketAddr, cause: SignatureError) -> Rejection {
        match self.failures.count_failure(peer.ip()) {
            Ok(()) => cause.into(),
            Err(retry_after) => Rejection::RateLimited { retry_after },
        }
    }

    async fn persist(
        &self,
        envelope: &Envelope,
        body: &[u8],
        started: Instant,
    ) -> Result<Stored, Unavailable> {
        let trace = TraceContext::current_or_new();
        let traceparent = trace.traceparent();
        shared::failpoint!("gateway.before_insert");
        let stored = self.store.insert(envelope, body, &traceparent).await?;
        shared::failpoint!("gateway.after_commit");
        info!(
            event_id = envelope.id,
            event_type = envelope.event_type,
            duplicate = stored == Stored::Duplicate,
            trace_id = trace.trace_id(),
            took_us = started.elapsed().as_micros(),
            "webhook accepted"
        );
        if let Stored::New { outbox_id } = stored {
            let (event_id, event_type) = (envelope.id.clone(), envelope.event_type.clone());
            self.dispatcher.dispatch(
                Message {
                    event_id,
                    event_type,
                    traceparent: Some(traceparent),
                },
                outbox_id,
            );
        }
        Ok(stored)
    }
}

fn accepted(event_id: &str, duplicate: bool) -> Answer {
    http::json(
        StatusCode::OK,
        json!({ "received": true, "id": event_id, "duplicate": duplicate }).to_string(),
    )
}
