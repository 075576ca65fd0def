//! Waits for what must become true, instead of sleeping.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds something; fails with `what` after half a minute.
pub async fn eventually<T: Debug>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
