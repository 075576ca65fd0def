//! How to reach Stripe's API: the key or its file, the address, how long an answer may take.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::Uri;

use super::{ApiKey, KeyError, StripeApi};
use crate::settings::{Check, duration};

/// The settings of Stripe's API.
#[derive(Args)]
pub struct StripeArgs {
    /// Secret key of Stripe's API; a restricted one is enough that may read events, and charges for the daily summary
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    stripe_secret_key: Option<String>,
    /// File with that key instead, read again each time it is needed
    #[arg(long, env = "STRIPE_SECRET_KEY_FILE")]
    stripe_secret_key_file: Option<PathBuf>,
    /// Where Stripe's API is; https, or http on this machine
    #[arg(long, env = "STRIPE_API_URL", default_value = "https://api.stripe.com")]
    stripe_api_url: String,
    /// How long Stripe's API may take to answer
    #[arg(long, env = "STRIPE_API_TIMEOUT", default_value = "30s")]
    stripe_api_timeout: String,
}

/// The same, parsed.
#[derive(Debug, Clone)]
pub struct StripeSettings {
    key: KeySource,
    base: String,
    timeout: Duration,
}

#[derive(Debug, Clone)]
enum KeySource {
    Given(ApiKey),
    File(PathBuf),
}

impl StripeArgs {
    /// Parses what was given; `None` inside where no key was, `None` when `check` holds a problem. Does not look at the
    /// key's mode.
    pub fn parse(&self, check: &mut Check) -> Option<Option<StripeSettings>> {
        let base = check.value("STRIPE_API_URL", &self.stripe_api_url, base_url);
        let timeout = check.value("STRIPE_API_TIMEOUT", &self.stripe_api_timeout, duration);
        let key = self.key(check);
        let (key, base, timeout) = (key?, base?, timeout?);
        Some(key.map(|key| StripeSettings { key, base, timeout }))
    }

    fn key(&self, check: &mut Check) -> Option<Option<KeySource>> {
        let given = self.stripe_secret_key.as_deref().map(str::trim);
        match (
            given.filter(|key| !key.is_empty()),
            &self.stripe_secret_key_file,
        ) {
            (None, None) => Some(None),
            (Some(_), Some(_)) => {
                let text = "STRIPE_SECRET_KEY and STRIPE_SECRET_KEY_FILE are both set: choose one";
                check.problem(text.to_owned());
                None
            }
            (Some(raw), None) => check
                .value("STRIPE_SECRET_KEY", raw, |raw| {
                    ApiKey::parse(raw).map_err(|problem| problem.to_string())
                })
                .map(|key| Some(KeySource::Given(key))),
            (None, Some(path)) => Some(Some(KeySource::File(path.clone()))),
        }
    }
}

impl StripeSettings {
    /// The API for this mode; reads the key's file, if there is one.
    pub fn api(&self, livemode: bool) -> Result<StripeApi, KeyError> {
        let key = match &self.key {
            KeySource::Given(key) => key.clone(),
            KeySource::File(path) => ApiKey::parse(&std::fs::read_to_string(path)?)?,
        };
        StripeApi::new(&key.for_mode(livemode)?, &self.base, self.timeout)
    }

    /// The setting that gives the key.
    pub fn key_name(&self) -> &'static str {
        match self.key {
            KeySource::Given(_) => "STRIPE_SECRET_KEY",
            KeySource::File(_) => "STRIPE_SECRET_KEY_FILE",
        }
    }
}

/// The key must not leave the machine in clear.
fn base_url(raw: &str) -> Result<String, String> {
    let problem = || "must be a URL such as https://api.stripe.com".to_owned();
    let uri: Uri = raw.parse().map_err(|_| problem())?;
    let host = uri.host().ok_or_else(problem)?;
    let is_local = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_local => {}
        Some("http") => return Err("must be https: the key would travel in clear".to_owned()),
        _ => return Err(problem()),
    }
    let has_more =
        uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@'));
    if has_more {
        return Err(problem());
    }
    Ok(raw.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_travels_over_tls_or_stays_on_this_machine() {
        for (raw, base) in [
            ("https://api.stripe.com", "https://api.stripe.com"),
            ("https://proxy/stripe/", "https://proxy/stripe"),
            ("http://127.0.0.1:12111/", "http://127.0.0.1:12111"),
            ("http://localhost:1", "http://localhost:1"),
        ] {
            assert_eq!(base_url(raw).as_deref(), Ok(base));
        }
        for raw in [
            "",
            "api.stripe.com",
            "/v1",
            "ftp://h",
            "http://api.stripe.com",
            "http://127.0.0.1.evil.example",
            "https://u:p@h",
            "https://h?x",
        ] {
            assert!(base_url(raw).is_err(), "{raw}");
        }
    }
}
