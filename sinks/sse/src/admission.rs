//! How many clients there are, and what they got.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts clients and what they got.
pub struct Gauge {
    limit: u64,
    clients: AtomicU64,
    events: AtomicU64,
}

impl Gauge {
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit as u64,
            clients: AtomicU64::new(0),
            events: AtomicU64::new(0),
        }
    }

    /// A client's place among those that may be connected; `None` when all are taken.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let one_more = |n: u64| (n < self.limit).then_some(n + 1);
        self.clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| Admission(self.clone()))
    }

    pub fn clients(&self) -> u64 {
        self.clients.load(Ordering::Relaxed)
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

/// A client is counted as long as this lives.
pub struct Admission(Arc<Gauge>);

impl Admission {
    /// It is being handed so many events.
    pub fn count(&self, events: usize) {
        self.0.events.fetch_add(events as u64, Ordering::Relaxed);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
