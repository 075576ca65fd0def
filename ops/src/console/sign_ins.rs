//! Who signed in, for the audit log. HTTP knows no visits, only requests: somebody who sends one after a while, or from
//! elsewhere, has signed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use serde_json::json;
use tracing::warn;

use crate::OpsError;
use crate::store::audit;
use shared::database::StoreError;

/// After that much silence it is another visit.
const SILENCE: Duration = Duration::from_secs(1_800);
const MOST_REMEMBERED: usize = 10_000;

/// Who sent requests lately, and from where.
#[derive(Default)]
pub struct SignIns(Mutex<HashMap<(String, IpAddr), Instant>>);

impl SignIns {
    /// Notes a request of somebody who was let in, if it begins a visit.
    pub async fn note_request(&self, pool: &Pool, name: &str, client: IpAddr) {
        if self.begins_visit(name, client, Instant::now()) {
            note(pool, "console.sign_in", "signed in", name, client).await;
        }
    }

    /// Notes a wrong password. A name that is nobody's may be a password: it is not kept.
    pub async fn note_wrong(&self, pool: &Pool, name: Option<&str>, client: IpAddr) {
        let name = name.unwrap_or("unknown");
        let action = "console.sign_in_failed";
        note(pool, action, "name or password is wrong", name, client).await;
    }

    fn begins_visit(&self, name: &str, client: IpAddr, now: Instant) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST_REMEMBERED {
            seen.clear();
        }
        let last = seen.insert((name.to_owned(), client), now);
        last.is_none_or(|last| now.duration_since(last) >= SILENCE)
    }
}

/// Nobody is kept out because this cannot be written: what can be done without the database is to look how things stand.
async fn note(pool: &Pool, action: &str, reason: &str, name: &str, client: IpAddr) {
    let noted = async {
        let connection = pool.get().await.map_err(StoreError::from)?;
        let details = json!({ "client": client });
        audit::note(&connection, name, action, reason, &details).await?;
        Ok::<_, OpsError>(())
    };
    if let Err(error) = noted.await {
        warn!(%error, action, name, %client, "the audit log lacks this");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_begins_after_silence_and_from_elsewhere() {
        let (seen, now) = (SignIns::default(), Instant::now());
        let (here, there) = ([127, 0, 0, 1].into(), [10, 0, 0, 1].into());
        assert!(seen.begins_visit("ann", here, now));
        assert!(!seen.begins_visit("ann", here, now + SILENCE / 2));
        assert!(!seen.begins_visit("ann", here, now + SILENCE));
        assert!(seen.begins_visit("ann", there, now + SILENCE));
        assert!(seen.begins_visit("bob", here, now + SILENCE));
        assert!(seen.begins_visit("ann", here, now + SILENCE * 2));
    }
}
