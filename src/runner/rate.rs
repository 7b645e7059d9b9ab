//! A rate limit: so many attempts in so much time, with bursts of a tenth of a second's worth, as
//! the generic cell rate algorithm counts them (ITU-T I.371, annex A): one time stamp, no timer.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Rate;

/// Bursts are what fits into this time, and one at least.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Bucket {
    interval: Duration,
    /// When the next one would begin if all came evenly.
    next: Instant,
}

impl Bucket {
    pub fn new(rate: Rate) -> Self {
        Self {
            interval: rate.interval(),
            next: Instant::now(),
        }
    }

    /// Takes one, or says when there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let due = self.next.max(now);
        let earliest = due.checked_sub(BURST).unwrap_or(now);
        if earliest > now {
            return Err(earliest);
        }
        self.next = due + self.interval;
        Ok(())
    }

    /// How many could be taken in this time if nobody else took any.
    pub fn within(&self, time: Duration, now: Instant) -> usize {
        let due = self.next.max(now);
        let Some(room) = (now + time + BURST).checked_duration_since(due) else {
            return 0;
        };
        let more = room.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(more)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }

    /// Whether it is as a new one.
    pub fn is_full(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Between two, on average.
    pub fn interval(&self) -> Duration {
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many get through in `time`, asking every millisecond.
    fn taken(rate: &str, time: Duration) -> usize {
        let mut bucket = Bucket::new(rate.parse().expect("a rate"));
        let begin = Instant::now();
        let moments = (0..time.as_millis()).map(|ms| begin + Duration::from_millis(ms as u64));
        moments.filter(|now| bucket.take(*now).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_get_through_as_the_rate_says_and_a_small_burst() {
        for (rate, seconds, least, most) in [
            ("100/s", 10, 1000, 1011),
            ("1/s", 10, 10, 11),
            ("60/m", 10, 10, 11),
            ("3600/h", 10, 10, 11),
        ] {
            let count = taken(rate, Duration::from_secs(seconds));
            assert!((least..=most).contains(&count), "{rate}: {count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_how_many_get_through_in_a_time() {
        let second = Duration::from_secs(1);
        for (rate, at_first, later) in [("100/s", 111, 111), ("1/s", 2, 1), ("10/h", 1, 0)] {
            let mut bucket = Bucket::new(rate.parse().expect("a rate"));
            let now = Instant::now();
            assert_eq!(bucket.within(second, now), at_first, "{rate}");
            while bucket.take(now).is_ok() {}
            let left = bucket.within(second, now);
            assert!(left <= later, "{rate}: {left}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_to_wait_is_told_how_long() {
        let mut bucket = Bucket::new("1/s".parse().expect("a rate"));
        let now = Instant::now();
        assert_eq!(bucket.take(now), Ok(()));
        let when = bucket.take(now).expect_err("too early");
        assert!(when > now && bucket.take(when).is_ok());
    }
}
