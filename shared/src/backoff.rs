//! Waiting between tries to reconnect. The only module that uses the `backoff` crate, which is unmaintained upstream:
//! swap it here.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Exponential delays with jitter, without end: each is drawn from 50 % to 150 % of an interval that grows by half.
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Delays that start around `first` and stay around `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let mut policy = ExponentialBackoff {
            initial_interval: first,
            max_interval: longest.max(first),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        policy.reset();
        Self(policy)
    }

    /// The delays for reconnecting to a service on the network: 100 ms up to 3 s.
    pub fn reconnect() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(3))
    }

    /// How long to wait before the next try.
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_bounded_and_never_end() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let delays: Vec<_> = (0..200).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= Duration::from_millis(15));
        assert!(
            delays
                .iter()
                .all(|delay| *delay <= Duration::from_millis(150))
        );
        assert!(
            delays[100..]
                .iter()
                .all(|delay| *delay >= Duration::from_millis(50))
        );
    }
}
