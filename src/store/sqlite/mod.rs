//! SQLite: one file, one process, nothing to install.
//!
//! One connection writes, in transactions that take the write lock as they begin; a few others
//! read, and see what is committed without waiting for the writer (the journal is a write-ahead
//! log). A commit is on the disk before it is answered. SQLite has no row-level security: tenants
//! are kept apart by the statements.

mod emit;
mod feed;
mod ledger;
mod retention;
mod sequencer;
mod sinks;
mod subscriptions;
mod waiting;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use herald_contract::{Cursor, Event, Subscription, TypeFilter};
use serde::Serialize;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::Mutex;
use ulid::Ulid;

use self::feed::read_feed;
use super::migration::{Step, migrator};
use super::{
    Backlog, Checkpoint, DeadFilter, Due, Emitted, Expired, Expiry, Feed, FeedHead, Lane,
    LedgerRow, LedgerWrite, NewEvent, Overdue, PageQuery, Portion, Resolved, Sequencer, SinkCounts,
    Store, StoreError, Vitals, Witness, within,
};

const READERS: u32 = 4;

/// A database file. Clones share its connections.
#[derive(Clone)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    timeout: Duration,
    path: Arc<Path>,
    lock_path: Arc<Path>,
    /// Locked by whoever leads within this process; holds the lock on the file once it is had.
    lead: Arc<Mutex<Option<File>>>,
}

impl Sqlite {
    /// Prepares the connections; opens the file when first used, and creates it where it is not.
    ///
    /// `timeout` bounds the wait for a connection and for another process's lock.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL cannot be read, names no file, or its folder is not there.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, StoreError> {
        let connect = SqliteConnectOptions::from_str(url)
            .map_err(|e| StoreError::Url(e.to_string()))?
            .create_if_missing(true)
            .foreign_keys(true)
            .busy_timeout(timeout);
        let path = file(url, &connect)?;
        let reader = connect.clone().pragma("query_only", "ON");
        let writer = connect
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        Ok(Self {
            writer: pool(1, timeout).connect_lazy_with(writer),
            readers: pool(READERS, timeout).connect_lazy_with(reader),
            timeout,
            path: path.into(),
            lock_path: PathBuf::from(lock_path).into(),
            lead: Arc::default(),
        })
    }

    /// Bounds a call's time; twice what a lock may take.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.timeout * 2, call).await
    }

    /// A transaction that has the write lock from its beginning: one that read first and wanted
    /// to write then could be refused.
    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// The file that the URL names.
fn file(url: &str, connect: &SqliteConnectOptions) -> Result<PathBuf, StoreError> {
    let path = connect.get_filename().to_owned();
    let problem = if url.contains(":memory:") || url.contains("mode=memory") {
        "a database in memory would forget its events: name a file, such as sqlite://herald.db"
            .to_owned()
    } else if url.contains("mode=ro") || url.contains("immutable=") {
        "herald writes to its database: it cannot be opened read-only".to_owned()
    } else if path.file_name().is_none() {
        "names no file; write it as sqlite://herald.db or sqlite:///var/lib/herald/herald.db"
            .to_owned()
    } else {
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                format!("the folder {} is not there", folder.display())
            }
            _ => return Ok(path),
        }
    };
    Err(StoreError::Url(problem))
}

/// Connections to a file do not grow stale.
fn pool(connections: u32, timeout: Duration) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// A time as the columns hold it: of one width, so that it sorts as text.
fn stamp(time: DateTime<Utc>) -> String {
    match time.year() {
        ..0 => "0000-01-01T00:00:00.000000Z".to_owned(),
        0..=9999 => time.to_rfc3339_opts(SecondsFormat::Micros, true),
        10000.. => "9999-12-31T23:59:59.999999Z".to_owned(),
    }
}

/// Many values as one parameter, for `json_each`.
fn json<T: Serialize + ?Sized>(values: &T) -> Result<String, StoreError> {
    serde_json::to_string(values).map_err(|e| sqlx::Error::Encode(Box::new(e)).into())
}

fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[async_trait]
impl Feed for Sqlite {
    async fn feed(&self, after: i64, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        self.within(read_feed(&self.readers, after, limit)).await
    }
}

const MIGRATIONS: &[Step] = &[
    (
        "herald",
        include_str!("../../../migrations/sqlite/0001_herald.sql"),
    ),
    (
        "retention",
        include_str!("../../../migrations/sqlite/0002_retention.sql"),
    ),
    (
        "waiting",
        include_str!("../../../migrations/sqlite/0003_waiting.sql"),
    ),
    (
        "dead letters",
        include_str!("../../../migrations/sqlite/0004_dead_letters.sql"),
    ),
];

#[async_trait]
impl Store for Sqlite {
    async fn migrate(&self) -> Result<(), StoreError> {
        let migrations = migrator(MIGRATIONS, "herald_migrations");
        Ok(migrations.run(&self.writer).await?)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.within(async { self.read_head().await.map(drop) })
            .await
    }

    async fn emit(&self, events: &[NewEvent]) -> Result<Vec<Emitted>, StoreError> {
        self.within(self.insert_events(events)).await
    }

    async fn try_lead(&self) -> Result<Option<Box<dyn Sequencer>>, StoreError> {
        self.within(self.lead()).await
    }

    async fn feed_head(&self) -> Result<FeedHead, StoreError> {
        self.within(self.read_head()).await
    }

