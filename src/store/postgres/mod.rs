//! PostgreSQL: the schema `herald`, row-level security, and many processes at once.
//!
//! herald's own connections act as the role `herald_service`, which sees every tenant; whatever
//! is read on behalf of one tenant is read as `herald_app` with `herald.tenant` set for the
//! transaction, so that the database itself keeps tenants apart.

mod emit;
mod feed;
mod ledger;
mod retention;
mod sequencer;
mod sinks;
mod subscriptions;
mod waiting;

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::{Cursor, Event, Subscription, TypeFilter};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres as Pg};
use ulid::Ulid;

use super::migration::{Step, migrator};
use super::{
    Backlog, Checkpoint, DeadFilter, Due, Emitted, Expired, Expiry, Feed, FeedHead, Lane,
    LedgerRow, LedgerWrite, NewEvent, Overdue, PageQuery, Portion, Resolved, Sequencer, SinkCounts,
    Store, StoreError, Vitals, Witness, within,
};

pub use emit::emit;
pub use sequencer::SEQUENCE;

/// Each connection works as herald's own role, whatever login it came in by.
const BE_SERVICE: &str = "SET ROLE herald_service";

/// For one transaction: the application's role and one tenant.
const BE_TENANT: &str =
    "SELECT set_config('role', 'herald_app', true), set_config('herald.tenant', $1, true)";

/// A pool of connections to one database.
pub struct Postgres {
    pool: PgPool,
    connect: PgConnectOptions,
    timeout: Duration,
}

impl Postgres {
    /// Prepares a pool; connects when first used.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL cannot be read.
    pub fn new(url: &str, max_connections: u32, timeout: Duration) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(url)
            .map_err(|e| StoreError::Url(e.to_string()))?
            .application_name("herald")
            .options([
                // Every statement is short; compiling one takes longer than running it.
                ("jit", "off".to_owned()),
                ("statement_timeout", timeout.as_millis().to_string()),
                (
                    "idle_in_transaction_session_timeout",
                    timeout.as_millis().to_string(),
                ),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(timeout)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(BE_SERVICE).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(connect.clone());
        Ok(Self {
            pool,
            connect,
            timeout,
        })
    }

    /// Bounds a call's time; twice what a statement may take.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.timeout * 2, call).await
    }

    /// A transaction. Its beginning is never given up half-way, as whatever a caller does is: sqlx
    /// would take the connection back with the transaction open, and what the next one wrote there
    /// would not be committed.
    async fn begin(&self) -> Result<sqlx::Transaction<'static, Pg>, StoreError> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin().await }).await;
        Ok(begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))?)
    }

    /// A transaction that sees one tenant.
    async fn begin_as(&self, tenant: &str) -> Result<sqlx::Transaction<'static, Pg>, StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query(BE_TENANT)
            .bind(tenant)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }

    /// A connection of its own, outside the pool.
    async fn connect_alone(&self) -> Result<PgConnection, StoreError> {
        let mut connection = PgConnection::connect_with(&self.connect).await?;
        connection.execute(BE_SERVICE).await?;
        Ok(connection)
    }
}

const MIGRATIONS: &[Step] = &[
    (
        "herald",
        include_str!("../../../migrations/postgres/0001_herald.sql"),
    ),
    (
        "retention",
        include_str!("../../../migrations/postgres/0002_retention.sql"),
    ),
    (
        "waiting",
        include_str!("../../../migrations/postgres/0003_waiting.sql"),
    ),
    (
        "dead letters",
        include_str!("../../../migrations/postgres/0004_dead_letters.sql"),
    ),
];

fn migrations() -> Migrator {
    let mut migrations = migrator(MIGRATIONS, "herald.migrations");
    migrations.create_schema("herald");
    migrations
}

#[async_trait]
impl Feed for Postgres {
    async fn feed(&self, after: i64, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        self.within(self.read_feed(after, limit)).await
    }
}

#[async_trait]
impl Store for Postgres {
    async fn migrate(&self) -> Result<(), StoreError> {
        // As the login itself, which owns the schema, and without a limit on time.
        let connect = self.connect.clone().options([
            ("statement_timeout", "0"),
            ("client_min_messages", "warning"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.timeout)
            .connect_lazy_with(connect);
        let done = migrations().run(&pool).await;
        pool.close().await;
        Ok(done?)
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
        within: Option<Duration>,
    ) -> Result<Vec<Due>, StoreError> {
        self.within(self.take_due(sink, lease, limit, upto, within))
            .await
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
        within: Option<Duration>,
    ) -> Result<Option<Duration>, StoreError> {
        self.within(self.read_wait(sink, within)).await
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
