//! When clients' rights end: with their tokens.
//!
//! One clock serves all leases, and runs only while there are any. It looks once a second, so that
//! a lease may last that much longer than it should.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

const TICK: Duration = Duration::from_secs(1);

/// All that run.
#[derive(Debug, Default)]
pub struct Leases {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By their ends; the number tells those apart that end together.
    running: BTreeMap<(Instant, u64), Arc<Term>>,
    next: u64,
    ticking: bool,
}

/// The right of one client, until then.
#[derive(Debug)]
pub struct Lease {
    all: Arc<Leases>,
    key: (Instant, u64),
    term: Arc<Term>,
}

/// Whether a lease has ended, and who waits for that.
#[derive(Debug, Default)]
pub struct Term {
    over: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Leases {
    /// Begins a lease. Call it within a Tokio runtime.
    pub fn take(self: &Arc<Self>, until: Instant) -> Lease {
        let term = Arc::<Term>::default();
        let mut state = self.lock();
        let key = (until, state.next);
        state.next += 1;
        state.running.insert(key, term.clone());
        if !std::mem::replace(&mut state.ticking, true) {
            tokio::spawn(tick(Arc::downgrade(self)));
        }
        drop(state);
        Lease {
            all: self.clone(),
            key,
            term,
        }
    }

    /// Ends those whose time has come; `false` when none is left.
    fn look(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let mut over = Vec::new();
        while let Some(first) = state.running.first_entry()
            && first.key().0 <= now
        {
            over.push(first.remove());
        }
        state.ticking = !state.running.is_empty();
        let goes_on = state.ticking;
        drop(state);
        over.iter().for_each(|term| term.end());
        goes_on
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().running.len()
    }
}

/// Weak, so that the clock ends with the sink.
async fn tick(leases: Weak<Leases>) {
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = clock.tick().await;
        match leases.upgrade() {
            Some(leases) if leases.look(now) => {}
            _ => return,
        }
    }
}

impl Lease {
    pub fn term(&self) -> &Arc<Term> {
        &self.term
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.all.lock().running.remove(&self.key);
    }
}

impl Term {
    /// Ready when it has ended; else the task is woken then. One task waits at a time.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Under the lock, so that an end in between is not missed.
        let mut waker = self.lock();
        if self.over.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn end(&self) {
        let waker = {
            let mut waker = self.lock();
            self.over.store(true, Ordering::Relaxed);
            waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    async fn over(lease: &Lease) {
        poll_fn(|cx| lease.term().poll_over(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_lease_ends_in_its_time_and_is_forgotten() {
        let leases = Arc::<Leases>::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let (long, short, same) = (leases.take(at(60)), leases.take(at(5)), leases.take(at(5)));
        let given_up = leases.take(at(7));
        assert_eq!(leases.count(), 4);
        drop(given_up);
        for lease in [&short, &same] {
            over(lease).await;
            assert!((at(5)..=at(5) + TICK).contains(&Instant::now()));
        }
        assert_eq!(leases.count(), 1);
        assert!(timeout(Duration::from_secs(50), over(&long)).await.is_err());
        over(&long).await;
        assert_eq!(leases.count(), 0);
        // The clock has stopped, and starts again.
        tokio::time::sleep(TICK * 3).await;
        assert!(!leases.lock().ticking);
        over(&leases.take(Instant::now())).await;
    }
}
