//! When clients' rights end: with their tokens.
//!
//! One clock serves all leases, and runs only while there are any. It looks once a second, so that
//! a lease may last that much longer than it should.

use std::collections::BTreeMap;
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
#[derive(Debug)]
pub struct Term(Mutex<Wait>);

#[derive(Debug)]
enum Wait {
    Runs(Option<Waker>),
    Over,
}

impl Leases {
    /// Begins a lease. Call it within a Tokio runtime.
    pub fn take(self: &Arc<Self>, until: Instant) -> Lease {
        let term = Arc::new(Term(Mutex::new(Wait::Runs(None))));
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
        match &mut *self.lock() {
            Wait::Over => return Poll::Ready(()),
            Wait::Runs(Some(waker)) if waker.will_wake(cx.waker()) => {}
            Wait::Runs(waker) => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn end(&self) {
        let wait = std::mem::replace(&mut *self.lock(), Wait::Over);
        if let Wait::Runs(Some(waker)) = wait {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wait> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
