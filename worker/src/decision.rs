//! What an attempt's result means for its event. Pure: the dice are a parameter.

use std::time::Duration;

use crate::handlers::{Failure, Outcome};

/// When to retry, and when to give up.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Attempts before an event is dead.
    pub max_attempts: u32,
    /// Longest wait before the second attempt.
    pub backoff_base: Duration,
    /// Longest wait at all.
    pub backoff_max: Duration,
}

/// What comes next for an event. Whatever it is, its message is acknowledged once this is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Final: its effects are in place.
    Processed,
    /// Final: nothing to do here.
    Ignored,
    /// Another attempt after this long.
    Retry {
        /// From now.
        after: Duration,
    },
    /// Not retried by itself any more.
    Dead,
}

/// Decides. `attempt` counts from 1, and anew after a replay; `dice` is uniform in 0..1.
pub fn decide(result: &Result<Outcome, Failure>, attempt: u32, policy: &Policy, dice: f64) -> Next {
    match result {
        Ok(Outcome::Processed) => Next::Processed,
        Ok(Outcome::Ignored(_)) => Next::Ignored,
        Err(failure) if failure.is_permanent() || attempt >= policy.max_attempts => Next::Dead,
        Err(_) => Next::Retry {
            after: full_jitter(attempt, policy, dice),
        },
    }
}

/// Uniform between zero and an exponentially growing limit, which spreads a crowd of retries best
/// (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
fn full_jitter(attempt: u32, policy: &Policy, dice: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let limit = policy
        .backoff_base
        .saturating_mul(1 << doublings)
        .min(policy.backoff_max);
    limit.mul_f64(dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        max_attempts: 5,
        backoff_base: Duration::from_secs(1),
        backoff_max: Duration::from_secs(5),
    };

    #[test]
    fn each_result_has_its_next_state() {
        let transient = || Err(Failure::transient("order_not_found", "no order"));
        let permanent = || Err(Failure::permanent("amount_mismatch", "wrong"));
        let retry = |millis| Next::Retry {
            after: Duration::from_millis(millis),
        };
        for (result, attempt, dice, next) in [
            (Ok(Outcome::Processed), 1, 0.5, Next::Processed),
            (Ok(Outcome::Processed), 9, 0.5, Next::Processed),
            (Ok(Outcome::Ignored("no_handler")), 1, 0.5, Next::Ignored),
            (permanent(), 1, 0.5, Next::Dead),
            (transient(), 1, 0.0, retry(0)),
            (transient(), 1, 0.5, retry(500)),
            (transient(), 2, 1.0, retry(2_000)),
            (transient(), 3, 0.5, retry(2_000)),
            (transient(), 4, 1.0, retry(5_000)),
            (transient(), 5, 0.5, Next::Dead),
            (transient(), u32::MAX, 0.5, Next::Dead),
        ] {
            assert_eq!(
                decide(&result, attempt, &POLICY, dice),
                next,
                "{result:?} {attempt}"
            );
        }
    }

    #[test]
    fn waits_never_pass_the_limit() {
        let policy = Policy {
            max_attempts: u32::MAX,
            ..POLICY
        };
        for attempt in [1, 2, 31, 32, 1_000, u32::MAX - 1] {
            assert!(full_jitter(attempt, &policy, 1.0) <= policy.backoff_max);
        }
    }
}
