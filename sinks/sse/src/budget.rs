//! The memory that streams may take, whatever their clients do: every chunk of frames is charged for
//! as long as anybody holds it.
//!
//! Live events are always let in. When the limit is reached, the hub lets go of what it keeps for
//! clients that are behind, replays wait, and clients that do not read are sent away, with their
//! cursors intact.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Notified when something is let go while the limit is exceeded.
    freed: Notify,
}

impl Budget {
    /// In bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    /// Waits until the limit is not exceeded.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before the look, so that what is freed in between is noticed.
            freed.as_mut().enable();
            if !self.is_exceeded() {
                return;
            }
            freed.await;
        }
    }

    /// The same bytes, charged until the last reference to them is gone.
    pub fn charge(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.used.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Charged {
            bytes,
            budget: self.clone(),
        })
    }
}

struct Charged {
    bytes: Bytes,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let size = self.bytes.len();
        let before = self.budget.used.fetch_sub(size, Ordering::Relaxed);
        if before > self.budget.limit {
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_charged_until_their_last_reference_is_gone() {
        let budget = Arc::new(Budget::new(10));
        let first = budget.charge(Bytes::from_static(b"12345678"));
        assert!(!budget.is_exceeded());
        let part = first.slice(2..4);
        let second = budget.charge(Bytes::from_static(b"abc"));
        drop(first);
        assert_eq!((budget.used(), &part[..]), (11, &b"34"[..]));
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(part);
        waiting.await.expect("no panic");
        assert_eq!(budget.used(), 3);
        drop(second);
    }
}