    async fn new_epoch(&self, old: &str) -> Result<FeedHead, StoreError> {
        self.within(self.replace_epoch(old)).await
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        self.within(self.read_backlog()).await
    }

    async fn page(&self, query: &PageQuery<'_>) -> Result<Vec<Arc<Event>>, StoreError> {
        self.within(self.read_page(query)).await
    }

    async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Resolved, StoreError> {
        self.within(self.resolve_cursor(tenant, cursor)).await
    }

    async fn latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, StoreError> {
        self.within(self.read_latest(tenant, types, upto)).await
    }

    async fn event(&self, id: Ulid, tenant: Option<&str>) -> Result<Option<Event>, StoreError> {
        self.within(self.read_event(id, tenant)).await
    }

    async fn register_sink(&self, sink: &str) -> Result<Checkpoint, StoreError> {
        self.within(self.insert_checkpoint(sink)).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Checkpoint)>, StoreError> {
        self.within(self.read_checkpoints()).await
    }

    async fn settle(
        &self,
        sink: &str,
        seq: i64,
        witness: Option<Witness>,
    ) -> Result<(), StoreError> {
        self.within(self.advance_checkpoint(sink, seq, witness))
            .await
    }

    async fn pause(&self, sink: &str, paused: bool) -> Result<bool, StoreError> {
        self.within(self.set_paused(sink, paused)).await
    }

    async fn give_up(&self, sink: &str, limit: usize) -> Result<u64, StoreError> {
        self.within(self.delete_unfinished(sink, limit)).await
    }

    async fn forget_sink(&self, sink: &str) -> Result<bool, StoreError> {
        self.within(self.delete_checkpoint(sink)).await
    }

    async fn ledger_known(
        &self,
        sink: &str,
        events: &[Ulid],
    ) -> Result<Vec<(Ulid, String)>, StoreError> {
        self.within(self.read_known(sink, events)).await
    }

    async fn ledger_record(&self, sink: &str, writes: &[LedgerWrite]) -> Result<(), StoreError> {
        self.within(self.write_ledger(sink, writes)).await
    }

    async fn ledger_due(
        &self,
        sink: &str,
        lease: Duration,
        limit: usize,
        upto: Option<i64>,
        _within: Option<Duration>,
    ) -> Result<Vec<Due>, StoreError> {
        self.within(self.take_due(sink, lease, limit, upto)).await
    }

    async fn ledger_hasten(
        &self,
        sink: &str,
        destination: &str,
        wait: Duration,
        limit: usize,
    ) -> Result<u64, StoreError> {
        self.within(self.hasten(sink, destination, wait, limit))
            .await
    }

    async fn ledger_awaited(&self, sink: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.within(self.awaited(sink, limit)).await
    }

    async fn ledger_release(&self, sink: &str, lanes: &[Lane]) -> Result<u64, StoreError> {
        self.within(self.release(sink, lanes)).await
    }

    async fn ledger_release_all(&self, sink: &str) -> Result<u64, StoreError> {
        self.within(self.release_all(sink)).await
    }

    async fn ledger_wait(
        &self,
        sink: &str,
        _within: Option<Duration>,
    ) -> Result<Option<Duration>, StoreError> {
        self.within(self.read_wait(sink)).await
    }

    async fn deliveries(&self, event: Ulid) -> Result<Vec<LedgerRow>, StoreError> {
        self.within(self.read_deliveries(event)).await
    }

    async fn sink_counts(&self) -> Result<Vec<(String, SinkCounts)>, StoreError> {
        self.within(self.read_counts()).await
    }

    async fn dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        self.within(self.read_dead(filter, limit)).await
    }

    async fn dead_count(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        self.within(self.count_dead(filter)).await
    }

    async fn dead_replay(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        self.within(self.replay_dead(filter)).await
    }

    async fn dead_drop(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        self.within(self.delete_dead(filter)).await
    }

    async fn dead_untold(&self, sink: &str, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        self.within(self.read_untold(sink, limit)).await
    }

    async fn dead_told(&self, letters: &[LedgerRow]) -> Result<(), StoreError> {
        self.within(self.mark_told(letters)).await
    }

    async fn subscription_put(&self, subscription: Subscription) -> Result<Ulid, StoreError> {
        self.within(self.upsert_subscription(&subscription)).await
    }

    async fn subscription_remove(&self, tenant: &str, endpoint: &str) -> Result<bool, StoreError> {
        self.within(self.delete_subscription(tenant, endpoint))
            .await
    }

    async fn subscription_forget(&self, id: Ulid) -> Result<(), StoreError> {
        self.within(self.delete_subscription_by_id(id)).await
    }

    async fn subscriptions_of(&self, tenants: &[&str]) -> Result<Vec<Subscription>, StoreError> {
        self.within(self.read_subscriptions_of(tenants)).await
    }

    async fn subscriptions_get(&self, ids: &[Ulid]) -> Result<Vec<Subscription>, StoreError> {
        self.within(self.read_subscriptions(ids)).await
    }

    async fn expire(&self, expiry: &Expiry, portion: Portion) -> Result<Expired, StoreError> {
        self.within(self.delete_old(expiry, portion)).await
    }

    async fn overdue(&self, expiry: &Expiry) -> Result<Option<Overdue>, StoreError> {
        self.within(self.read_overdue(expiry)).await
    }

    async fn vitals(&self) -> Result<Vitals, StoreError> {
        self.within(self.read_vitals()).await
    }
}
