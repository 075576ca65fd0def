//! An event as a handler sees it. Tolerant: handlers name the fields they need, everything else may be anything.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::handlers::Failure;

/// A stored event.
#[derive(Debug)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// Such as `payment_intent.succeeded`.
    pub event_type: String,
    /// The connected account that it belongs to.
    pub account: Option<String>,
    /// When Stripe made it, to the second; when it came, where it does not say.
    pub created_at: Timestamp,
    /// The exact bytes that Stripe signed.
    pub body: Vec<u8>,
}

#[derive(Deserialize)]
struct Body<T> {
    data: Data<T>,
}

#[derive(Deserialize)]
struct Data<T> {
    object: T,
}

impl Event {
    /// Reads `data.object`.
    pub fn object<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let body: Body<T> = serde_json::from_slice(&self.body).map_err(|error| {
            let message = format!("data.object: {}", shared::json::describe(&error));
            Failure::permanent("invalid_payload", message)
        })?;
        Ok(body.data.object)
    }
}

/// The order ids that a shop put into an object's metadata.
pub fn order_ids(metadata: &Value) -> impl Iterator<Item = String> {
    ["order_id", "orderId"]
        .into_iter()
        .filter_map(|name| metadata.get(name)?.as_str())
        .filter_map(proper)
}

/// The id of a linked object: links are ids, or whole objects where they were expanded.
pub fn link(value: &Value) -> Option<String> {
    let id = match value {
        Value::Object(object) => object.get("id")?.as_str()?,
        other => other.as_str()?,
    };
    proper(id)
}

/// A text that can be looked up in the database.
pub fn proper(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_ids_come_under_both_names_and_only_as_proper_strings() {
        let ids = |metadata: Value| order_ids(&metadata).collect::<Vec<_>>();
        assert_eq!(ids(json!({ "orderId": "b", "order_id": "a" })), ["a", "b"]);
        assert!(ids(json!({ "order_id": "", "orderId": 7 })).is_empty());
        assert!(ids(json!({ "order_id": "a\0" })).is_empty());
        assert!(ids(Value::Null).is_empty());
    }

    #[test]
    fn links_are_ids_or_objects() {
        assert_eq!(link(&json!("pi_1")), Some("pi_1".to_owned()));
        assert_eq!(link(&json!({ "id": "pi_1" })), Some("pi_1".to_owned()));
        assert_eq!(link(&Value::Null), None);
    }
}
