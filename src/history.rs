//! What sinks may ask of the store, behind the contract's traits.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::{
    Cursor, Event, History, Place, Subscription, Subscriptions, TypeFilter, Unavailable,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};
use ulid::Ulid;

use crate::store::{PageQuery, Resolved, Store, StoreError};

/// How long a cursor that names an event still in the outbox is waited for. The relay needs
/// milliseconds; a client may be faster.
const SEQUENCED_WITHIN: Duration = Duration::from_secs(2);

/// The store as sinks see it. Reading for clients takes a part of the connections only, so that
/// many who catch up at once do not keep producers, relay and sinks from theirs.
pub struct StoreHistory {
    store: Arc<dyn Store>,
    reads: Semaphore,
}

impl StoreHistory {
    /// `connections` is how many the store has.
    pub fn new(store: Arc<dyn Store>, connections: u32) -> Self {
        let share = (connections / 4).max(1);
        Self {
            store,
            reads: Semaphore::new(share as usize),
        }
    }

    /// Waits for its turn; the caller bounds the time.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Unavailable> {
        self.reads
            .acquire()
            .await
            .map_err(|closed| Unavailable(closed.to_string()))
    }
}

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

#[async_trait]
impl History for StoreHistory {
    /// An event that is committed but stays unsequenced (the relay is away) stands at the feed's
    /// end: whatever the feed gets from now on comes after it, or is it.
    async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Place, Unavailable> {
        let deadline = Instant::now() + SEQUENCED_WITHIN;
        loop {
            let turn = self.turn().await?;
            let resolved = self.store.resolve(tenant, cursor).await?;
            drop(turn);
            match resolved {
                Resolved::At(seq) => return Ok(Place::After(seq)),
                Resolved::Unknown => return Ok(Place::Unknown),
                Resolved::Waiting if Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                Resolved::Waiting => return Ok(Place::After(self.store.feed_head().await?.seq)),
            }
        }
    }

    async fn page(
        &self,
        tenant: &str,
        types: &TypeFilter,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Unavailable> {
        let query = PageQuery {
            tenant,
            types,
            after,
            upto,
            limit,
            newest_first: false,
        };
        let _turn = self.turn().await?;
        Ok(self.store.page(&query).await?)
    }

    async fn expired(&self) -> Result<i64, Unavailable> {
        let _turn = self.turn().await?;
        Ok(self.store.feed_head().await?.expired)
    }

    async fn latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, Unavailable> {
        let _turn = self.turn().await?;
        Ok(self.store.latest(tenant, types, upto).await?)
    }
}

#[async_trait]
impl Subscriptions for StoreHistory {
    async fn put(&self, subscription: Subscription) -> Result<Ulid, Unavailable> {
        Ok(self.store.subscription_put(subscription).await?)
    }

    async fn remove(&self, tenant: &str, endpoint: &str) -> Result<bool, Unavailable> {
        Ok(self.store.subscription_remove(tenant, endpoint).await?)
    }

    async fn forget(&self, id: Ulid) -> Result<(), Unavailable> {
        Ok(self.store.subscription_forget(id).await?)
    }

    async fn of_tenants(&self, tenants: &[&str]) -> Result<Vec<Subscription>, Unavailable> {
        Ok(self.store.subscriptions_of(tenants).await?)
    }

    async fn get(&self, ids: &[Ulid]) -> Result<Vec<Subscription>, Unavailable> {
        Ok(self.store.subscriptions_get(ids).await?)
    }
}
