//! Realistic Stripe events, made from templates in `ops/events`. Pure.

use serde_json::{Map, Value};

macro_rules! templates {
    ($($event_type:literal),* $(,)?) => {
        &[$(($event_type, include_str!(concat!("../events/", $event_type, ".json")))),*]
    };
}

/// Every type that can be triggered, with its template.
const TEMPLATES: &[(&str, &str)] = templates![
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.refunded",
    "charge.succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.updated",
    "invoice.paid",
    "invoice.payment_failed",
    "payment_intent.amount_capturable_updated",
    "payment_intent.canceled",
    "payment_intent.payment_failed",
    "payment_intent.processing",
    "payment_intent.requires_action",
    "payment_intent.succeeded",
    "refund.created",
    "refund.failed",
    "thin",
];

/// The types that have a template.
pub fn types() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(event_type, _)| *event_type)
}

/// An event's body, as Stripe prints it. `None` where there is no template; a type without one can still be sent with
/// [`unknown`].
pub fn render(event_type: &str, values: &Map<String, Value>) -> Option<String> {
    let (_, template) = TEMPLATES.iter().find(|(name, _)| *name == event_type)?;
    let mut event: Value = serde_json::from_str(template).ok()?;
    fill(&mut event, values);
    serde_json::to_string_pretty(&event).ok()
}

/// A body of a type that has no template.
pub fn unknown(event_type: &str, values: &Map<String, Value>) -> String {
    let value = |name: &str| values.get(name).cloned().unwrap_or(Value::Null);
    let event = serde_json::json!({
        "id": value("event_id"),
        "object": "event",
        "api_version": "2025-09-30.clover",
        "created": value("created"),
        "data": { "object": { "id": "obj_1", "object": "unknown", "metadata": value("metadata") } },
        "livemode": value("livemode"),
        "pending_webhooks": 1,
        "request": { "id": null, "idempotency_key": null },
        "type": event_type,
    });
    format!("{event:#}")
}

/// Replaces strings of the form `{{name}}` by values.
fn fill(value: &mut Value, values: &Map<String, Value>) {
    match value {
        Value::String(text) => {
            let name = text
                .strip_prefix("{{")
                .and_then(|rest| rest.strip_suffix("}}"));
            if let Some(name) = name {
                *value = values.get(name).cloned().unwrap_or(Value::Null);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, values)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, values)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_renders_without_a_gap() {
        let mut values = Map::new();
        for (_, template) in TEMPLATES {
            for part in template.split("\"{{").skip(1) {
                let name = part.split("}}\"").next().unwrap();
                values.insert(name.to_owned(), Value::from(name));
            }
        }
        for event_type in types() {
            let body = render(event_type, &values).unwrap();
            assert!(!body.contains("{{"), "{event_type}");
            let event: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(event["id"], "event_id");
            if event_type != "thin" {
                assert_eq!(event["type"], event_type);
            }
        }
    }
}
