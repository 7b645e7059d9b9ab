//! The stream: the live window of the feed, handed to readers at their own pace. It is a cache;
//! the store is the truth.
//!
//! `embedded` keeps nothing and reads the feed; `redis` keeps a Redis stream.

mod embedded;
mod redis;

use std::sync::Arc;

use async_trait::async_trait;
use herald_contract::Event;

use crate::store::{LedgerRow, StoreError, Witness};

pub use embedded::Embedded;
pub use redis::{Redis, RedisOptions};

/// Why the broker did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Out of reach, hung, read-only or out of memory: try again later, with backoff.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// The stream does not end where the append begins. Ask for [`Broker::head`] and go on from
    /// there.
    #[error("the stream does not end at {expected}")]
    OutOfOrder { expected: i64 },
    /// The feed, which fills a hole in the stream, did not answer.
    #[error(transparent)]
    Feed(#[from] StoreError),
    /// `broker.url` cannot be used.
    #[error("broker.url: {0}")]
    Url(String),
}

/// How sure it is that an entry is this process's to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// It went to another process: leave it.
    Lost,
    /// The broker could not be asked for so long that another process may have it: wait.
    Unsure,
    Firm,
}

/// Carries one epoch of the feed to readers. All methods may be called from many tasks at once; every call
/// bounds its own time.
#[async_trait]
pub trait Broker: Send + Sync {
    /// The `seq` of the stream's last entry, whether or not trimmed since; `None` for a stream
    /// that is not there.
    async fn head(&self) -> Result<Option<i64>, BrokerError>;

    /// The last entry that is known by its event; `None` where there is none.
    async fn witness(&self) -> Result<Option<Witness>, BrokerError>;

    /// Appends events, dense in `seq`, behind the stream's end. On an error some of the first
    /// may have been appended, never one without those before it. What the stream already has is
    /// passed over, so that repeating an append does no harm.
    ///
    /// # Errors
    /// [`BrokerError::OutOfOrder`] when the stream is not empty and ends before
    /// `events[0].seq - 1`: appending would leave a hole.
    async fn append(&self, events: &[Arc<Event>]) -> Result<(), BrokerError>;

    /// Tells readers in this process that the feed has grown to `seq`.
    fn wake(&self, _seq: i64) {}

    /// Joins a competing group: of all its readers, one gets each event. A group that is not
    /// there is made to begin after `checkpoint`.
    async fn subscribe(&self, group: &str, checkpoint: i64)
    -> Result<Box<dyn Reader>, BrokerError>;

    /// Reads every event after `seq`, alone, without a group.
    async fn follow(&self, seq: i64) -> Result<Box<dyn Reader>, BrokerError>;

    /// Whether this process may still begin to deliver what a reader of the group in it got. A
    /// process that was stopped for a while, or cut off, must ask.
    fn hold(&self, _group: &str, _seq: i64) -> Hold {
        Hold::Firm
    }

    /// Says that the group is done with these.
    async fn ack(&self, group: &str, seqs: &[i64]) -> Result<(), BrokerError>;

    /// The `seq` up to which the group has settled everything; `None` when the group is not
    /// there.
    async fn settled(&self, group: &str) -> Result<Option<i64>, BrokerError>;

    /// Drops what no sink needs any more: entries with `seq <= settled`, and beyond the
    /// configured ceiling whatever is oldest.
    async fn trim(&self, settled: i64) -> Result<(), BrokerError>;

    /// Tells whoever listens of dead letters. The ledger has them already.
    async fn dead_letters(&self, letters: &[LedgerRow]) -> Result<(), BrokerError>;

    async fn ping(&self) -> Result<(), BrokerError>;
}

/// One reader's place.
#[async_trait]
pub trait Reader: Send {
    /// The next events in the order of `seq`, at most `max`. Waits for a while when there are
    /// none and then returns an empty batch. A competing reader also gets what a dead process
    /// left. What a competing reader got and neither acknowledged nor dropped with the reader is
    /// kept from the others. After an error, call it again.
    ///
    /// Not safe to cancel: drive it from a task of its own.
    async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError>;
}
