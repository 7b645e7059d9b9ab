//! Waiting for conditions, with a deadline.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Turns of waiting for a condition, until it is too late.
pub struct Turns<'a> {
    what: &'a str,
    limit: Duration,
    begin: Instant,
    turn: Interval,
}

impl<'a> Turns<'a> {
    pub fn new(what: &'a str, limit: Duration) -> Self {
        let mut turn = interval(Duration::from_millis(20));
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            what,
            limit,
            begin: Instant::now(),
            turn,
        }
    }

    /// Comes back when it is time to look: at once at first.
    ///
    /// # Panics
    /// The limit has passed.
    pub async fn next(&mut self) {
        let Self { what, limit, .. } = self;
        assert!(
            self.begin.elapsed() < *limit,
            "not within {limit:?}: {what}"
        );
        self.turn.tick().await;
    }
}

/// Asks `probe` again and again until it has something.
///
/// # Panics
/// It has nothing after `limit`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let mut turns = Turns::new(what, limit);
    loop {
        turns.next().await;
        if let Some(found) = probe().await {
            return found;
        }
    }
}

/// Waits for a future.
///
/// # Panics
/// It is not done after `limit`.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
