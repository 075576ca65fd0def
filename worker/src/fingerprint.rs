//! Groups failures: the same cause has the same fingerprint, whatever its ids, amounts and addresses are. Pure.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use sha2::{Digest, Sha256};

/// Part of the hash: a change of the rule makes new groups and never mixes with old ones.
const VERSION: &str = "v1";

/// The group of a failure: 16 hex digits of a hash over handler, kind and normalised message.
pub fn fingerprint(handler: &str, kind: &str, message: &str) -> String {
    let text = [VERSION, handler, kind, &normalise(message)].join("|");
    hex::encode(&Sha256::digest(text)[..8])
}

/// What varies, most specific first: e-mail, Stripe id, UUID, address and port, time, hex, quoted text, number.
static VARYING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)",
        r"|(?P<stripe_id>\b[a-z]{2,8}_(?:test_|live_)?[A-Za-z0-9]{6,}\b)",
        r"|(?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)",
        r"|(?P<addr>\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b)",
        r"|(?P<time>\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?)",
        r#"|(?P<str>"[^"]*"|`[^`]*`|'[^']*')"#,
        r"|(?P<hex>\b(?:0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*[a-fA-F][0-9a-fA-F]*\b)",
        r"|(?P<n>\d+(?:\.\d+)?)",
    ))
    .unwrap_or_else(|error| unreachable!("the pattern is fixed: {error}"))
});

fn normalise(message: &str) -> String {
    const KINDS: [&str; 8] = [
        "email",
        "stripe_id",
        "uuid",
        "addr",
        "time",
        "str",
        "hex",
        "n",
    ];
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
                "the amount is 25.00 USD, the order's is 10.00 USD",
                "the amount is <n> USD, the order's is <n> USD",
            ),
            (
                "no order for pi_3OaBcDeFgH or cs_test_a1B2c3D4",
                "no order for <stripe_id> or <stripe_id>",
            ),
            (
                "mail to a.b+c@example.com refused",
                "mail to <email> refused",
            ),
            ("no answer from 10.0.0.1:5432", "no answer from <addr>"),
            ("id 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "id <uuid>"),
            (
                "missing field `id` at line 1 column 20",
                "missing field <str> at line <n> column <n>",
            ),
            ("at 2026-01-02T03:04:05.678Z", "at <time>"),
        ] {
            assert_eq!(normalise(message), normal);
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
