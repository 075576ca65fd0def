//! Covers personal data and secrets in a payload. What stays is byte for byte what Stripe sent: no number is parsed, no
//! blank is lost. Pure.

use serde::de::IgnoredAny;

/// What stands in place of a covered value.
const COVER: &str = "\"[redacted]\"";
/// How keys begin that let their owner in.
const CREDENTIALS: [&str; 6] = [
    "_secret_", "whsec_", "sk_live_", "sk_test_", "rk_live_", "rk_test_",
];

/// Values under these keys are covered whole, wherever they stand.
const KEYS: [&str; 29] = [
    "address",
    "billing_details",
    "custom_fields",
    "customer_details",
    "customer_signature",
    "dob",
    "email",
    "evidence",
    "fingerprint",
    "first_name",
    "hosted_invoice_url",
    "iban",
    "invoice_pdf",
    "last4",
    "last_name",
    "line1",
    "line2",
    "name",
    "next_action",
    "phone",
    "receipt_url",
    "routing_number",
    "account_number",
    "secret",
    "shipping",
    "tax_id",
    "tax_ids",
    "url",
    "user_agent",
];
/// And under keys that end so.
const ENDS: [&str; 12] = [
    "_secret",
    "_email",
    "_name",
    "_phone",
    "_address",
    "_shipping",
    "_url",
    "_number",
    "_ip",
    "_tax_id",
    "_tax_ids",
    "last4",
];
/// Of `metadata` only these are shown.
const METADATA: [&str; 4] = ["order_id", "orderId", "course_id", "cart"];

/// A payload with its personal data and secrets covered; none where it is not JSON, so that nothing can be told.
pub fn redact(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?;
    // Bounds the depth too: the scanner below may recurse.
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut scanner = Scanner {
        text,
        at: 0,
        shown: String::with_capacity(text.len()),
    };
    scanner.value(false, false)?;
    scanner.blanks();
    Some(scanner.shown)
}

fn is_covered(key: &str, in_metadata: bool) -> bool {
    if in_metadata {
        return !METADATA.contains(&key);
    }
    let key = key.to_ascii_lowercase();
    KEYS.contains(&key.as_str())
        || ENDS.iter().any(|end| key.ends_with(end))
        || key == "ip"
        || key.starts_with("ip_")
}

/// Whether a JSON string tells something by itself. Escapes may hide it.
fn string_tells(raw: &str) -> bool {
    tells(&serde_json::from_str::<String>(raw).unwrap_or_default())
}

/// Whether a text holds an address of a person or what lets its owner in, whatever its key is.
pub fn tells(text: &str) -> bool {
    let is_address = |word: &str| {
        word.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && host.trim_end_matches('.').contains('.')
        })
    };
    text.split_whitespace().any(is_address) || CREDENTIALS.iter().any(|start| text.contains(start))
}

/// Walks over text that is known to be JSON, and copies what may be shown.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    shown: String,
}

impl<'a> Scanner<'a> {
    /// One value. While covered, nothing is copied.
    fn value(&mut self, covered: bool, in_metadata: bool) -> Option<()> {
        self.blanks_unless(covered);
        match self.peek()? {
            b'{' => self.members(covered, in_metadata),
            b'[' => self.items(covered, in_metadata),
            b'"' => {
                let raw = self.string()?;
                self.copy(if string_tells(raw) { COVER } else { raw }, covered);
                Some(())
            }
            _ => {
                let raw = self.scalar();
                self.copy(raw, covered);
                Some(())
            }
        }
    }

    fn members(&mut self, covered: bool, in_metadata: bool) -> Option<()> {
        self.token(covered)?;
        self.blanks_unless(covered);
        while self.peek()? != b'}' {
            self.blanks_unless(covered);
            let raw = self.string()?;
            self.copy(raw, covered);
            let key: String = serde_json::from_str(raw).ok()?;
            self.blanks_unless(covered);
            self.token(covered)?;
            self.blanks_unless(covered);
            if !covered && is_covered(&key, in_metadata) && !self.rest().starts_with("null") {
                self.shown.push_str(COVER);
                self.value(true, false)?;
            } else {
                self.value(covered, key == "metadata")?;
            }
            self.blanks_unless(covered);
            if self.peek()? == b',' {
                self.token(covered)?;
                self.blanks_unless(covered);
            }
        }
        self.token(covered)
    }

    fn items(&mut self, covered: bool, in_metadata: bool) -> Option<()> {
        self.token(covered)?;
        self.blanks_unless(covered);
        while self.peek()? != b']' {
            self.value(covered, in_metadata)?;
            self.blanks_unless(covered);
            if self.peek()? == b',' {
                self.token(covered)?;
            }
        }
        self.token(covered)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// One of `{}[]:,`.
    fn token(&mut self, covered: bool) -> Option<()> {
        let raw = self.text.get(self.at..self.at + 1)?;
        self.at += 1;
        self.copy(raw, covered);
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        while *bytes.get(end)? != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        self.take(end + 1)
    }

    fn scalar(&mut self) -> &'a str {
        let rest = self.rest();
        let length = rest
            .find(|c: char| ",]}".contains(c) || c.is_ascii_whitespace())
            .unwrap_or(rest.len());
        self.take(self.at + length).unwrap_or_default()
    }

