//! What many latencies come to.

use std::fmt;
use std::time::Duration;

/// Latencies, ascending.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        let mut latencies: Vec<Duration> = latencies.into_iter().collect();
        latencies.sort();
        Self(latencies)
    }
}

impl Latencies {
    /// The latency at a quantile from 0 to 1, in milliseconds.
    pub fn at(&self, quantile: f64) -> f64 {
        let last = self.0.len().saturating_sub(1) as f64;
        let place = (last * quantile) as usize;
        self.0
            .get(place)
            .map_or(f64::NAN, |l| l.as_secs_f64() * 1e3)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.2} ms   p90 {:.2} ms   p99 {:.2} ms   max {:.2} ms",
            self.at(0.5),
            self.at(0.9),
            self.at(0.99),
            self.at(1.0)
        )
    }
}
