//! Waiting longer after each failure, with jitter, so that many who failed together do not come
//! back together.

use std::time::Duration;

/// How long to wait before an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub base: Duration,
    /// How much the bound grows with each failure; at least 1.
    pub factor: f64,
    /// The bound grows no further than this.
    pub max: Duration,
    /// How much of the bound is left to chance: from 0, for the bound itself, to 1 (full jitter),
    /// for anything up to it.
    pub jitter: f64,
}

impl Backoff {
    /// For calls to the store and the broker: soon at first, then every two seconds or so.
    pub const INTERNAL: Self = Self {
        base: Duration::from_millis(50),
        factor: 2.0,
        max: Duration::from_secs(2),
        jitter: 1.0,
    };

    /// The wait after `failures` failures in a row (1 for the first).
    pub fn after(&self, failures: u32) -> Duration {
        let exponent = f64::from(failures.saturating_sub(1).min(1000));
        let bound = self.base.as_secs_f64() * self.factor.powf(exponent);
        let bound = bound.min(self.max.as_secs_f64());
        let wait = bound * (1.0 - self.jitter * rand::random::<f64>());
        Duration::try_from_secs_f64(wait).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_grows_by_the_factor_up_to_the_maximum() {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(10),
            jitter: 0.0,
        };
        let waits: Vec<u64> = (1..=6).map(|n| backoff.after(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.after(u32::MAX), Duration::from_secs(10));
    }

    #[test]
    fn jitter_draws_from_its_share_of_the_range() {
        let mut backoff = Backoff {
            base: Duration::from_secs(8),
            factor: 1.0,
            max: Duration::from_secs(8),
            jitter: 1.0,
        };
        for (jitter, least) in [(1.0, 0.0), (0.5, 4.0)] {
            backoff.jitter = jitter;
            let waits: Vec<f64> = (0..1000).map(|_| backoff.after(1).as_secs_f64()).collect();
            assert!(waits.iter().all(|w| (least..=8.0).contains(w)));
            assert!(waits.iter().any(|w| *w < least + 1.0) && waits.iter().any(|w| *w > 7.0));
        }
    }
}
