//! Slows down clients that try tokens.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::sync::lock;

/// Number of wrong tokens of an address within [`PERIOD`] that are answered at once.
const FREE: u32 = 10;

/// Time after which the count of an address starts again.
const PERIOD: Duration = Duration::from_secs(60);

/// Number of addresses that are remembered.
const ADDRESSES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Wrong tokens by the client's address.
pub struct Failures(Mutex<LruCache<Option<IpAddr>, Failed>>);

struct Failed {
    count: u32,
    since: Instant,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures(Mutex::new(LruCache::new(ADDRESSES)))
    }
}

impl Failures {
    /// Returns the time for which an address must wait, if it failed too often.
    pub fn wait(&self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let mut failures = lock(&self.0);
        let failed = failures.get(&address)?;
        let left = PERIOD.checked_sub(now.duration_since(failed.since))?;
        (failed.count >= FREE).then_some(left)
    }

    /// Counts a wrong token. Returns true for the first one of an address within a period, which is
    /// worth a line in the log, and for the one that makes it wait.
    pub fn count(&self, address: Option<IpAddr>, now: Instant) -> bool {
        let mut failures = lock(&self.0);
        let new = || Failed { count: 0, since: now };
        let failed = failures.get_or_insert_mut(address, new);
        if now.duration_since(failed.since) >= PERIOD {
            *failed = new();
        }
        failed.count += 1;
        matches!(failed.count, 1 | FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_often_must_wait() {
        let (failures, address) = (Failures::default(), "10.0.0.1".parse().ok());
        let now = Instant::now();
        let logged = (0..FREE).filter(|_| failures.count(address, now)).count();
        assert_eq!(logged, 2);
        assert_eq!(failures.wait(address, now), Some(PERIOD));
        assert_eq!(failures.wait("10.0.0.2".parse().ok(), now), None);
        let later = now + PERIOD + Duration::from_secs(1);
        assert_eq!(failures.wait(address, later), None);
        assert!(failures.count(address, later), "the first failure of a period");
    }

    #[test]
    fn the_memory_of_many_addresses_is_bounded() {
        let failures = Failures::default();
        for address in 0..10_000u32 {
            failures.count(Some(IpAddr::from(address.to_be_bytes())), Instant::now());
        }
        assert_eq!(lock(&failures.0).len(), ADDRESSES.get());
    }
}
