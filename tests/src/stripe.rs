//! A client that behaves like Stripe: it signs each delivery afresh and posts it.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use shared::signature::SigningKey;

/// The endpoint secret of all tests.
pub const SECRET: &str = "whsec_test_secret";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers by lower-case name.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null where it is none.
    pub body: Value,
}

impl Answer {
    /// The error's code.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// A fresh event id.
pub fn event_id() -> String {
    format!("evt_{:032x}", rand::random::<u128>())
}

/// An event's body.
pub fn event(id: &str, event_type: &str, object: &Value) -> String {
    let created = Timestamp::now().as_second();
    let event = json!({ "id": id, "object": "event", "api_version": "2025-09-30.clover", "created": created,
        "data": { "object": object }, "livemode": false, "pending_webhooks": 1, "type": event_type,
        "request": { "id": null, "idempotency_key": null } });
    format!("{event:#}")
}

/// A PaymentIntent of an order over 50.00 USD.
pub fn payment_intent(order: &str) -> Value {
    json!({ "id": format!("pi_{order}"), "object": "payment_intent", "amount": 5000, "amount_received": 5000,
        "currency": "usd", "metadata": { "order_id": order }, "last_payment_error":
        { "code": "card_declined", "decline_code": "insufficient_funds", "message": "Your card has insufficient funds." } })
}

/// A Charge of an order over 50.00 USD, of which some was refunded.
pub fn charge(order: &str, amount_refunded: i64) -> Value {
    json!({ "id": format!("ch_{order}"), "object": "charge", "amount": 5000, "amount_captured": 5000, "captured": true,
        "amount_refunded": amount_refunded, "refunded": amount_refunded == 5000, "currency": "usd",
        "payment_intent": format!("pi_{order}"), "metadata": {} })
}

/// A paid Checkout Session of an order over 50.00 USD.
pub fn session(order: &str) -> Value {
    json!({ "id": format!("cs_test_{order}"), "object": "checkout.session", "mode": "payment", "payment_status": "paid",
        "amount_total": 5000, "currency": "usd", "client_reference_id": order,
        "payment_intent": format!("pi_{order}"), "metadata": {} })
}

/// A `Stripe-Signature` header made now.
pub fn signature(body: &[u8]) -> String {
    SigningKey::new(SECRET).sign(Timestamp::now().as_second(), body)
}

/// Posts a signed body to the usual path.
pub async fn post(gateway: SocketAddr, body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    let header = signature(&body);
    post_with(gateway, "/webhooks/stripe", Some(&header), body).await
}

/// Posts a body with any header to any path.
pub async fn post_with(
    gateway: SocketAddr,
    path: &str,
    header: Option<&str>,
    body: impl Into<Vec<u8>>,
) -> Answer {
    let request = client()
        .post(format!("http://{gateway}{path}"))
        .body(body.into());
    let request = match header {
        Some(header) => request.header("stripe-signature", header),
        None => request,
    };
    send(request).await
}

/// Asks for a path.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(client().get(format!("http://{address}{path}"))).await
}

/// Sends any request.
pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("the request is answered");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap_or_default();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer {
        status,
        headers,
        body,
    }
}

/// An HTTP client without connections yet.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .build()
        .expect("a client")
}
