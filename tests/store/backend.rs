//! A database for each test, and what the tests have in common.

use std::sync::Arc;
use std::time::Duration;

use herald::store::{NewEvent, Postgres, Sequencer, Sqlite, Store};
use herald_contract::Event;
use serde_json::value::RawValue;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use ulid::Ulid;

pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A store under test and a way around it.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    raw: Raw,
    url: String,
}

enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Fixture {
    /// Another store on the same database, with connections of its own.
    pub fn another(&self) -> Arc<dyn Store> {
        match self.raw {
            Raw::Sqlite(_) => Arc::new(Sqlite::new(&self.url, TIMEOUT).expect("a good URL")),
            Raw::Postgres(_) => Arc::new(Postgres::new(&self.url, 4, TIMEOUT).expect("a good URL")),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.raw, Raw::Postgres(_))
    }

    /// Runs SQL as another client of the database would; tables need no schema's name.
    pub async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let sql = AssertSqlSafe(sql);
        Ok(match &self.raw {
            Raw::Sqlite(pool) => pool.execute(sqlx::raw_sql(sql)).await?.rows_affected(),
            Raw::Postgres(pool) => pool.execute(sqlx::raw_sql(sql)).await?.rows_affected(),
        })
    }

    pub async fn emit(&self, events: &[NewEvent]) -> Vec<i64> {
        let emitted = self.store.emit(events).await.expect("emitted");
        emitted.iter().map(|e| e.aggregate_id).collect()
    }

    /// The lead. The server learns of a connection that was closed in its own time.
    pub async fn lead(&self) -> Box<dyn Sequencer> {
        for _ in 0..1000 {
            if let Some(lead) = self.store.try_lead().await.expect("asked for the lead") {
                return lead;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("somebody else leads");
    }

    /// Moves all that waits to the feed.
    pub async fn sequence(&self) -> Vec<Arc<Event>> {
        let mut lead = self.lead().await;
        let mut events = Vec::new();
        loop {
            let more = lead.sequence(1000).await.expect("sequenced");
            if more.is_empty() {
                return events;
            }
            events.extend(more);
        }
    }

    /// Emits and sequences.
    pub async fn feed(&self, events: &[NewEvent]) -> Vec<Arc<Event>> {
        self.emit(events).await;
        self.sequence().await
    }
}

pub fn ulid() -> Ulid {
    ulid::Generator::new()
        .generate()
        .expect("the first of its generator")
}

pub fn event(tenant: &str, kind: &str) -> NewEvent {
    NewEvent {
        event_id: ulid(),
        tenant_id: tenant.to_owned(),
        kind: kind.to_owned(),
        payload: json(r#"{"n": 1}"#),
        metadata: None,
        idempotency_key: None,
    }
}

pub fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("valid JSON")
}

pub async fn on_sqlite<T: Future<Output = ()>>(test: impl FnOnce(Arc<Fixture>) -> T) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("herald.db");
    let url = format!("sqlite://{}", path.display());
    let store = Sqlite::new(&url, TIMEOUT).expect("a good URL");
    store.migrate().await.expect("migrated");
    let raw = SqlitePool::connect_lazy_with(SqliteConnectOptions::new().filename(path));
    test(Arc::new(Fixture {
        store: Arc::new(store),
        raw: Raw::Sqlite(raw),
        url,
    }))
    .await;
}

pub async fn on_postgres<T: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Arc<Fixture>) -> T + Send + 'static,
) {
    let Some(server) = server() else { return };
    let name = format!("herald_test_{}", ulid()).to_lowercase();
    admin(&server, &format!("CREATE DATABASE {name}")).await;
    let url = with_database(&server, &name);
    let done = tokio::spawn(async move {
        let store = Postgres::new(&url, 4, TIMEOUT).expect("a good URL");
        store.migrate().await.expect("migrated");
        let connect: PgConnectOptions = url.parse().expect("a good URL");
        let raw =
            PgPoolOptions::new().connect_lazy_with(connect.options([("search_path", "herald")]));
        test(Arc::new(Fixture {
            store: Arc::new(store),
            raw: Raw::Postgres(raw),
            url,
        }))
        .await;
    })
    .await;
    admin(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(failed) = done {
        std::panic::resume_unwind(failed.into_panic());
    }
}

/// The server for tests, or a notice that there is none.
pub fn server() -> Option<String> {
    let url = std::env::var("HERALD_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !ci,
            "HERALD_TEST_POSTGRES_URL is not set, and CI skips nothing"
        );
        eprintln!("skipped: HERALD_TEST_POSTGRES_URL is not set");
    }
    url
}

/// One statement as the superuser, outside the test's database.
pub async fn admin(server: &str, sql: &str) {
    let mut connection = PgConnection::connect(server).await.expect("connected");
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The server's URL with another database's name, which is all that follows the last slash.
pub fn with_database(server: &str, name: &str) -> String {
    let (before, after) = server
        .rsplit_once('/')
        .expect("a URL that names a database");
    match after.split_once('?') {
        Some((_, parameters)) => format!("{before}/{name}?{parameters}"),
        None => format!("{before}/{name}"),
    }
}
