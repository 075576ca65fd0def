//! Stripe's webhook signatures: `HMAC-SHA256(secret, "{t}.{body}")` as lower-case hex, in the header
//! `Stripe-Signature: t=…,v1=…[,v1=…]`. Pure: the clock is a parameter. Source: docs.stripe.com/webhooks#verify-manually.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// The key of one endpoint secret: the whole `whsec_…` text, prepared once.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// The key of a secret.
    pub fn new(secret: &str) -> Self {
        Self(
            Hmac::new_from_slice(secret.as_bytes())
                .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length")),
        )
    }

    fn digest(&self, timestamp: &str, body: &[u8]) -> [u8; 64] {
        let mut mac = self.0.clone();
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        let mut text = [0; 64];
        hex::encode_to_slice(mac.finalize().into_bytes(), &mut text)
            .unwrap_or_else(|_| unreachable!("32 bytes are 64 hex digits"));
        text
    }

    /// A `Stripe-Signature` header for `body`, signed at `timestamp` (Unix seconds).
    pub fn sign(&self, timestamp: i64, body: &[u8]) -> String {
        let digest = self.digest(&timestamp.to_string(), body);
        format!("t={timestamp},v1={}", String::from_utf8_lossy(&digest))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// Why a signature is refused. The sender never learns which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no header.
    #[error("no Stripe-Signature header")]
    Missing,
    /// The header does not follow the grammar.
    #[error("malformed Stripe-Signature header")]
    Malformed,
    /// No `v1` matches any key.
    #[error("no signature matches")]
    Mismatch,
    /// The signature matches but its timestamp is outside the tolerance.
    #[error("timestamp outside the tolerance")]
    Stale,
}

/// Verifies the exact bytes of `body` against every `v1` of `header` and every key, in constant time and without an
/// early exit. `now` and `tolerance` are seconds.
pub fn verify(
    header: &str,
    body: &[u8],
    keys: &[SigningKey],
    now: i64,
    tolerance: u64,
) -> Result<(), SignatureError> {
    let header = Header::parse(header).ok_or(SignatureError::Malformed)?;
    let mut matched = Choice::from(0);
    for key in keys {
        let expected = key.digest(header.timestamp_text, body);
        for candidate in header.v1_signatures() {
            matched |= expected.ct_eq(candidate.as_bytes());
        }
    }
    if !bool::from(matched) {
        return Err(SignatureError::Mismatch);
    }
    if now.abs_diff(header.timestamp) > tolerance {
        return Err(SignatureError::Stale);
    }
    Ok(())
}

struct Header<'a> {
    items: &'a str,
    timestamp_text: &'a str,
    timestamp: i64,
}

impl<'a> Header<'a> {
    /// Items split at `,`, each with a `=`; exactly one `t`; other schemes than `v1` are ignored (a `v0` proves nothing).
    fn parse(items: &'a str) -> Option<Self> {
        let mut timestamp = None;
        for item in items.split(',') {
            let (scheme, value) = item.split_once('=')?;
            if scheme == "t" && timestamp.replace(value).is_some() {
                return None;
            }
        }
        let timestamp_text = timestamp?;
        Some(Self {
            items,
            timestamp_text,
            timestamp: canonical_decimal(timestamp_text)?,
        })
    }

    fn v1_signatures(&self) -> impl Iterator<Item = &'a str> {
        self.items
            .split(',')
            .filter_map(|item| item.strip_prefix("v1="))
    }
}

/// Digits only, without a sign or leading zeros, so that one time has one text.
fn canonical_decimal(text: &str) -> Option<i64> {
    let canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn check(header: &str) -> Result<(), SignatureError> {
        verify(
            header,
            BODY,
            &[SigningKey::new("whsec_a"), SigningKey::new("whsec_b")],
            NOW,
            300,
        )
    }

    fn v1(secret: &str, timestamp: i64) -> String {
        SigningKey::new(secret)
            .sign(timestamp, BODY)
            .split_once(",v1=")
            .unwrap()
            .1
            .to_owned()
    }

    #[test]
    fn any_v1_with_any_key_is_enough() {
        let (a, b, other) = (v1("whsec_a", NOW), v1("whsec_b", NOW), v1("whsec_c", NOW));
        for header in [
            format!("t={NOW},v1={a}"),
            format!("t={NOW},v1={b}"),
            format!("v1={other},v1={a},t={NOW}"),
            format!("t={NOW},v1={a},v1={other}"),
            format!("t={NOW},v0=x,v2=y,v1={b},extra="),
        ] {
            assert_eq!(check(&header), Ok(()), "{header}");
        }
    }

    #[test]
    fn what_does_not_match_is_refused() {
        let a = v1("whsec_a", NOW);
        for header in [
            format!("t={NOW},v1={}", v1("whsec_c", NOW)),
            format!("t={},v1={a}", NOW + 1),
            format!("t={NOW},v0={a}"),
            format!("t={NOW}, v1={a}"),
            format!("t={NOW},v1={}", a.to_uppercase()),
            format!("t={NOW},v1={a}0"),
            format!("t={NOW},v1={}", &a[..63]),
            format!("t={NOW},v1="),
            format!("t={NOW}"),
        ] {
            assert_eq!(check(&header), Err(SignatureError::Mismatch), "{header}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_malformed() {
        let a = v1("whsec_a", NOW);
        for header in [
            String::new(),
            "garbage".to_owned(),
            format!("v1={a}"),
            format!("t=,v1={a}"),
            format!("t=+{NOW},v1={a}"),
            format!("t=0{NOW},v1={a}"),
            format!("t={NOW}.0,v1={a}"),
            format!("t= {NOW},v1={a}"),
            format!("t=99999999999999999999,v1={a}"),
            format!("t={NOW},t={NOW},v1={a}"),
            format!("t={NOW},v1={a},"),
            format!("t={NOW},,v1={a}"),
            format!("t={NOW},v1"),
        ] {
            assert_eq!(check(&header), Err(SignatureError::Malformed), "{header}");
        }
    }

    #[test]
    fn the_tolerance_holds_both_ways_and_only_for_what_matches() {
        for (age, expected) in [
            (300, Ok(())),
            (-300, Ok(())),
            (301, Err(SignatureError::Stale)),
            (-301, Err(SignatureError::Stale)),
        ] {
            let timestamp = NOW - age;
            assert_eq!(
                check(&format!("t={timestamp},v1={}", v1("whsec_a", timestamp))),
                expected,
                "{age}"
            );
            assert_eq!(
                check(&format!("t={timestamp},v1=x")),
                Err(SignatureError::Mismatch),
                "{age}"
            );
        }
    }

    #[test]
    fn a_key_never_prints_its_secret() {
        assert!(!format!("{:?}", SigningKey::new("whsec_canary")).contains("canary"));
    }
}
