//! A sink's destinations (mail domains, push services, hosts), each with limits and a breaker of
//! its own, so that one that is slow or dead does not take the sink's attempts from the others.
//!
//! Who cannot enter is put aside: the delivery goes to the ledger, with a time at which it is its
//! turn. Those times are apart by what the destination takes, so that what was put aside does not
//! come back all at once. When a destination works again, all that waits for it is due.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::breaker::{self, Breaker, Pass};
use super::rate::Bucket;
use crate::config::Rate;

/// How long a delivery waits for a place before it is put aside. Those behind it wait as well.
const PATIENCE: Duration = Duration::from_millis(50);

/// After a wait in vain the next ones are put aside at once, for this long.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Between the turns of those that wait for a destination that is left alone.
const APART: Duration = Duration::from_millis(10);

/// More than this many are not remembered while nothing is under way there.
const MAX_REMEMBERED: usize = 10_000;

/// What holds for each destination.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Attempts under way at once.
    pub concurrency: usize,
    pub rate: Option<Rate>,
    pub breaker: breaker::Limits,
}

#[derive(Debug)]
pub struct Destinations {
    limits: Limits,
    known: Mutex<HashMap<Arc<str>, Destination>>,
    /// Notified when somebody leaves.
    left: Notify,
}

#[derive(Debug)]
struct Destination {
    under_way: usize,
    bucket: Option<Bucket>,
    breaker: Breaker,
    /// How long an attempt takes, on a moving average.
    typical: Duration,
    /// The next free turn of those put aside.
    turn: Instant,
    impatient_until: Instant,
}

/// What an attempt says of the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It answered, if only to refuse this one.
    Works,
    Fails,
    /// It was not asked.
    Nothing,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
}

/// An attempt under way at a destination.
#[derive(Debug)]
pub struct Visit {
    destinations: Arc<Destinations>,
    name: Arc<str>,
}

impl Visit {
    pub fn destination(&self) -> &Arc<str> {
        &self.name
    }

    /// Ends it, and tells what came of it.
    pub fn end(self, report: Report, took: Duration) -> Option<Change> {
        let now = Instant::now();
        let mut known = self.destinations.known();
        let here = known.get_mut(&self.name)?;
        here.typical = (here.typical * 7 + took) / 8;
        let change = match report {
            Report::Works if here.breaker.succeeded() => {
                here.turn = now;
                Change::Closed
            }
            Report::Fails if here.breaker.failed(now) => Change::Opened,
            _ => return None,
        };
        Some(change)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut known = self.destinations.known();
        if let Some(here) = known.get_mut(&self.name) {
            here.under_way -= 1;
            if here.is_new(Instant::now()) {
                known.remove(&self.name);
            }
        }
        drop(known);
        self.destinations.left.notify_waiters();
    }
}

impl Destination {
    fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            under_way: 0,
            bucket: limits.rate.map(Bucket::new),
            breaker: Breaker::new(limits.breaker),
            typical: Duration::from_millis(10),
            turn: now,
            impatient_until: now,
        }
    }

    fn is_new(&self, now: Instant) -> bool {
        self.under_way == 0
            && self.breaker.is_new()
            && self.turn <= now
            && self.impatient_until <= now
            && self
                .bucket
                .as_ref()
                .is_none_or(|bucket| bucket.is_full(now))
    }

    /// `Err` with whether it may be worth to wait for a place.
    fn enter(&mut self, limits: &Limits, now: Instant) -> Result<(), bool> {
        if let Some(until) = self.breaker.closed_from(now)
            && until > now
        {
            return Err(false);
        }
        if self.under_way >= limits.concurrency {
            return Err(now >= self.impatient_until);
        }
        if let Some(bucket) = &mut self.bucket
            && bucket.take(now).is_err()
        {
            return Err(now >= self.impatient_until);
        }
        match self.breaker.ask(now) {
            Pass::Go => {
                self.under_way += 1;
                Ok(())
            }
            Pass::Wait(_) => Err(false),
        }
    }

    /// The next turn of those put aside.
    fn take_turn(&mut self, limits: &Limits, now: Instant) -> Instant {
        let open = self.breaker.closed_from(now);
        let apart = match (open, &self.bucket) {
            (Some(_), _) => APART,
            (None, Some(bucket)) => bucket.interval(),
            (None, None) => Duration::ZERO,
        };
        let each = self.typical / u32::try_from(limits.concurrency).unwrap_or(u32::MAX);
        let turn = self.turn.max(open.unwrap_or(now)) + apart.max(each);
        self.turn = turn;
        turn
    }
}

