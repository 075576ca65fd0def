//! Secret keys. Their prefix tells the mode, so that a key of the wrong one is refused before anything is sent. Pure.

use std::fmt;

/// The prefixes of keys that may read (docs.stripe.com/keys), and whether they are of live mode.
const PREFIXES: [(&str, bool); 4] = [
    ("sk_live_", true),
    ("sk_test_", false),
    ("rk_live_", true),
    ("rk_test_", false),
];

/// A secret or restricted key. `Debug` shows its prefix only.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
    prefix: &'static str,
    livemode: bool,
}

/// A key that cannot be used. No message repeats it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Publishable, empty, mangled, or something else altogether.
    #[error("is not a secret key of Stripe's (sk_live_…, sk_test_…, rk_live_… or rk_test_…)")]
    NotAKey,
    /// Of live mode where test mode is served, or the other way round.
    #[error("is a key of {} mode ({prefix}…), but STRIPE_LIVEMODE is {}", mode(*.livemode), !.livemode)]
    WrongMode {
        /// The key's.
        livemode: bool,
        /// What it begins with.
        prefix: &'static str,
    },
    /// Its file is missing or unreadable.
    #[error("cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// This machine cannot make connections with TLS.
    #[error("cannot be used: {0}")]
    Tls(String),
}

fn mode(livemode: bool) -> &'static str {
    if livemode { "live" } else { "test" }
}

impl ApiKey {
    /// Reads a key, with blanks around it.
    pub fn parse(raw: &str) -> Result<Self, KeyError> {
        let text = raw.trim();
        let (prefix, livemode) = PREFIXES
            .into_iter()
            .find(|(prefix, _)| text.starts_with(prefix) && text.len() > prefix.len())
            .ok_or(KeyError::NotAKey)?;
        let proper = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !text.bytes().all(proper) {
            return Err(KeyError::NotAKey);
        }
        Ok(Self {
            text: text.to_owned(),
            prefix,
            livemode,
        })
    }

    /// The key itself, if it is of the mode that is served.
    pub fn for_mode(self, livemode: bool) -> Result<Self, KeyError> {
        if self.livemode == livemode {
            Ok(self)
        } else {
            Err(KeyError::WrongMode {
                livemode: self.livemode,
                prefix: self.prefix,
            })
        }
    }

    /// The secret, to be sent to Stripe and nowhere else.
    pub(super) fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_the_mode_that_their_prefix_says() {
        for (raw, livemode) in [
            ("sk_live_a1", true),
            (" sk_test_a1\n", false),
            ("rk_live_a1", true),
            ("rk_test_51_a1", false),
        ] {
            let key = ApiKey::parse(raw).unwrap();
            assert!(key.clone().for_mode(livemode).is_ok(), "{raw}");
            let problem = key.for_mode(!livemode).unwrap_err().to_string();
            assert!(problem.contains("STRIPE_LIVEMODE"), "{problem}");
            assert!(!problem.contains("a1"), "{problem}");
        }
    }

    #[test]
    fn what_is_no_secret_key_is_refused_and_never_repeated() {
        for raw in [
            "",
            "sk_live_",
            "pk_live_hunter2",
            "whsec_hunter2",
            "sk_test_hun ter2",
            "sk_test_hunter2\r\nx: y",
            "SK_TEST_hunter2",
        ] {
            let problem = ApiKey::parse(raw).unwrap_err().to_string();
            assert!(!problem.contains("hun"), "{problem}");
        }
        let shown = format!("{:?}", ApiKey::parse("rk_test_hunter2").unwrap());
        assert_eq!(shown, "rk_test_…");
    }
}
