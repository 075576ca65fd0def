//! What travels through RabbitMQ: an event's id, and the trace it belongs to.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};

use crate::json;
use crate::trace_context::TraceContext;

const TRACEPARENT: &str = "traceparent";
const PERSISTENT: u8 = 2;
/// Far above any event id: a longer message is not ours.
const MAX_BODY_BYTES: usize = 1_024;

/// One event, to be looked at by a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The event's id.
    pub event_id: String,
    /// The event's type: the routing key.
    pub event_type: String,
    /// The trace that this message continues.
    pub traceparent: Option<String>,
}

/// The message is not one of ours.
#[derive(Debug, thiserror::Error)]
#[error("the message does not name an event: {0}")]
pub struct MessageError(String);

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "id", alias = "event_id")]
    event_id: std::borrow::Cow<'a, str>,
}

impl Message {
    /// The bytes to publish.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&Body {
            event_id: self.event_id.as_str().into(),
        })
        .unwrap_or_else(|_| unreachable!("a string is JSON"))
    }

    /// The properties to publish with: persistent, identified by the event.
    pub fn properties(&self) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(self.event_id.as_str().into());
        match &self.traceparent {
            None => properties,
            Some(traceparent) => {
                let mut headers = FieldTable::default();
                headers.insert(
                    TRACEPARENT.into(),
                    AMQPValue::LongString(traceparent.as_str().into()),
                );
                properties.with_headers(headers)
            }
        }
    }

    /// The event id that a message's bytes name.
    pub fn read_event_id(body: &[u8]) -> Result<String, MessageError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(MessageError(format!("{} bytes", body.len())));
        }
        let body: Body =
            serde_json::from_slice(body).map_err(|error| MessageError(json::describe(&error)))?;
        if body.event_id.is_empty() || body.event_id.contains('\0') {
            return Err(MessageError("an impossible id".to_owned()));
        }
        Ok(body.event_id.into_owned())
    }

    /// The trace that a message continues; a new one where it names none.
    pub fn read_trace(properties: &BasicProperties) -> TraceContext {
        properties
            .headers()
            .as_ref()
            .and_then(|headers| headers.inner().get(TRACEPARENT))
            .and_then(|value| match value {
                AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes())
                    .ok()
                    .and_then(TraceContext::parse),
                _ => None,
            })
            .unwrap_or_else(TraceContext::current_or_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_journey() {
        let traceparent = TraceContext::current_or_new().traceparent();
        let message = Message {
            event_id: "evt_\"1".to_owned(),
            event_type: "a.b".to_owned(),
            traceparent: Some(traceparent.clone()),
        };
        assert_eq!(
            Message::read_event_id(&message.body()).unwrap(),
            message.event_id
        );
        assert_eq!(
            Message::read_trace(&message.properties()).traceparent(),
            traceparent
        );
    }

    #[test]
    fn what_names_no_event_is_refused() {
        let long = vec![b' '; MAX_BODY_BYTES + 1];
        for body in [
            &b""[..],
            b"{}",
            b"nonsense",
            b"[]",
            br#"{"id":7}"#,
            br#"{"id":""}"#,
            b"\xff",
            &long,
        ] {
            assert!(Message::read_event_id(body).is_err());
        }
    }
}
