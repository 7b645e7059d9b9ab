//! Push subscriptions in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use herald_contract::{Subscription, Subscriptions, Unavailable};
use ulid::Ulid;

/// The subscriptions that were put, and a switch to be away.
#[derive(Debug, Default)]
pub struct MemorySubscriptions {
    rows: Mutex<Vec<Subscription>>,
    /// While set, every question is answered [`Unavailable`].
    pub away: AtomicBool,
    /// How many questions were asked.
    pub questions: AtomicUsize,
}

impl MemorySubscriptions {
    /// All that are stored, in the order in which they came.
    pub fn all(&self) -> Vec<Subscription> {
        self.rows.lock().expect("whole").clone()
    }

    fn ask<T>(&self, question: impl FnOnce(&mut Vec<Subscription>) -> T) -> Result<T, Unavailable> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(Unavailable("the test says so".into()));
        }
        Ok(question(&mut self.rows.lock().expect("whole")))
    }

    fn such(&self, of: impl Fn(&Subscription) -> bool) -> Result<Vec<Subscription>, Unavailable> {
        self.ask(|rows| rows.iter().filter(|s| of(s)).cloned().collect())
    }
}

#[async_trait]
impl Subscriptions for MemorySubscriptions {
    async fn put(&self, mut new: Subscription) -> Result<Ulid, Unavailable> {
        self.ask(|rows| {
            let same =
                |s: &Subscription| s.tenant_id == new.tenant_id && s.endpoint == new.endpoint;
            if let Some(old) = rows.iter().position(same) {
                new.id = rows.remove(old).id;
            }
            let id = new.id;
            rows.push(new);
            id
        })
    }

    async fn remove(&self, tenant: &str, endpoint: &str) -> Result<bool, Unavailable> {
        self.ask(|rows| {
            let before = rows.len();
            rows.retain(|s| s.tenant_id != tenant || s.endpoint != endpoint);
            rows.len() < before
        })
    }

    async fn forget(&self, id: Ulid) -> Result<(), Unavailable> {
        self.ask(|rows| rows.retain(|s| s.id != id))
    }

    async fn of_tenants(&self, tenants: &[&str]) -> Result<Vec<Subscription>, Unavailable> {
        self.such(|s| tenants.contains(&s.tenant_id.as_str()))
    }

    async fn get(&self, ids: &[Ulid]) -> Result<Vec<Subscription>, Unavailable> {
        self.such(|s| ids.contains(&s.id))
    }
}
