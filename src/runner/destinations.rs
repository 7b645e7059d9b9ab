//! A sink's destinations (mail domains, push services, hosts), each with limits and a breaker of
//! its own, so that one that is slow or dead does not take the sink's attempts from the others.
//!
//! Who cannot enter is put aside: the delivery goes to the ledger, with a time at which it is its
//! turn. Those times are apart by what the destination takes, so that what was put aside does not
//! come back all at once.
//!
//! Where a destination is left alone, one of those that wait for it, the scout, comes back when it
//! is time to find out. The others are let in when it works again: then all that waits for it is
//! due. The process that would find out may die, so every process sends scouts now and then to
//! what is waited for and not left alone by itself. They come back by themselves as well, late.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::breaker::{self, Breaker, Pass};
use super::later::Later;
use super::rate::Bucket;
use crate::config::Rate;

/// How long a delivery waits for a place before it is put aside. Those behind it wait as well.
const PATIENCE: Duration = Duration::from_millis(50);

/// After a wait in vain the next ones are put aside at once, for this long.
const IMPATIENT: Duration = Duration::from_secs(1);

/// More than this many are not remembered while nothing is under way there.
pub const MAX_REMEMBERED: usize = 10_000;

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
    later: Mutex<Later>,
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
    /// Whether one is to be there when its breaker lets one through.
    scouted: bool,
    /// Whether something waits for it since a time before this process knew it.
    awaited: bool,
    impatient_until: Instant,
}

/// Who cannot enter comes back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    pub until: Instant,
    /// Whether the destination is left alone; else its places or its rate are taken.
    pub left_alone: bool,
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
    /// It was tried, and is left alone until then.
    StaysOpen(Instant),
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
            Report::Works => {
                let awaited = std::mem::take(&mut here.awaited);
                if !here.breaker.succeeded() && !awaited {
                    return None;
                }
                here.turn = now;
                Change::Closed
            }
            Report::Nothing => return None,
            Report::Fails => {
                let probed = here.breaker.is_probing();
                let opened = here.breaker.failed(now);
                if !opened && !probed {
                    return None;
                }
                here.scouted = false;
                match here.breaker.closed_from(now) {
                    Some(until) if probed => Change::StaysOpen(until),
                    _ => Change::Opened,
                }
            }
        };
        if change == Change::Closed && !known.values().any(|there| there.breaker.is_open()) {
            *self.destinations.later() = Later::new(now);
        }
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
            scouted: false,
            awaited: false,
            impatient_until: now,
        }
    }

    fn is_new(&self, now: Instant) -> bool {
        self.under_way == 0
            && !self.awaited
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

    /// The next turn of those put aside where it is open for all, or of its scout.
    fn take_turn(&mut self, limits: &Limits, now: Instant) -> Option<Instant> {
        if let Some(until) = self.breaker.closed_from(now) {
            return (!std::mem::replace(&mut self.scouted, true)).then_some(until);
        }
        let apart = self.bucket.as_ref().map(Bucket::interval);
        let each = self.typical / u32::try_from(limits.concurrency).unwrap_or(u32::MAX);
        self.turn = self.turn.max(now) + apart.unwrap_or_default().max(each);
        Some(self.turn)
    }
}