impl Destinations {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            known: Mutex::default(),
            left: Notify::new(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Destination>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a visit, waiting for a moment where all places are taken.
    ///
    /// # Errors
    /// It is to be put aside, until this time.
    pub async fn enter(self: &Arc<Self>, name: &Arc<str>) -> Result<Visit, Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // Before the look, so that who leaves in between is noticed.
            left.as_mut().enable();
            let now = Instant::now();
            if let Some(entered) = self.look(name, now, deadline) {
                return entered;
            }
            // A rate has no one who leaves.
            let _ = timeout_at(deadline.min(now + Duration::from_millis(5)), left).await;
        }
    }

    /// `None` when it is worth to wait.
    fn look(
        self: &Arc<Self>,
        name: &Arc<str>,
        now: Instant,
        deadline: Instant,
    ) -> Option<Result<Visit, Instant>> {
        let mut known = self.known();
        if known.len() > MAX_REMEMBERED {
            known.retain(|_, there| there.under_way > 0);
        }
        let here = known
            .entry(name.clone())
            .or_insert_with(|| Destination::new(&self.limits));
        match here.enter(&self.limits, now) {
            Ok(()) => Some(Ok(Visit {
                destinations: self.clone(),
                name: name.clone(),
            })),
            Err(true) if now < deadline => None,
            Err(worth_waiting) => {
                if worth_waiting {
                    here.impatient_until = now + IMPATIENT;
                }
                Some(Err(here.take_turn(&self.limits, now)))
            }
        }
    }

    /// Those that are left alone now.
    pub fn open(&self) -> Vec<Arc<str>> {
        let known = self.known();
        let open = known.iter().filter(|(_, there)| there.breaker.is_open());
        open.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;

    const SECOND: Duration = Duration::from_secs(1);

    fn destinations(concurrency: usize, rate: Option<&str>) -> Arc<Destinations> {
        Arc::new(Destinations::new(Limits {
            concurrency,
            rate: rate.map(|rate| rate.parse().expect("a rate")),
            breaker: breaker::Limits {
                failures: 2,
                open: Backoff {
                    base: 5 * SECOND,
                    factor: 2.0,
                    max: 60 * SECOND,
                    jitter: false,
                },
            },
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_destination_is_left_alone_and_the_others_go_on() {
        let all = destinations(4, None);
        let (dead, alive): (Arc<str>, Arc<str>) = ("dead".into(), "alive".into());
        let first = all.enter(&dead).await.expect("unknown yet");
        let second = all.enter(&dead).await.expect("unknown yet");
        assert_eq!(first.end(Report::Fails, SECOND), None);
        assert_eq!(second.end(Report::Fails, SECOND), Some(Change::Opened));
        let begin = Instant::now();
        let turns = [all.enter(&dead).await, all.enter(&dead).await].map(|r| r.expect_err("dead"));
        assert!(turns[0] > begin + 5 * SECOND && turns[1] > turns[0]);
        assert_eq!(Instant::now(), begin, "nobody waits for it");
        assert!(all.enter(&alive).await.is_ok());
        assert_eq!(all.open(), std::slice::from_ref(&dead));

        tokio::time::advance(6 * SECOND).await;
        let probe = all.enter(&dead).await.expect("one finds out");
        assert!(all.enter(&dead).await.is_err(), "one at a time");
        assert_eq!(probe.end(Report::Works, SECOND), Some(Change::Closed));
        assert!(all.enter(&dead).await.is_ok());
        assert!(all.open().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_for_a_moment_and_is_put_aside() {
        let all = destinations(2, None);
        let name: Arc<str> = "slow".into();
        let _one = all.enter(&name).await.expect("a place");
        let two = all.enter(&name).await.expect("a place");
        let begin = Instant::now();
        let turn = all.enter(&name).await.expect_err("full");
        assert!(turn > begin && begin.elapsed() >= PATIENCE);
        let later = Instant::now();
        let next = all.enter(&name).await.expect_err("full");
        assert!(next > turn && later.elapsed().is_zero(), "at once");

        tokio::time::advance(IMPATIENT).await;
        let waiting = tokio::spawn({
            let (all, name) = (all.clone(), name.clone());
            async move { all.enter(&name).await.is_ok() }
        });
        tokio::task::yield_now().await;
        two.end(Report::Works, SECOND);
        assert!(waiting.await.expect("no panic"), "a place was left");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_apart_by_what_the_rate_allows() {
        let all = destinations(100, Some("1/s"));
        let name: Arc<str> = "limited".into();
        let _visit = all.enter(&name).await.expect("the first");
        let first = all.enter(&name).await.expect_err("too early");
        let second = all.enter(&name).await.expect_err("too early");
        assert_eq!(second - first, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_quiet_is_forgotten() {
        let all = destinations(1, None);
        for number in 0..100 {
            let name: Arc<str> = format!("{number}").into();
            let visit = all.enter(&name).await.expect("a place");
            visit.end(Report::Works, SECOND);
        }
        assert!(all.known().is_empty());
    }
}
