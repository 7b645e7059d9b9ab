//! What one competing reader of this process holds: handed out and not acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A reader's name in its group, and what it holds.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) consumer: String,
    held: Mutex<BTreeSet<i64>>,
    reread: AtomicBool,
}

impl Member {
    pub(super) fn new(consumer: String) -> Self {
        Self {
            consumer,
            held: Mutex::default(),
            reread: AtomicBool::new(false),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, seqs: impl IntoIterator<Item = i64>) {
        self.held().extend(seqs);
    }

    pub(super) fn holds(&self, seq: i64) -> bool {
        self.held().contains(&seq)
    }

    /// Forgets these. With `reread` the reader reads again what Redis says is its own, because
    /// Redis may still have these for it.
    pub(super) fn release(&self, seqs: impl IntoIterator<Item = i64>, reread: bool) {
        let mut held = self.held();
        let mut any = false;
        for seq in seqs {
            any |= held.remove(&seq);
        }
        if any && reread {
            self.reread.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        self.held().clear();
    }

    /// Whether the reader must read its own again; asked once.
    pub(super) fn take_reread(&self) -> bool {
        self.reread.swap(false, Ordering::Relaxed)
    }

    pub(super) fn held_runs(&self) -> Vec<(i64, i64)> {
        runs(self.held().iter().copied())
    }

    /// The parts of a range that are not held.
    pub(super) fn not_held(&self, (first, last): (i64, i64)) -> Vec<(i64, i64)> {
        let held = self.held();
        runs((first..=last).filter(|seq| !held.contains(seq)))
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