    fn take(&mut self, end: usize) -> Option<&'a str> {
        let raw = self.text.get(self.at..end)?;
        self.at = end;
        Some(raw)
    }

    fn blanks(&mut self) {
        self.blanks_unless(false);
    }

    fn blanks_unless(&mut self, covered: bool) {
        let rest = self.rest();
        let length = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        let raw = &rest[..length];
        self.at += length;
        self.copy(raw, covered);
    }

    fn copy(&mut self, raw: &str, covered: bool) {
        if !covered {
            self.shown.push_str(raw);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(payload: &str) -> String {
        redact(payload.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_not_covered_is_kept_byte_for_byte() {
        for payload in [
            r#"{"amount": 12345678901234567890123, "ratio": 1.10e-7,"a":[1 , 2,{}],"b":[ ]}"#,
            " { \"id\" : \"evt_1\" ,\r\n\t\"data\":{\"object\":{\"id\":\"pi_1\",\"x\":\"\\u00e9\\\"\\\\\"}} } \n",
            "[]",
            "7",
            "\"text\"",
            "null",
            r#"{"metadata":{"order_id":"o1"},"description":null,"email":null}"#,
        ] {
            assert_eq!(shown(payload), payload);
        }
    }

    #[test]
    fn personal_data_and_secrets_are_covered_wherever_they_stand() {
        for (payload, expected) in [
            (
                r#"{"client_secret":"pi_1_secret_x"}"#,
                r#"{"client_secret":"[redacted]"}"#,
            ),
            (
                r#"{"a":[{"receipt_email": "a@b.c" , "n":1}]}"#,
                r#"{"a":[{"receipt_email": "[redacted]" , "n":1}]}"#,
            ),
            (
                r#"{"billing_details":{"address":{"line1":"x"},"email":"a@b.c"},"n":1.0}"#,
                r#"{"billing_details":"[redacted]","n":1.0}"#,
            ),
            (
                r#"{"metadata":{"order_id":"o1","email":"a@b.c","note":["x",{"y":1}]}}"#,
                r#"{"metadata":{"order_id":"o1","email":"[redacted]","note":"[redacted]"}}"#,
            ),
            (
                r#"{"\u0065mail":"a@b.c"}"#,
                r#"{"\u0065mail":"[redacted]"}"#,
            ),
            (
                r#"{"EMAIL":"a","ip":"1","ip_address":"2","last4":4242}"#,
                r#"{"EMAIL":"[redacted]","ip":"[redacted]","ip_address":"[redacted]","last4":"[redacted]"}"#,
            ),
            (
                r#"{"description":"for jane@example.com, twice","x":["pi_1_secret_2","a @ b","\u0061@b.co"]}"#,
                r#"{"description":"[redacted]","x":["[redacted]","a @ b","[redacted]"]}"#,
            ),
            (
                r#"{"customer_tax_ids":[{"type":"eu_vat","value":"DE1"}],"customer_tax_exempt":"none"}"#,
                r#"{"customer_tax_ids":"[redacted]","customer_tax_exempt":"none"}"#,
            ),
            (
                r#"{"evidence":{"a":1},"custom_fields":[{"text":{"value":"x"}}],"client_ip":"1","dynamic_last4":"1"}"#,
                r#"{"evidence":"[redacted]","custom_fields":"[redacted]","client_ip":"[redacted]","dynamic_last4":"[redacted]"}"#,
            ),
            (
                r#"{"name":"}{\"","z":"\\"}"#,
                r#"{"name":"[redacted]","z":"\\"}"#,
            ),
        ] {
            assert_eq!(shown(payload), expected);
        }
    }

    #[test]
    fn what_is_not_json_is_not_shown_at_all() {
        for payload in [&b"{"[..], b"", b"\xff\xfe", b"{\"email\":\"a@b.c\"} x"] {
            assert_eq!(redact(payload), None);
        }
        let deep = "[".repeat(100_000);
        assert_eq!(redact(deep.as_bytes()), None);
    }

    #[test]
    fn a_real_payload_stays_json_and_tells_nobody() {
        let payload = include_str!("../events/charge.succeeded.json");
        let filled = payload.replace("\"{{email}}\"", "\"jane@example.com\"");
        let shown = shown(&filled);
        assert!(serde_json::from_str::<IgnoredAny>(&shown).is_ok());
        assert!(!shown.contains("jane@example.com"), "{shown}");
        assert!(shown.contains("charge.succeeded"));
    }
}
