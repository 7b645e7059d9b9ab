//! The truth: events, the outbox, the feed's order, the ledger, checkpoints, subscriptions.
//!
//! [`Store`] is what the rest of herald asks of a database; `postgres` and `sqlite` answer.
//! SQL stands in this folder and nowhere else.

mod error;
mod ledger;
mod migration;
mod postgres;
mod retention;
mod rows;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::{Cursor, Event, Subscription, TypeFilter};
use serde_json::value::RawValue;
use ulid::Ulid;

pub use error::StoreError;
pub use ledger::{
    Attempt, DeadFilter, Due, Lane, LedgerRow, LedgerWrite, SinkCounts, State, WaitsFor, event_id,
};
pub use postgres::{Postgres, SEQUENCE, emit};
pub use retention::{Expired, Expiry, HeldBy, Overdue, Portion, Vitals};
pub use sqlite::Sqlite;

/// An event that is to be emitted; its names have been checked.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_id: Ulid,
    pub tenant_id: String,
    pub kind: String,
    pub payload: Box<RawValue>,
    pub metadata: Option<Box<RawValue>>,
    /// Unique within the tenant; a repeated one gets the first event's answer.
    pub idempotency_key: Option<String>,
}

/// An event that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    pub event_id: Ulid,
    pub aggregate_id: i64,
    /// Whether it had been there before, by its id or its idempotency key.
    pub repeated: bool,
}

/// Where the feed begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedHead {
    /// Names this history of the feed. A database that was restored from a backup begins a new
    /// one, so that an old stream is not mistaken for its own.
    pub epoch: String,
    /// The last `seq` that was given; 0 when none was.
    pub seq: i64,
    /// Everything up to and with this `seq` has expired and was deleted; 0 when nothing has.
    pub expired: i64,
}

/// What waits in the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    pub pending: i64,
    /// Age of the oldest waiting event; zero when none waits.
    pub oldest: Duration,
}

/// Where a cursor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    At(i64),
    /// The event is committed but the relay has not sequenced it yet.
    Waiting,
    Unknown,
}

impl Resolved {
    /// The further of two places; an event that waits is further than any in the feed.
    #[must_use]
    pub fn further(self, other: Option<Self>) -> Self {
        match (self, other) {
            (Self::At(a), Some(Self::At(b))) => Self::At(a.max(b)),
            (Self::Waiting, _) | (_, Some(Self::Waiting)) => Self::Waiting,
            (Self::Unknown, Some(other)) => other,
            (here, _) => here,
        }
    }
}

/// A stretch of a tenant's feed.
#[derive(Debug, Clone)]
pub struct PageQuery<'a> {
    pub tenant: &'a str,
    pub types: &'a TypeFilter,
    /// Exclusive.
    pub after: i64,
    /// Inclusive.
    pub upto: i64,
    pub limit: usize,
    pub newest_first: bool,
}

/// An entry that the stream has, or that was read from it. Where the feed has another event at its
/// `seq`, or ends before it, the feed's history is not the stream's: the database is an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    pub seq: i64,
    pub event_id: Ulid,
}

/// Where a sink stands, as the store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything up to and with this `seq` is settled.
    pub seq: i64,
    pub paused: bool,
}

/// How often a leader calls [`Sequencer::sequence`] at least, also when nothing waits.
pub const LEAD_HEARTBEAT: Duration = Duration::from_millis(250);

/// Among how many of a tenant's last events the latest of these types is looked for.
fn latest_of(types: &TypeFilter) -> i64 {
    if types.wants_all() { 1 } else { 1000 }
}

