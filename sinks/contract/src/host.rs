//! What a sink may ask of its host.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{Event, TypeFilter};

/// The host cannot do it now (its database is away, most likely); ask again later.
#[derive(Debug, Clone, thiserror::Error)]
#[error("unavailable: {0}")]
pub struct Unavailable(pub String);

/// The host as a sink sees it.
#[derive(Clone)]
pub struct Host {
    /// The sink's own name: its table in `config.toml`, its consumer group, its ledger.
    pub sink: String,
    pub history: Arc<dyn History>,
    pub subscriptions: Arc<dyn Subscriptions>,
    /// A folder for what the sink must keep on this machine. It may not exist yet.
    pub data_dir: PathBuf,
}

/// A client's place in the stream, as it names it. Both may be given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// An `aggregateId` that REST returned; 0 is before the first event.
    pub after: Option<i64>,
    /// The id of the last event received; the nil ULID is before the first event.
    pub event_id: Option<Ulid>,
}

/// What a [`Cursor`] resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Go on after this `seq`.
    After(i64),
    /// The cursor names nothing that this tenant has.
    Unknown,
}

/// The feed, read back from the database.
#[async_trait]
pub trait History: Send + Sync {
    /// Where a tenant's cursor stands. Where both parts are given the further one wins; another
    /// tenant's id is unknown.
    async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Place, Unavailable>;

    /// The tenant's events with `after < seq <= upto` that pass the filter, in order, at most
    /// `limit`. Fewer than `limit` means that there are no more. What has expired is not among
    /// them: ask [`expired`](Self::expired) *after* the page whether that can matter.
    async fn page(
        &self,
        tenant: &str,
        types: &TypeFilter,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Unavailable>;

    /// The `seq` up to which events have expired and were deleted, of all tenants; it only grows.
    /// Whoever read from a smaller `after` may have been given a page with a hole.
    async fn expired(&self) -> Result<i64, Unavailable>;

    /// The id of the tenant's last event with `seq <= upto`; `None` when there is none. It is the
    /// last one of these types, if that is among the last 1,000, else the last of any.
    async fn latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, Unavailable>;
}

/// A browser's push subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// The recipient's key in the ledger.
    pub id: Ulid,
    pub tenant_id: String,
    pub user_id: Option<String>,
    /// The push service's URL; one subscription an endpoint and tenant.
    pub endpoint: String,
    /// The browser's public key, base64url without padding.
    pub p256dh: String,
    /// The shared authentication secret, base64url without padding.
    pub auth: String,
    pub created_at: DateTime<Utc>,
}

/// The browsers that asked to be pushed to.
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Stores it; one with the same tenant and endpoint is replaced and keeps its id, which is
    /// returned.
    async fn put(&self, subscription: Subscription) -> Result<Ulid, Unavailable>;

    /// Removes the tenant's subscription at this endpoint; whether there was one.
    async fn remove(&self, tenant: &str, endpoint: &str) -> Result<bool, Unavailable>;

    /// Removes a subscription by its id.
    async fn forget(&self, id: Ulid) -> Result<(), Unavailable>;

    /// All subscriptions of these tenants, in any order.
    async fn of_tenants(&self, tenants: &[&str]) -> Result<Vec<Subscription>, Unavailable>;

    /// Those of these ids that exist, in any order.
    async fn get(&self, ids: &[Ulid]) -> Result<Vec<Subscription>, Unavailable>;
}
