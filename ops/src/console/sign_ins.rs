//! Who signed in, for the audit log. HTTP knows no visits, only requests: somebody who sends one after a while, or from
//! elsewhere, has signed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use serde_json::json;
use tracing::warn;

use crate::store::audit;
use shared::database::with_client;

/// After that much silence it is another visit.
const SILENCE: Duration = Duration::from_secs(1_800);
const MOST_REMEMBERED: usize = 10_000;

/// Nobody can delete what stands in the audit log: of the wrong passwords of an hour no more are noted.
const MOST_FAILED: usize = 100;
const HOUR: Duration = Duration::from_secs(3_600);
/// A request waits so long for a connection, and as long for its note.
const LONGEST_NOTE: Duration = Duration::from_secs(1);

/// When somebody was last seen, by name and address.
type Seen = HashMap<(String, IpAddr), Instant>;

/// Who sent requests lately, and from where.
#[derive(Default)]
pub struct SignIns {
    let_in: Mutex<Seen>,
    failed: Mutex<Seen>,
}

impl SignIns {
    /// Notes a request of somebody who was let in, if it begins a visit.
    pub async fn note_request(&self, pool: &Pool, name: &str, client: IpAddr) {
        if self.begins_visit(name, client, Instant::now()) {
            note(pool, "console.sign_in", "signed in", name, client).await;
        }
    }

    /// Notes a wrong password, unless the same was noted lately, or many were. A name that is nobody's may be a password:
    /// it is not kept.
    pub async fn note_wrong(&self, pool: &Pool, name: Option<&str>, client: IpAddr) {
        let name = name.unwrap_or("unknown");
        if self.is_new_failure(name, client, Instant::now()) {
            let action = "console.sign_in_failed";
            note(pool, action, "name or password is wrong", name, client).await;
        }
    }

    fn begins_visit(&self, name: &str, client: IpAddr, now: Instant) -> bool {
        let mut seen = self.let_in.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST_REMEMBERED {
            seen.clear();
        }
        let last = seen.insert((name.to_owned(), client), now);
        last.is_none_or(|last| now.duration_since(last) >= SILENCE)
    }

    fn is_new_failure(&self, name: &str, client: IpAddr, now: Instant) -> bool {
        let mut noted = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, at| now.duration_since(*at) < HOUR);
        let key = (name.to_owned(), client);
        if noted.len() >= MOST_FAILED || noted.contains_key(&key) {
            return false;
        }
        noted.insert(key, now);
        true
    }
}

/// Nobody is kept out because this cannot be written: what can be done without the database is to look how things stand.
async fn note(pool: &Pool, action: &str, reason: &str, name: &str, client: IpAddr) {
    let details = json!({ "client": client });
    let noted = with_client(pool, LONGEST_NOTE, async |connection| {
        audit::note(connection, name, action, reason, &details).await
    });
    if let Err(error) = noted.await {
        warn!(%error, action, name, %client, "the audit log may lack this");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passwords_are_noted_once_an_hour_and_not_too_many_of_them() {
        let (seen, now) = (SignIns::default(), Instant::now());
        let from = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert!(seen.is_new_failure("ann", from(1), now));
        assert!(!seen.is_new_failure("ann", from(1), now + HOUR / 2));
        let more = (2..=200).filter(|last| seen.is_new_failure("ann", from(*last), now));
        assert_eq!(more.count(), MOST_FAILED - 1);
        assert!(!seen.is_new_failure("bob", from(1), now));
        assert!(seen.is_new_failure("bob", from(1), now + HOUR));
    }

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