impl Destinations {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            known: Mutex::default(),
            later: Mutex::new(Later::new(Instant::now())),
            left: Notify::new(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Destination>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken, if at all, after `known`.
    fn later(&self) -> MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a visit, waiting for a moment where all places are taken.
    ///
    /// # Errors
    /// It is to be put aside.
    pub async fn enter(self: &Arc<Self>, name: &Arc<str>) -> Result<Visit, Aside> {
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
    ) -> Option<Result<Visit, Aside>> {
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
                let left_alone = here.breaker.is_open();
                let turn = here.take_turn(&self.limits, now);
                Some(Err(Aside {
                    until: turn.unwrap_or_else(|| self.later().take_turn(now)),
                    left_alone,
                }))
            }
        }
    }

    /// Something waits for this destination. Whether one is to be sent to find out: not where it
    /// is left alone, for then one is.
    pub fn await_news(&self, name: &str) -> bool {
        let mut known = self.known();
        let here = known
            .entry(name.into())
            .or_insert_with(|| Destination::new(&self.limits));
        here.awaited = !here.breaker.is_open();
        here.awaited
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
    use super::super::later::IN_VAIN;
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
                    jitter: 0.0,
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
        let turns =
            [all.enter(&dead).await, all.enter(&dead).await].map(|r| r.expect_err("dead").until);
        assert_eq!(turns[0], begin + 5 * SECOND, "one is to find out");
        assert!(turns[1] > turns[0], "the others look now and then");
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

    /// Two attempts that fail, which is what it takes.
    async fn open(all: &Arc<Destinations>, name: &Arc<str>) {
        for _ in 0..2 {
            let visit = all.enter(name).await.expect("not open yet");
            visit.end(Report::Fails, SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_time_it_is_found_out_in_vain_another_one_is_sent_to_find_out() {
        let all = destinations(4, None);
        let dead: Arc<str> = "dead".into();
        open(&all, &dead).await;
        let mut until = Instant::now() + 5 * SECOND;
        for longer in [10, 20, 40] {
            assert_eq!(
                all.enter(&dead).await.expect_err("open").until,
                until,
                "a scout"
            );
            assert_ne!(
                all.enter(&dead).await.expect_err("open").until,
                until,
                "one only"
            );
            tokio::time::advance(until - Instant::now()).await;
            let scout = all.enter(&dead).await.expect("it finds out");
            until += longer * SECOND;
            let change = scout.end(Report::Fails, SECOND);
            assert_eq!(change, Some(Change::StaysOpen(until)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_before_this_process_knew_of_it_is_let_in_by_the_first_that_works() {
        let all = destinations(4, None);
        let name: Arc<str> = "awaited".into();
        let (works, fails) = (Report::Works, Report::Fails);
        assert!(all.await_news(&name), "one is to find out");
        let visit = all.enter(&name).await.expect("not left alone here");
        assert_eq!(visit.end(fails, SECOND), None);
        assert!(all.await_news(&name), "another one");
        let visit = all.enter(&name).await.expect("not left alone here");
        assert_eq!(visit.end(fails, SECOND), Some(Change::Opened));
        assert!(!all.await_news(&name), "its own scouts find out now");

        tokio::time::advance(6 * SECOND).await;
        let visit = all.enter(&name).await.expect("a scout");
        assert_eq!(visit.end(works, SECOND), Some(Change::Closed));
        assert!(all.await_news(&name));
        let visit = all.enter(&name).await.expect("it works");
        assert_eq!(visit.end(works, SECOND), Some(Change::Closed));
        let visit = all.enter(&name).await.expect("it works");
        assert_eq!(visit.end(works, SECOND), None, "nothing waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_wait_few_come_back_at_a_time_whatever_they_wait_for() {
        let all = destinations(4, None);
        let mut turns = HashMap::<Instant, u32>::new();
        for number in 0..50 {
            let dead: Arc<str> = format!("{number}").into();
            open(&all, &dead).await;
            let _scout = all.enter(&dead).await;
            for _ in 0..10 {
                tokio::time::advance(Duration::from_millis(1)).await;
                let turn = all.enter(&dead).await.expect_err("open").until;
                *turns.entry(turn).or_default() += 1;
            }
        }
        assert_eq!(turns.len(), 500 / IN_VAIN as usize);
        assert!(turns.values().all(|taken| *taken == IN_VAIN));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_for_a_moment_and_is_put_aside() {
        let all = destinations(2, None);
        let name: Arc<str> = "slow".into();
        let _one = all.enter(&name).await.expect("a place");
        let two = all.enter(&name).await.expect("a place");
        let begin = Instant::now();
        let turn = all.enter(&name).await.expect_err("full").until;
        assert!(turn > begin && begin.elapsed() >= PATIENCE);
        let later = Instant::now();
        let next = all.enter(&name).await.expect_err("full").until;
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
        let first = all.enter(&name).await.expect_err("too early").until;
        let second = all.enter(&name).await.expect_err("too early").until;
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
