//! Refused webhooks: counted by cause with one of them as a sample, and stored every few seconds, beside the requests.
//! Nothing is kept of a body but its hash and size, nothing at all of a header.

mod store;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::refusal::Rejection;
pub use store::RejectionStore;

const INTERVAL: Duration = Duration::from_secs(5);

/// What was refused for one cause since the last batch.
#[derive(Debug)]
struct Tally {
    count: i64,
    /// Who sent the first of them.
    client: IpAddr,
    /// Hash and size of its body, where that was read.
    body: Option<([u8; 32], i32)>,
}

/// A tally by cause. There are some ten causes, so it stays small however much is refused.
type Tallies = BTreeMap<&'static str, Tally>;

/// What is written at once.
struct Batch {
    /// Names its rows, so that a repetition changes nothing.
    name: String,
    tallies: Tallies,
}

/// Counts refused webhooks; clones share it.
#[derive(Clone, Default)]
pub struct Rejections(Arc<Mutex<Tallies>>);

impl Rejections {
    /// Counts one. Its body is hashed if it becomes the sample.
    pub fn note(&self, rejection: &Rejection, peer: SocketAddr, body: Option<&[u8]>) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(rejection.reason()).or_insert_with(|| Tally {
            count: 0,
            client: peer.ip().to_canonical(),
            body: body.map(digest),
        });
        tally.count = tally.count.saturating_add(1);
    }

    /// Stores what was counted until `shutdown`, and once more then. While the database is away it goes on counting.
    pub async fn run(self, store: RejectionStore, shutdown: CancellationToken) {
        let instance = rand::random::<u64>();
        let mut unstored = None;
        for number in 0_u64.. {
            let goes_on = sleep_unless(&shutdown, INTERVAL).await;
            let name = || format!("{instance:016x}-{number}");
            unstored = match unstored.or_else(|| self.take(name)) {
                Some(batch) => stored(&store, batch).await,
                None => None,
            };
            if !goes_on {
                return;
            }
        }
    }

    fn take(&self, name: impl FnOnce() -> String) -> Option<Batch> {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!tallies.is_empty()).then(|| Batch {
            name: name(),
            tallies: std::mem::take(&mut tallies),
        })
    }
}

/// Gives the batch back that could not be stored.
async fn stored(store: &RejectionStore, batch: Batch) -> Option<Batch> {
    match store.insert(&batch).await {
        Ok(()) => None,
        Err(error) => {
            debug!(%error, "rejections are stored later");
            Some(batch)
        }
    }
}

fn digest(body: &[u8]) -> ([u8; 32], i32) {
    let bytes = i32::try_from(body.len()).unwrap_or(i32::MAX);
    (Sha256::digest(body).into(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_counted_with_its_first_as_the_sample() {
        let rejections = Rejections::default();
        let peer = |port| SocketAddr::from(([192, 0, 2, 1], port));
        for port in 1..=3 {
            rejections.note(&Rejection::BrokenBody, peer(port), None);
        }
        rejections.note(&Rejection::PayloadTooLarge, peer(4), Some(b"{}"));
        let batch = rejections.take(|| "one".to_owned()).unwrap();
        let count = |cause| batch.tallies[cause].count;
        assert_eq!((count("broken_body"), count("payload_too_large")), (3, 1));
        assert_eq!(batch.tallies["payload_too_large"].body, Some(digest(b"{}")));
        assert!(rejections.take(|| "two".to_owned()).is_none());
    }
}
