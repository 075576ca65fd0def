//! How fast healthy traffic is answered, as a sender sees it that makes a connection for each request.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::scene::Scene;
use crate::stripe::signature;

const PROBES: usize = 300;
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// Below this, twice the time is the noise of a machine that others use too.
const NOISE: Duration = Duration::from_millis(100);

/// Times of answers to an event of the load that is stored already: the whole way, with a statement and a commit.
pub struct Probe {
    sorted: Vec<Duration>,
}

impl Probe {
    /// Sends one after the other, each to be answered with 200.
    pub async fn take(scene: &Scene) -> Result<Self> {
        let fresh = reqwest::Client::builder().pool_max_idle_per_host(0);
        let (http, body) = (
            fresh.timeout(LONGEST_ANSWER).build()?,
            scene.load.first_body(),
        );
        let url = format!("http://{}/webhooks/stripe", scene.stage.gateways[0].address);
        let mut sorted = Vec::with_capacity(PROBES);
        for _ in 0..PROBES {
            let request = http.post(&url).body(body.clone());
            let request = request.header("stripe-signature", signature(body.as_bytes()));
            let began = Instant::now();
            let answer = request.send().await?;
            sorted.push(began.elapsed());
            ensure!(answer.status() == 200, "a probe got {}", answer.status());
            answer.bytes().await?;
        }
        sorted.sort_unstable();
        Ok(Self { sorted })
    }

    /// In milliseconds, for people.
    pub fn p99(&self) -> String {
        format!("{:.1} ms", 1e3 * self.p99_time().as_secs_f64())
    }

    fn p99_time(&self) -> Duration {
        self.sorted[PROBES * 99 / 100]
    }

    /// Fails where it is so many times as slow as before.
    pub fn compare(&self, before: &Self, most: f64) -> Result<()> {
        let bound = before.p99_time().mul_f64(most).max(NOISE);
        let (now, before) = (self.p99(), before.p99());
        ensure!(
            self.p99_time() <= bound,
            "the p99 of healthy traffic is {now}, before it was {before}"
        );
        Ok(())
    }
}
