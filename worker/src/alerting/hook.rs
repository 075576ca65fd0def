//! The hook: a POST of `{"text": …}`, as Slack and those who follow it take it, signed as Stripe signs.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Uri};
use serde_json::json;
use shared::https::{self, HttpsClient};
use shared::signature::SigningKey;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where alerts are posted.
#[derive(Clone)]
pub struct Hook {
    uri: Uri,
    key: Option<Arc<SigningKey>>,
    client: HttpsClient,
}

impl Hook {
    /// A hook; with a secret, its posts bear a `Tollgate-Signature`.
    pub fn new(url: &str, secret: Option<&str>) -> Result<Self, String> {
        // The message never repeats the URL: those of Slack are secrets.
        let problem = || "must be a URL such as https://hooks.example.com/…".to_owned();
        let uri: Uri = url.parse().map_err(|_| problem())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(problem());
        }
        Ok(Self {
            uri,
            key: secret.map(|secret| Arc::new(SigningKey::new(secret))),
            client: https::client()?,
        })
    }

    /// Posts a text. An error is for people.
    pub async fn post(&self, text: &str, now_s: i64) -> Result<(), String> {
        let body = json!({ "text": escaped(text) }).to_string();
        let mut request = Request::post(&self.uri).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("tollgate-signature", key.sign(now_s, body.as_bytes()));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(TIMEOUT, self.client.request(request));
        match answer.await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("hook: answer {}", answer.status())),
            Ok(Err(error)) => Err(format!("hook: {error}")),
            Err(_) => Err("hook: no answer in time".to_owned()),
        }
    }
}

/// As Slack wants it (docs.slack.dev/messaging/formatting-message-text): so no text of an event can mention a channel or
/// make a link.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn a_text_mentions_nobody() {
        assert_eq!(
            escaped("<!channel> & <@U1>"),
            "&lt;!channel&gt; &amp; &lt;@U1&gt;"
        );
    }
}