/// Moves committed outbox rows into the feed. Whoever holds one leads; dropping it gives up the
/// lead. It works on the very connection that holds the lock, so that a lost connection is a lost
/// lead. One that is not called for a few [`LEAD_HEARTBEAT`]s may lose the lead: its process hangs.
#[async_trait]
pub trait Sequencer: Send {
    /// Claims up to `limit` outbox rows and gives each the next `seq`, in one transaction. The
    /// events are committed to the feed when it returns. Empty when nothing waits.
    ///
    /// # Errors
    /// After an error the lead is lost: drop it and ask the store again.
    async fn sequence(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, StoreError>;
}

/// Reads the feed in order, for brokers.
#[async_trait]
pub trait Feed: Send + Sync {
    /// The events with `seq > after`, dense and in order, at most `limit`.
    async fn feed(&self, after: i64, limit: usize) -> Result<Vec<Arc<Event>>, StoreError>;
}

/// What herald asks of a database. Batches first; every call bounds its own time.
#[async_trait]
pub trait Store: Feed {
    /// Creates or upgrades the schema.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Whether the database answers and its schema is there.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Stores events and their outbox rows in one transaction and answers in the same order. An
    /// id or idempotency key that the tenant used before gets the first answer.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an id is another tenant's; nothing is stored.
    async fn emit(&self, events: &[NewEvent]) -> Result<Vec<Emitted>, StoreError>;

    /// Takes the lead, if nobody has it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has the database to itself.
    async fn try_lead(&self) -> Result<Option<Box<dyn Sequencer>>, StoreError>;

    async fn feed_head(&self) -> Result<FeedHead, StoreError>;

    /// Begins a new epoch if the present one is still `old`; returns the feed's end.
    async fn new_epoch(&self, old: &str) -> Result<FeedHead, StoreError>;

    async fn backlog(&self) -> Result<Backlog, StoreError>;

    // Reading for one tenant.

