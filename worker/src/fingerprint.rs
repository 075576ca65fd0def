//! Groups failures: the same cause has the same fingerprint, whatever its ids, amounts and addresses are. Pure.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use sha2::{Digest, Sha256};

/// Of the rule below. It is part of the hash and is stored with each dead letter, so a change of the rule makes new groups,
/// never mixes with old ones, and can be told from a new cause.
pub const VERSION: i16 = 2;

/// The group of a failure: 16 hex digits of a hash over handler, kind and normalised message.
pub fn fingerprint(handler: &str, kind: &str, message: &str) -> String {
    let text = format!("v{VERSION}|{handler}|{kind}|{}", normalise(message));
    hex::encode(&Sha256::digest(text)[..8])
}

/// What varies, most specific first. An id has a capital or a digit behind its prefix, which names such as
/// `payment_intent` have not.
static VARYING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r#"(?P<str>"[^"]*"|`[^`]*`|\B'[^']*'\B|“[^”]*”)"#,
        r"|(?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)",
        r"|(?P<id>\b[a-z]{2,12}_(?:test_|live_)?[A-Za-z0-9]*[A-Z0-9]\w*)",
        r"|(?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)",
        r"|(?P<time>\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?(?: ?(?:Z|UTC|[+-]\d{2}:?\d{2}))?",
        r"|\b\d{2}:\d{2}:\d{2}(?:\.\d+)?\b)",
        r"|(?P<addr>\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:.%\w]*:[0-9a-fA-F:.%\w]*\](?::\d+)?",
        r"|(?:\b[0-9a-fA-F]{1,4})?(?:::?[0-9a-fA-F]{1,4}){2,7}\b)",
        r"|(?P<hex>\b(?:0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*[a-fA-F][0-9a-fA-F]*\b|\b[a-fA-F]+\d[0-9a-fA-F]*\b)",
        r"|(?P<n>\d+(?:[.,]\d+)*)",
    ))
    .unwrap_or_else(|error| unreachable!("the pattern is fixed: {error}"))
});

fn normalise(message: &str) -> String {
    const KINDS: [&str; 8] = ["str", "email", "id", "uuid", "time", "addr", "hex", "n"];
    VARYING
        .replace_all(message, |captures: &Captures| {
            let kind = KINDS
                .into_iter()
                .find(|kind| captures.name(kind).is_some())
                .unwrap_or("n");
            format!("<{kind}>")
        })
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_normalised() {
        for (message, normal) in [
            (
                "the amount is 25.00 USD, the order's is 1,000.00 USD",
                "the amount is <n> USD, the order's is <n> USD",
            ),
            (
                "no order for pi_3OaBcDeFgH or cs_test_a1B2c3D4 or ord_1",
                "no order for <id> or <id> or <id>",
            ),
            ("seti_1Ab_secret_9Xy is over", "<id> is over"),
            (
                "neither payment_intent nor amount_received is there",
                "neither payment_intent nor amount_received is there",
            ),
            (
                "mail to a.b+c@example.com refused",
                "mail to <email> refused",
            ),
            ("no answer from 10.0.0.1:5432", "no answer from <addr>"),
            ("no answer from [2001:db8::1]:5432", "no answer from <addr>"),
            ("no answer from fe80::1:2", "no answer from <addr>"),
            ("id 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "id <uuid>"),
            (
                "missing field `id` at line 1 column 20",
                "missing field <str> at line <n> column <n>",
            ),
            (
                "\"a 1\" is not 'b 2', but the buyer's",
                "<str> is not <str>, but the buyer's",
            ),
            ("at 2026-01-02T03:04:05.678Z", "at <time>"),
            (
                "at 2026-01-02 03:04:05 UTC, or 03:04:05.6",
                "at <time>, or <time>",
            ),
            ("at 1767323045 in 0x7ffe12ab", "at <n> in <hex>"),
            (
                "commit 9f86d081 of a dead cafe",
                "commit <hex> of a dead cafe",
            ),
            ("", ""),
        ] {
            assert_eq!(normalise(message), normal);
        }
    }

    /// Whoever changes the rule counts its version up, and these with it.
    #[test]
    fn a_version_keeps_its_groups() {
        for (message, group) in [
            (
                "no order for pi_3OaBcDeFgH1 at 10.0.0.1",
                "431641371622a29b",
            ),
            ("missing field `currency` at line 7", "f7a41fb12bb3eb04"),
        ] {
            assert_eq!(
                (
                    VERSION,
                    fingerprint("charge.refunded", "k", message).as_str()
                ),
                (2, group)
            );
        }
    }

    #[test]
    fn causes_differ_ids_do_not() {
        let one = fingerprint(
            "payment_intent.succeeded",
            "order_not_found",
            "no order for pi_3OaBcDeFgH1",
        );
        assert_eq!(
            one,
            fingerprint(
                "payment_intent.succeeded",
                "order_not_found",
                "no order for pi_9XyZ12345678"
            )
        );
        assert_ne!(
            one,
            fingerprint(
                "charge.refunded",
                "order_not_found",
                "no order for pi_3OaBcDeFgH1"
            )
        );
        assert_ne!(
            one,
            fingerprint(
                "payment_intent.succeeded",
                "panic",
                "no order for pi_3OaBcDeFgH1"
            )
        );
        assert_eq!(one.len(), 16);
    }
}
