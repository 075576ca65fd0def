//! Asks gateways and workers how they are, on their admin listeners.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;

use super::answers::Histogram;

/// What an admin listener said.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Where it was asked.
    pub url: String,
    /// Its report; none when it did not answer.
    pub report: Option<Report>,
}

/// What `/readyz` tells.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Whether everything is there.
    pub ready: bool,
    /// `up`, `blocked`, `down` or `not consuming`.
    pub broker: String,
    /// Whether it is about to stop.
    pub draining: bool,
    /// Which version it is; none of one that is too old to say.
    #[serde(default)]
    pub version: Option<String>,
}

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;

/// Asks services.
#[derive(Clone)]
pub struct Prober(reqwest::Client);

impl Prober {
    /// A prober without connections yet.
    pub fn new() -> Self {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        Self(client.build().unwrap_or_default())
    }

    /// Asks each of these whether it is ready.
    pub async fn ask(&self, urls: &[String]) -> Vec<Probe> {
        join_all(urls.iter().map(|url| async move {
            let report = self.get(&format!("{url}/readyz")).await;
            Probe {
                url: url.clone(),
                report: report.and_then(|text| serde_json::from_str(&text).ok()),
            }
        }))
        .await
    }

    /// How many webhooks each gateway answered, by outcome, since it started; none where it did not say.
    pub async fn webhooks(&self, urls: &[String]) -> Vec<(String, Option<BTreeMap<String, i64>>)> {
        join_all(urls.iter().map(|url| async move {
            let text = self.get(&format!("{url}/metrics")).await;
            (url.clone(), text.map(|text| by_outcome(&text)))
        }))
        .await
    }

    /// How soon each gateway that answers has answered webhooks since it started.
    pub async fn answers(&self, urls: &[String]) -> BTreeMap<String, Histogram> {
        let asked = join_all(urls.iter().map(|url| async move {
            let text = self.get(&format!("{url}/metrics")).await?;
            Some((url.clone(), Histogram::read(&text)))
        }));
        asked.await.into_iter().flatten().collect()
    }

    async fn get(&self, url: &str) -> Option<String> {
        let answer = self.0.get(url).send().await.ok()?;
        if answer
            .content_length()
            .is_some_and(|length| length > MAX_ANSWER)
        {
            return None;
        }
        answer.text().await.ok()
    }
}

/// The value of one of the labels of a line.
pub fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| {
        let value = label.trim().strip_prefix(name)?.strip_prefix("=\"")?;
        value.strip_suffix('"')
    })
}

/// The counts of `tollgate_webhooks_total` in Prometheus's text format.
fn by_outcome(metrics: &str) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("tollgate_webhooks_total{") else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once("} ") else {
            continue;
        };
        if let (Some(outcome), Ok(count)) = (label(labels, "outcome"), value.trim().parse::<f64>())
        {
            *counts.entry(outcome.to_owned()).or_default() += count as i64;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted() {
        let text = "# HELP tollgate_webhooks_total x\n\
            tollgate_webhooks_total{otel_scope_name=\"gateway\",outcome=\"accepted\"} 12\n\
            tollgate_webhooks_total{outcome=\"signature_stale\",otel_scope_name=\"gateway\"} 3\n\
            tollgate_publishes_total{result=\"confirmed\"} 12\n";
        let counts = by_outcome(text);
        assert_eq!(
            (counts["accepted"], counts["signature_stale"], counts.len()),
            (12, 3, 2)
        );
    }
}
