//! Counts failed verifications per client, so that a flood of forgeries is cut short. Valid events never count.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// A limiter per client address; an IPv6 client is its /64 network.
pub struct ClientLimit {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
}

/// Clients remembered before those that have calmed down are forgotten.
const MAX_CLIENTS: usize = 100_000;

impl ClientLimit {
    /// Lets each client fail `per_minute` times at once, and as often again each minute.
    pub fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self {
            limiter: RateLimiter::keyed(Quota::per_minute(per_minute)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a failure; an error says how long the client should wait.
    pub fn count_failure(&self, client: IpAddr) -> Result<(), Duration> {
        if self.limiter.len() > MAX_CLIENTS {
            self.forget_calm_clients();
        }
        self.limiter
            .check_key(&network(client))
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forgets clients that are within their limit again.
    pub fn forget_calm_clients(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_limit_of_its_own() {
        let limit = ClientLimit::new(3);
        let (one, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..3 {
            assert!(limit.count_failure(one).is_ok());
        }
        assert!(
            limit
                .count_failure(one)
                .is_err_and(|wait| wait <= Duration::from_secs(21))
        );
        assert!(limit.count_failure(other).is_ok());
    }

    #[test]
    fn a_v6_client_is_its_network() {
        let client = |text: &str| network(text.parse().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }
}
