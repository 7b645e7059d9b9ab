//! What SQLite alone promises.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use herald::store::{Sqlite, Store, StoreError};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection};
use tempfile::TempDir;

use crate::backend::{Database, Fixture, TIMEOUT, event};

exercise_store!(crate::sqlite::on_sqlite, one_process);

/// A file in a folder of its own.
struct InFile {
    _folder: TempDir,
    raw: SqlitePool,
    url: String,
}

#[async_trait]
impl Database for InFile {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(Sqlite::new(&self.url, TIMEOUT).expect("a good URL"))
    }

    async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let done = self.raw.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
        Ok(done.rows_affected())
    }

    async fn pass(&self, hours: i64) {
        let sql = format!(
            "UPDATE deliveries SET next_attempt_at = strftime('%Y-%m-%dT%H:%M:%f',
                 next_attempt_at, '-{hours} hours', '-1 seconds') || '000Z'
             WHERE state = 'pending'"
        );
        self.execute(&sql).await.expect("time passes");
    }

    fn cases(&self) -> u32 {
        10_000
    }

    fn url(&self) -> &str {
        &self.url
    }
}

pub async fn on_sqlite<T: Future<Output = ()>>(test: impl FnOnce(Arc<Fixture>) -> T) {
    // In memory, where the system keeps a folder there: a property commits a hundred thousand times.
    let memory = Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
    test(in_folder(folder.expect("a temporary folder")).await).await;
}

async fn in_folder(folder: TempDir) -> Arc<Fixture> {
    let path = folder.path().join("herald.db");
    let url = format!("sqlite://{}", path.display());
    let raw = SqlitePool::connect_lazy_with(SqliteConnectOptions::new().filename(path));
    let database = InFile {
        _folder: folder,
        raw,
        url,
    };
    database.store().migrate().await.expect("migrated");
    Fixture::new(database)
}

#[tokio::test]
async fn a_url_that_cannot_keep_events_is_refused() {
    for url in [
        "sqlite::memory:",
        "sqlite://x.db?mode=memory",
        "sqlite://x.db?mode=ro",
        "sqlite://x.db?wrong=1",
        "sqlite://",
        "sqlite:///no/such/folder/herald.db",
    ] {
        let refused = Sqlite::new(url, TIMEOUT).map(drop);
        assert!(
            matches!(refused, Err(StoreError::Url(_))),
            "{url}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn the_lock_goes_with_the_store_and_its_file_may_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("herald.db").display());
    let first = Sqlite::new(&url, TIMEOUT).expect("a good URL");
    first.migrate().await.expect("migrated");
    drop(first.try_lead().await.expect("asked").expect("leads"));
    let second = Sqlite::new(&url, TIMEOUT).expect("a good URL");
    let refused = second.try_lead().await.map(drop);
    assert!(matches!(refused, Err(StoreError::InUse(_))), "{refused:?}");
    drop(first);
    assert!(folder.path().join("herald.db.lock").exists());
    assert!(second.try_lead().await.expect("asked").is_some());
}

#[tokio::test]
async fn another_clients_lock_is_waited_for_and_then_an_error_that_may_heal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("herald.db");
    let url = format!("sqlite://{}", path.display());
    let store = Sqlite::new(&url, Duration::from_millis(200)).expect("a good URL");
    store.migrate().await.expect("migrated");
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = SqliteConnection::connect_with(&options)
        .await
        .expect("connected");
    let holds = other.begin_with("BEGIN IMMEDIATE").await.expect("locked");

    let refused = store.emit(&[event("acme", "a")]).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    let mut lead = store.try_lead().await.expect("asked").expect("leads");
    let began = Instant::now();
    let idle = lead.sequence(10).await.expect("an idle poll takes no lock");
    assert!(idle.is_empty());
    assert!(began.elapsed() < Duration::from_millis(150));
    assert_eq!(store.feed_head().await.expect("readers do not wait").seq, 0);

    holds.rollback().await.expect("unlocked");
    store.emit(&[event("acme", "a")]).await.expect("emitted");
    assert_eq!(lead.sequence(10).await.expect("sequenced").len(), 1);
}
