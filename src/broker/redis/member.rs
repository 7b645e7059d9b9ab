//! What one competing reader of this process holds: handed out and not acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Hold;

/// A reader's name in its group, and what it holds.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) consumer: String,
    /// With the last moment at which Redis is known not to have counted it idle: when the call
    /// began that got or kept it.
    held: Mutex<BTreeMap<i64, Instant>>,
    /// When Redis last failed: it may have lost what it knew, so that what this reader got before
    /// goes to others at once.
    failed_at: Mutex<Option<Instant>>,
    reread: AtomicBool,
}

impl Member {
    pub(super) fn new(consumer: String) -> Self {
        Self {
            consumer,
            held: Mutex::default(),
            failed_at: Mutex::default(),
            reread: AtomicBool::new(false),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<i64, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds these, which were this reader's at `since`.
    pub(super) fn hold(&self, seqs: impl IntoIterator<Item = i64>, since: Instant) {
        self.held().extend(seqs.into_iter().map(|seq| (seq, since)));
    }

    pub(super) fn holds(&self, seq: i64) -> bool {
        self.held().contains_key(&seq)
    }

    fn failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        let failed_at = self.failed_at.lock();
        failed_at.unwrap_or_else(PoisonError::into_inner)
    }

    /// Is sure of nothing until Redis has been asked anew.
    pub(super) fn doubt(&self) {
        *self.failed_at() = Some(Instant::now());
    }

    /// How sure it is that nobody else has this. After `idle` somebody may.
    pub(super) fn certainty(&self, seq: i64, idle: Duration) -> Hold {
        let failed_at = *self.failed_at();
        match self.held().get(&seq) {
            None => Hold::Lost,
            Some(since) if Some(*since) <= failed_at => Hold::Unsure,
            Some(since) if since.elapsed() < idle * 2 / 3 => Hold::Firm,
            Some(_) => Hold::Unsure,
        }
    }

    /// Of what is held in the ranges, what is not `lost` was this reader's at `since`; what is
    /// lost is forgotten, unless it was got again since. Returns how many were: what was
    /// acknowledged in the meantime is lost, and none of them.
    ///
    /// What is forgotten may have come back before this answer, and was passed over, since it was
    /// held: so the reader reads its own again.
    pub(super) fn kept(&self, ranges: &[(i64, i64)], since: Instant, lost: &[(i64, i64)]) -> usize {
        let mut held = self.held();
        let before = held.len();
        for (first, last) in lost {
            for seq in *first..=*last {
                if held.get(&seq).is_some_and(|at| *at < since) {
                    held.remove(&seq);
                }
            }
        }
        let forgotten = before - held.len();
        if forgotten > 0 {
            self.reread.store(true, Ordering::Relaxed);
        }
        for (first, last) in ranges {
            for (_, at) in held.range_mut(first..=last) {
                *at = since.max(*at);
            }
        }
        forgotten
    }

    /// Forgets these. With `reread` the reader reads again what Redis says is its own, because
    /// Redis may still have these for it.
    pub(super) fn release(&self, seqs: impl IntoIterator<Item = i64>, reread: bool) {
        let mut held = self.held();
        let mut any = false;
        for seq in seqs {
            any |= held.remove(&seq).is_some();
        }
        if any && reread {
            self.reread.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the reader must read its own again; asked once.
    pub(super) fn take_reread(&self) -> bool {
        self.reread.swap(false, Ordering::Relaxed)
    }

    pub(super) fn held_runs(&self) -> Vec<(i64, i64)> {
        runs(self.held().keys().copied())
    }

    /// The parts of a range that are not held.
    pub(super) fn not_held(&self, (first, last): (i64, i64)) -> Vec<(i64, i64)> {
        let held = self.held();
        runs((first..=last).filter(|seq| !held.contains_key(seq)))
    }
}

/// Joins ascending numbers to ranges, both ends inclusive.
pub(super) fn runs(seqs: impl IntoIterator<Item = i64>) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for seq in seqs {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => runs.push((seq, seq)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_looked_for_among_its_own_again() {
        let member = Member::new("one".to_owned());
        member.hold(1..=3, Instant::now());
        let asked = Instant::now() + Duration::from_millis(1);
        assert_eq!(member.kept(&[(1, 3)], asked, &[]), 0);
        assert!(!member.take_reread(), "all is as it was");
        let asked = asked + Duration::from_millis(1);
        assert_eq!(member.kept(&[(1, 3)], asked, &[(2, 2)]), 1);
        assert!(!member.holds(2) && member.take_reread());
    }
}
