//! The ids that an event speaks of, so that all events of one order can be found. Pure.

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
struct Data {
    #[serde(default)]
    object: Object,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    payment_intent: Value,
    #[serde(default)]
    charge: Value,
    #[serde(default)]
    client_reference_id: Value,
    #[serde(default)]
    metadata: Value,
}

/// The longest id that is kept.
const MAX_ID: usize = 255;

/// The ids of an event's object: the order's first, then its own, its payment's and its charge's. None where the body is
/// not one with an object.
pub fn object_ids(body: &[u8]) -> Vec<String> {
    let Ok(Body {
        data: Data { object },
    }) = serde_json::from_slice(body)
    else {
        return Vec::new();
    };
    let mut ids: Vec<String> = Vec::new();
    for value in [
        object.metadata.get("order_id"),
        object.metadata.get("orderId"),
        Some(&object.client_reference_id),
        Some(&object.id),
        Some(&object.payment_intent),
        Some(&object.charge),
    ] {
        let id = value.and_then(|value| match value {
            Value::Object(linked) => linked.get("id")?.as_str(),
            other => other.as_str(),
        });
        let proper = |id: &&str| !id.is_empty() && id.len() <= MAX_ID && !id.contains('\0');
        if let Some(id) = id.filter(proper)
            && !ids.iter().any(|known| known == id)
        {
            ids.push(id.to_owned());
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_id_comes_first_and_none_twice() {
        let body =
            br#"{"data":{"object":{"id":"ch_1","payment_intent":{"id":"pi_1"},"charge":"ch_1",
            "client_reference_id":null,"metadata":{"orderId":"o_1"}}}}"#;
        assert_eq!(object_ids(body), ["o_1", "ch_1", "pi_1"]);
    }

    #[test]
    fn anything_else_has_none() {
        for body in [
            &b"{"[..],
            b"[]",
            b"{}",
            br#"{"data":{"object":{"id":7,"metadata":[]}}}"#,
        ] {
            assert!(object_ids(body).is_empty());
        }
    }
}
