//! Reads the few fields of an event that are needed to store it, and nothing else. Tolerant: unknown fields, types and API
//! versions, missing or odd optional fields are all fine. Pure.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An event's outside. Source: docs.stripe.com/api/events/object, and `v2.core.event` for thin events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// `evt_…`, the dedupe key.
    pub id: String,
    /// Such as `payment_intent.succeeded`.
    pub event_type: String,
    /// Unix seconds in snapshot events, RFC 3339 in thin ones.
    pub created_at: Option<Timestamp>,
    /// `false` in test mode.
    pub livemode: Option<bool>,
    /// The connected account that the event belongs to.
    pub account: Option<String>,
    /// Which shape `data.object` has.
    pub api_version: Option<String>,
}

/// The longest id, type, account or version kept.
const MAX_TEXT_BYTES: usize = 255;

/// The body is not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a JSON object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// No usable `id` or `type`.
    #[error("the event has no string `id` and `type`")]
    NoIdentity,
}

impl Envelope {
    /// Reads an event's body. Where a field is given twice, the last one counts, as in JavaScript.
    pub fn read(body: &[u8]) -> Result<Self, EnvelopeError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let fields = json
            .deserialize_map(FieldsVisitor)
            .map_err(|_| EnvelopeError::NotAnObject)?;
        json.end().map_err(|_| EnvelopeError::NotAnObject)?;
        Ok(Self {
            id: fields.id.and_then(text).ok_or(EnvelopeError::NoIdentity)?,
            event_type: fields
                .event_type
                .and_then(text)
                .ok_or(EnvelopeError::NoIdentity)?,
            created_at: fields.created.and_then(time),
            livemode: fields
                .livemode
                .and_then(|raw| serde_json::from_str(raw.get()).ok()),
            account: fields.account.and_then(text),
            api_version: fields.api_version.and_then(text),
        })
    }
}

/// A string that the database can keep: not empty, of bounded length, without control characters.
fn text(raw: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    let proper =
        !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.contains(char::is_control);
    proper.then_some(text)
}

fn time(raw: &RawValue) -> Option<Timestamp> {
    let time: Timestamp = match serde_json::from_str::<i64>(raw.get()) {
        Ok(seconds) => Timestamp::from_second(seconds).ok()?,
        Err(_) => serde_json::from_str::<String>(raw.get())
            .ok()?
            .parse()
            .ok()?,
    };
    // Earlier ones are nonsense, and the database would refuse the earliest.
    (time >= Timestamp::UNIX_EPOCH).then_some(time)
}

#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    created: Option<&'a RawValue>,
    livemode: Option<&'a RawValue>,
    account: Option<&'a RawValue>,
    api_version: Option<&'a RawValue>,
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an event object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let field = match name.as_ref() {
                "id" => &mut fields.id,
                "type" => &mut fields.event_type,
                "created" => &mut fields.created,
                "livemode" => &mut fields.livemode,
                "account" => &mut fields.account,
                "api_version" => &mut fields.api_version,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value()?);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Envelope, EnvelopeError> {
        Envelope::read(body.as_bytes())
    }

    #[test]
    fn snapshot_events_are_read() {
        let envelope = read(
            r#" {"id":"evt_1","object":"event","api_version":"2020-08-27","created":1648320033,"account":"acct_1",
                "data":{"object":{"id":"x","type":"y"}},"livemode":true,"type":"a.b","request":null} "#,
        )
        .unwrap();
        assert_eq!(
            (envelope.id.as_str(), envelope.event_type.as_str()),
            ("evt_1", "a.b")
        );
        assert_eq!(
            envelope.created_at,
            Some(Timestamp::from_second(1_648_320_033).unwrap())
        );
        assert_eq!(
            (envelope.livemode, envelope.account.as_deref()),
            (Some(true), Some("acct_1"))
        );
        assert_eq!(envelope.api_version.as_deref(), Some("2020-08-27"));
    }

    #[test]
    fn thin_events_are_read() {
        let envelope = read(
            r#"{"id":"evt_2","object":"v2.core.event","type":"v1.a.b","created":"2026-03-01T10:00:00.123456789Z"}"#,
        )
        .unwrap();
        assert_eq!(
            envelope.created_at,
            Some("2026-03-01T10:00:00.123456789Z".parse().unwrap())
        );
        assert_eq!(envelope.livemode, None);
    }

    #[test]
    fn odd_optional_fields_are_dropped_and_the_last_of_doubled_ones_counts() {
        let body = r#"{"id":"evt_1","id":"evt_2","type":"a","created":-300000000000,"livemode":"yes","account":7,"api_version":""}"#;
        let expected = Envelope {
            id: "evt_2".to_owned(),
            event_type: "a".to_owned(),
            ..Envelope::default()
        };
        assert_eq!(read(body), Ok(expected));
    }

    #[test]
    fn escaped_names_and_deep_or_huge_values_are_fine() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(
            r#"{{"\u0069d":"evt_1","type":"a","x":{deep},"y":1e400,"z":123456789012345678901234567890}}"#
        );
        assert_eq!(read(&body).unwrap().id, "evt_1");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for body in [
            "",
            " ",
            "null",
            "[]",
            "\"evt\"",
            "{",
            r#"{"id":"e","type":"t"}x"#,
            "\u{feff}{}",
            r#"{"id":"e",}"#,
        ] {
            assert_eq!(read(body), Err(EnvelopeError::NotAnObject), "{body}");
        }
        assert_eq!(
            Envelope::read(b"{\"id\":\"\xff\",\"type\":\"t\"}"),
            Err(EnvelopeError::NotAnObject)
        );
        for body in [
            "{}",
            r#"{"id":"e"}"#,
            r#"{"type":"t"}"#,
            r#"{"id":1,"type":"t"}"#,
            r#"{"id":"e","type":null}"#,
            r#"{"id":"","type":"t"}"#,
            r#"{"id":"a\u0000b","type":"t"}"#,
            &format!(r#"{{"id":"{}","type":"t"}}"#, "e".repeat(256)),
        ] {
            assert_eq!(read(body), Err(EnvelopeError::NoIdentity), "{body}");
        }
    }
}
