//! The feed in memory.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use herald_contract::{Cursor, Event, History, Place, TypeFilter, Unavailable};
use ulid::Ulid;

/// The events that were committed, and a switch to be away.
#[derive(Debug, Default)]
pub struct MemoryHistory {
    events: Mutex<Vec<Arc<Event>>>,
    expired: AtomicI64,
    /// While set, every question is answered [`Unavailable`].
    pub away: AtomicBool,
    /// How often [`History::page`] was asked.
    pub pages: AtomicUsize,
}

impl MemoryHistory {
    /// Appends events; the caller keeps the order of `seq`.
    pub fn commit(&self, events: &[Arc<Event>]) {
        self.events.lock().expect("whole").extend_from_slice(events);
    }

    /// Deletes events from the beginning up to and with `seq`.
    pub fn expire(&self, seq: i64) {
        let mut events = self.events.lock().expect("whole");
        events.retain(|e| e.seq > seq);
        self.expired.fetch_max(seq, Ordering::Relaxed);
    }

    async fn of(&self, tenant: &str) -> Result<Vec<Arc<Event>>, Unavailable> {
        // A query takes its turn, so that others run in between.
        tokio::task::yield_now().await;
        if self.away.load(Ordering::Relaxed) {
            return Err(Unavailable("the test says so".into()));
        }
        let events = self.events.lock().expect("whole");
        let own = events.iter().filter(|e| &*e.tenant_id == tenant);
        Ok(own.cloned().collect())
    }
}

#[async_trait]
impl History for MemoryHistory {
    async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Place, Unavailable> {
        let events = self.of(tenant).await?;
        let named = events.iter().filter(|e| {
            cursor.after == Some(e.aggregate_id) || cursor.event_id == Some(e.event_id)
        });
        let start = cursor.after == Some(0) || cursor.event_id == Some(Ulid::nil());
        let furthest = named.map(|e| e.seq).max().or(start.then_some(0));
        Ok(furthest.map_or(Place::Unknown, Place::After))
    }

    async fn page(
        &self,
        tenant: &str,
        types: &TypeFilter,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Unavailable> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let mut events = self.of(tenant).await?;
        events.retain(|e| after < e.seq && e.seq <= upto && types.matches(&e.kind));
        events.truncate(limit);
        Ok(events)
    }

    async fn expired(&self) -> Result<i64, Unavailable> {
        Ok(self.expired.load(Ordering::Relaxed))
    }

    async fn latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, Unavailable> {
        let mut events = self.of(tenant).await?;
        events.retain(|e| e.seq <= upto);
        let wanted = events.iter().rfind(|e| types.matches(&e.kind));
        Ok(wanted.or(events.last()).map(|e| e.event_id))
    }
}