    async fn page(&self, query: &PageQuery<'_>) -> Result<Vec<Arc<Event>>, StoreError>;

    async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Resolved, StoreError>;

    /// The id of the tenant's last event with `seq <= upto`: the last one of these types, if it is
    /// among the last 1,000, else the last of any.
    async fn latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, StoreError>;

    /// One event by its id, sequenced or not (then its `seq` is 0); of this tenant, if one is
    /// given.
    async fn event(&self, id: Ulid, tenant: Option<&str>) -> Result<Option<Event>, StoreError>;

    // Sinks.

    /// Makes the sink known, beginning at the feed's present end; one that is known stays.
    async fn register_sink(&self, sink: &str) -> Result<Checkpoint, StoreError>;

    async fn checkpoints(&self) -> Result<Vec<(String, Checkpoint)>, StoreError>;

    /// Moves a sink's checkpoint forward, never back. Nothing moves where `seq` is past the feed's
    /// end or the feed has another event in the place of `witness`: then the broker speaks of a
    /// history that this database, restored from a backup, does not have.
    async fn settle(
        &self,
        sink: &str,
        seq: i64,
        witness: Option<Witness>,
    ) -> Result<(), StoreError>;

    /// Whether the sink is known.
    async fn pause(&self, sink: &str, paused: bool) -> Result<bool, StoreError>;

    /// Gives up at most `limit` pending deliveries and dead letters of a sink that is gone for
    /// good: deletes them from the ledger. Returns how many.
    async fn give_up(&self, sink: &str, limit: usize) -> Result<u64, StoreError>;

    /// Deletes a sink's checkpoint, so that it holds back neither deletion nor trimming. Whether
    /// it was known.
    async fn forget_sink(&self, sink: &str) -> Result<bool, StoreError>;

    // The ledger.

    /// The (event, recipient) pairs among these events that the ledger already has.
    async fn ledger_known(
        &self,
        sink: &str,
        events: &[Ulid],
    ) -> Result<Vec<(Ulid, String)>, StoreError>;

    /// Records what came of attempts, all or none. A row that is already final stays as it is.
    /// Attempts never go down: a pending outcome that knows of fewer than the row is stale (its
    /// process hung through its lease) and is passed over. Where `writes` names a delivery twice,
    /// the first final outcome counts, or else the later one of most attempts. A pending outcome
    /// that was to be the [first](LedgerWrite::first) changes nothing where there is a row.
    async fn ledger_record(&self, sink: &str, writes: &[LedgerWrite]) -> Result<(), StoreError>;

    /// Takes up to `limit` pending rows whose time has come, oldest first, and puts their next
    /// attempt off by `lease`, so that no other process takes them and a crash costs no more
    /// than that. Of a lane only the first pending row is taken, and none beyond `upto`, up to
    /// where it is known that no row of a smaller `seq` is yet to come. Rows whose time came longer
    /// than `within` ago need not be found.
    async fn ledger_due(
        &self,
        sink: &str,
        lease: Duration,
        limit: usize,
        upto: Option<i64>,
        within: Option<Duration>,
    ) -> Result<Vec<Due>, StoreError>;

    /// How long until the sink's next pending row is due; zero if one is, `None` if none waits. Rows
    /// whose time came longer than `within` ago need not be found.
    async fn ledger_wait(
        &self,
        sink: &str,
        within: Option<Duration>,
    ) -> Result<Option<Duration>, StoreError>;

    /// Makes due after `wait` what waits for this destination, at most `limit`; returns how many.
    async fn ledger_hasten(
        &self,
        sink: &str,
        destination: &str,
        wait: Duration,
        limit: usize,
    ) -> Result<u64, StoreError>;

    /// The destinations that something waits for, at most `limit`.
    async fn ledger_awaited(&self, sink: &str, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Makes due the first pending row of each lane, where it waits for those before it. Call it
    /// after whatever was recorded of these lanes is committed.
    async fn ledger_release(&self, sink: &str, lanes: &[Lane]) -> Result<u64, StoreError>;

    /// The same for all lanes of the sink: for what a crash left waiting.
    async fn ledger_release_all(&self, sink: &str) -> Result<u64, StoreError>;

    /// Every delivery of an event, across sinks.
    async fn deliveries(&self, event: Ulid) -> Result<Vec<LedgerRow>, StoreError>;

    async fn sink_counts(&self) -> Result<Vec<(String, SinkCounts)>, StoreError>;

    /// Dead letters, newest first.
    async fn dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<LedgerRow>, StoreError>;

    async fn dead_count(&self, filter: &DeadFilter) -> Result<u64, StoreError>;

    /// Makes matching dead letters pending again, due now, with all their attempts before them;
    /// returns how many.
    async fn dead_replay(&self, filter: &DeadFilter) -> Result<u64, StoreError>;

    /// Deletes matching dead letters from the ledger; returns how many.
    async fn dead_drop(&self, filter: &DeadFilter) -> Result<u64, StoreError>;

    /// Dead letters of the sink that nobody was told of, at most `limit`.
    async fn dead_untold(&self, sink: &str, limit: usize) -> Result<Vec<LedgerRow>, StoreError>;

    /// Marks dead letters as told, unless they were replayed and have died again since.
    async fn dead_told(&self, letters: &[LedgerRow]) -> Result<(), StoreError>;

    // Push subscriptions.

    async fn subscription_put(&self, subscription: Subscription) -> Result<Ulid, StoreError>;

    async fn subscription_remove(&self, tenant: &str, endpoint: &str) -> Result<bool, StoreError>;

    async fn subscription_forget(&self, id: Ulid) -> Result<(), StoreError>;

    async fn subscriptions_of(&self, tenants: &[&str]) -> Result<Vec<Subscription>, StoreError>;

    async fn subscriptions_get(&self, ids: &[Ulid]) -> Result<Vec<Subscription>, StoreError>;

    // Housekeeping.

    /// Deletes the oldest events whose time is up and that nothing holds, in one transaction that
    /// neither producers nor the sequencer wait for. Nothing when another process does it now.
    async fn expire(&self, expiry: &Expiry, portion: Portion) -> Result<Expired, StoreError>;

    /// The oldest event, if it is kept although its time is up, and why.
    async fn overdue(&self, expiry: &Expiry) -> Result<Option<Overdue>, StoreError>;

    async fn vitals(&self) -> Result<Vitals, StoreError>;
}

/// Bounds a call's time, also where the database hangs without a word.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
    }
}
