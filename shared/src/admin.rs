//! The admin listener of a service: `/livez`, `/readyz`, `/metrics`. Meant for loopback or a private network.

use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::health::Health;
use crate::http::{self, Answer, Limits, json};

const LIMITS: Limits = Limits {
    max_connections: 64,
    header_timeout: Duration::from_secs(5),
    drain: Duration::from_secs(1),
};

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Registry,
    shutdown: CancellationToken,
) {
    http::serve(listener, LIMITS, shutdown, move |_, request| {
        let answer = answer(request.method(), request.uri().path(), &health, &metrics);
        async move { answer }
    })
    .await;
}

fn answer(method: &Method, path: &str, health: &Health, metrics: &Registry) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return json(StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"only GET"}"#);
    }
    match path {
        "/livez" => json(StatusCode::OK, r#"{"status":"ok"}"#),
        "/readyz" => {
            let status = if health.is_ready() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            json(status, health.report().to_string())
        }
        "/metrics" => exposition(metrics),
        _ => json(
            StatusCode::NOT_FOUND,
            r#"{"error":"try /livez, /readyz or /metrics"}"#,
        ),
    }
}

fn exposition(metrics: &Registry) -> Answer {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&metrics.gather(), &mut text) {
        Ok(()) => http::with_type(
            StatusCode::OK,
            text,
            HeaderValue::from_static(prometheus::TEXT_FORMAT),
        ),
        Err(error) => {
            error!(%error, "metrics cannot be encoded");
            json(
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"{"error":"metrics cannot be encoded"}"#,
            )
        }
    }
}
