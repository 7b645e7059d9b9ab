//! What PostgreSQL alone promises: events in the application's own transaction, and many relays.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::Utc;
use herald::store::{Expired, Expiry, Portion, Postgres, Store, emit};
use herald_contract::TypeFilter;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use ulid::Ulid;

use crate::backend::{Database, Fixture, TIMEOUT, event, ulid};
use crate::reading::everything;

exercise_store!(crate::postgres::on_postgres, many_processes);

/// A database on the server for tests.
struct OnServer {
    raw: PgPool,
    url: String,
}

#[async_trait]
impl Database for OnServer {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(Postgres::new(&self.url, 4, TIMEOUT).expect("a good URL"))
    }

    async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let done = self.raw.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
        Ok(done.rows_affected())
    }

    async fn pass(&self, hours: i64) {
        let sql = format!(
            "UPDATE deliveries SET next_attempt_at = next_attempt_at - interval '{hours} hours 1 s'
             WHERE state = 'pending'"
        );
        self.execute(&sql).await.expect("time passes");
    }

    fn cases(&self) -> u32 {
        200
    }

    fn url(&self) -> &str {
        &self.url
    }
}

pub async fn on_postgres<T: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Arc<Fixture>) -> T + Send + 'static,
) {
    let Some(server) = server() else { return };
    let name = format!("herald_test_{}", ulid()).to_lowercase();
    admin(&server, &format!("CREATE DATABASE {name}")).await;
    let url = with_database(&server, &name);
    let done = tokio::spawn(async move {
        let connect: PgConnectOptions = url.parse().expect("a good URL");
        let raw =
            PgPoolOptions::new().connect_lazy_with(connect.options([("search_path", "herald")]));
        let database = OnServer { raw, url };
        database.store().migrate().await.expect("migrated");
        test(Fixture::new(database)).await;
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

async fn connect(f: &Fixture) -> PgConnection {
    PgConnection::connect(f.url()).await.expect("connected")
}

pub async fn text(connection: &mut PgConnection, sql: &str) -> Result<String, sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?
        .try_get(0)
}

#[tokio::test]
async fn what_is_rolled_back_was_never_emitted() {
    on_postgres(async |f| {
        let mut connection = connect(&f).await;
        let mut transaction = connection.begin().await.expect("begun");
        let id = emit(&mut transaction, "acme", "a", &json!({"n": [1]}))
            .await
            .expect("emitted");
        transaction.rollback().await.expect("rolled back");
        assert!(f.store.event(id, None).await.expect("read").is_none());
        assert!(f.sequence().await.is_empty());

        let mut transaction = connection.begin().await.expect("begun");
        let id = emit(&mut transaction, "acme", "a", &json!({"n": [1]}))
            .await
            .expect("emitted");
        transaction.commit().await.expect("committed");
        let events = f.sequence().await;
        assert_eq!(
            (events[0].event_id, events[0].payload.get()),
            (id, r#"{"n":[1]}"#)
        );
    })
    .await;
}

#[tokio::test]
async fn a_late_commit_gets_a_later_seq_whatever_its_id() {
    on_postgres(async |f| {
        let mut lead = f.lead().await;
        f.emit(&[event("acme", "before")]).await;
        assert_eq!(lead.sequence(10).await.expect("sequenced").len(), 1);

        let mut connection = connect(&f).await;
        let mut transaction = connection.begin().await.expect("begun");
        let late = emit(&mut transaction, "acme", "late", &json!(1))
            .await
            .expect("emitted");
        let early = event("acme", "early");
        f.emit(std::slice::from_ref(&early)).await;
        let first = lead.sequence(10).await.expect("sequenced");
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].seq, first[0].event_id), (2, early.event_id));

        transaction.commit().await.expect("committed");
        // The look below the hint may be put off, but not for long.
        for _ in 0..500 {
            let second = lead.sequence(10).await.expect("sequenced");
            if let Some(event) = second.first() {
                assert_eq!((event.seq, event.event_id), (3, late));
                assert!(event.aggregate_id < first[0].aggregate_id);
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the late one was not sequenced");
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_is_a_lost_lead_and_the_next_one_goes_on() {
    on_postgres(async |f| {
        f.feed(&[event("acme", "a")]).await;
        let other = f.another();
        let mut lead = f.lead().await;
        f.emit(&[event("acme", "b")]).await;
        f.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks
             WHERE locktype = 'advisory' AND database =
                   (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .await
        .expect("terminated");
        assert!(lead.sequence(10).await.is_err());
        let mut lead = None;
        for _ in 0..500 {
            lead = other.try_lead().await.expect("asked");
            if lead.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let moved = lead.expect("leads").sequence(10).await.expect("sequenced");
        assert_eq!((moved.len(), moved[0].seq), (1, 2));
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_falls_silent_loses_the_lead_and_the_next_one_goes_on() {
    on_postgres(async |f| {
        f.feed(&[event("acme", "a")]).await;
        let other = f.another();
        let mut silent = f.lead().await;
        f.emit(&[event("acme", "b")]).await;
        let begin = Instant::now();
        let mut lead = loop {
            if let Some(lead) = other.try_lead().await.expect("asked") {
                break lead;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "it still leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        println!("lost after {:?}", begin.elapsed());
        let moved = lead.sequence(10).await.expect("sequenced");
        assert_eq!((moved.len(), moved[0].seq), (1, 2));
        assert!(silent.sequence(10).await.is_err(), "it believes to lead");
    })
    .await;
}

#[tokio::test]
async fn two_that_both_believe_they_lead_move_each_event_once() {
    on_postgres(async |f| {
        // A lock that everybody gets, found before PostgreSQL's own.
        f.execute(
            "CREATE SCHEMA open;
             GRANT USAGE ON SCHEMA open TO PUBLIC;
             CREATE FUNCTION open.pg_try_advisory_lock(bigint) RETURNS boolean
             LANGUAGE sql AS 'SELECT true';
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = open, pg_catalog',
                                        current_database()); END $$",
        )
        .await
        .expect("prepared");
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let f = Arc::clone(&f);
                tokio::spawn(async move {
                    for _ in 0..100 {
                        f.emit(&[event("acme", "a"), event("bolt", "b")]).await;
                    }
                })
            })
            .collect();
        let moved = Arc::new(Mutex::new(Vec::new()));
        let mut relays = Vec::new();
        for _ in 0..2 {
            let lead = f.another().try_lead().await.expect("asked");
            let mut lead = lead.expect("believes that it leads");
            let moved = Arc::clone(&moved);
            relays.push(tokio::spawn(async move {
                let mut own = 0;
                while moved.lock().expect("not poisoned").len() < 400 {
                    let more = lead.sequence(3).await.expect("sequenced");
                    own += more.len();
                    moved.lock().expect("not poisoned").extend(more);
                    tokio::task::yield_now().await;
                }
                own
            }));
        }
        for producer in producers {
            producer.await.expect("produced");
        }
        for relay in relays {
            assert_ne!(relay.await.expect("sequenced"), 0, "both took part");
        }
        let mut moved = moved.lock().expect("not poisoned").clone();
        moved.sort_by_key(|e| e.seq);
        let seqs: Vec<_> = moved.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
        let ids: HashSet<_> = moved.iter().map(|e| e.event_id).collect();
        assert_eq!(ids.len(), 400);
    })
    .await;
}

/// A call that is given up is one that somebody no longer waits for: a timeout, a request that is
/// cut off, a sink that stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_given_up_at_any_moment_leaves_no_transaction_open_for_the_next_write() {
    on_postgres(async |f| {
        let types = TypeFilter::default();
        let query = everything("acme", &types);
        f.store.page(&query).await.expect("read");
        let mut others = connect(&f).await;
        for round in 0..300 {
            // Some are given up before they begin, some after they have ended.
            let moment = Duration::from_micros(round * 10);
            let _ = tokio::time::timeout(moment, f.store.page(&query)).await;
            let name = format!("sink-{round}");
            f.store.register_sink(&name).await.expect("registered");
            let sql =
                format!("SELECT count(*)::text FROM herald.checkpoints WHERE sink = '{name}'");
            let seen = text(&mut others, &sql).await.expect("counts");
            assert_eq!(seen, "1", "what is written after it is committed");
        }
    })
    .await;
}

#[tokio::test]
async fn the_databases_ulid_is_one_of_now() {
    on_postgres(async |f| {
        let mut connection = connect(&f).await;
        let mut ids = Vec::new();
        for _ in 0..20 {
            let id = text(&mut connection, "SELECT herald.ulid()")
                .await
                .expect("made");
            let ulid = Ulid::from_string(&id).expect("a ULID");
            assert_eq!(ulid.to_string(), id, "in its one spelling");
            let age = Utc::now()
                .timestamp_millis()
                .abs_diff(ulid.timestamp_ms() as i64);
            assert!(age < 60_000, "{age} ms");
            ids.push(ulid.random());
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20);
        // Each of the 80 random bits is sometimes set and sometimes not.
        let (any, all) = ids
            .iter()
            .fold((0, u128::MAX), |(any, all), id| (any | id, all & id));
        assert!(any.count_ones() > 72, "{any:x}");
        assert!(all.count_ones() < 8, "{all:x}");
    })
    .await;
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_may_heal() {
    let store = Postgres::new("postgres://x@127.0.0.1:1/x", 1, Duration::from_millis(200));
    let store: Arc<dyn herald::store::Store> = Arc::new(store.expect("a good URL"));
    for result in [store.ping().await, store.migrate().await] {
        assert!(
            matches!(result, Err(herald::store::StoreError::Unavailable(_))),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn neither_producers_nor_the_sequencer_nor_readers_wait_for_a_deletion_that_is_held_open() {
    on_postgres(async |f| {
        let batch: Vec<_> = (0..50).map(|_| event("acme", "a")).collect();
        f.feed(&batch).await;
        // A deletion takes its time, with every lock that it ever takes but the last.
        f.execute(
            "UPDATE events SET created_at = '2020-01-01Z';
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(3); RETURN NULL; END';
             CREATE TRIGGER slow AFTER DELETE ON events FOR EACH STATEMENT
             EXECUTE FUNCTION slow()",
        )
        .await
        .expect("prepared");
        let mut lead = f.lead().await;
        let expiry = Expiry {
            events: Duration::from_secs(60),
            dead: None,
        };
        let portion = Portion {
            events: 100,
            deliveries: 100,
        };
        let store = f.another();
        let deletion = tokio::spawn(async move { store.expire(&expiry, portion).await });
        let mut connection = connect(&f).await;
        let sleeps = "SELECT count(*)::text FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event = 'PgSleep'";
        while text(&mut connection, sleeps).await.expect("asked") == "0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for round in 1..=20 {
            f.emit(&[event("acme", "a"), event("bolt", "b")]).await;
            let moved = lead.sequence(10).await.expect("sequenced");
            assert_eq!(moved.len(), 2);
            assert_eq!(moved[1].seq, 50 + 2 * round);
            f.store.register_sink("email").await.expect("registered");
            f.store
                .settle("email", moved[1].seq, None)
                .await
                .expect("settled");
            let read = f.store.feed(0, 100).await.expect("read");
            assert_eq!(read.len() as i64, 50 + 2 * round, "as if nothing were gone");
        }
        let other = f.store.expire(&expiry, portion).await.expect("asked");
        assert_eq!(other, Expired::default(), "one deletes at a time");
        assert!(
            !deletion.is_finished(),
            "all of that while it was held open"
        );
        let deleted = deletion.await.expect("done").expect("deleted");
        assert_eq!(deleted.events, 50);
        assert_eq!(f.store.feed(0, 100).await.expect("read")[0].seq, 51);
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_during_a_deletion_keeps_its_event() {
    on_postgres(async |f| {
        let events = f.feed(&[event("acme", "a"), event("acme", "a")]).await;
        let id = events[1].event_id;
        f.execute(&format!(
            "UPDATE events SET created_at = '2020-01-01Z';
             INSERT INTO deliveries (event_id, sink, recipient, tenant_id, state, attempts, updated_at)
             VALUES ('{id}', 'email', 'a', 'acme', 'dead', 1, '2020-01-01Z')"
        ))
        .await
        .expect("prepared");
        let mut connection = connect(&f).await;
        let mut replay = connection.begin().await.expect("begun");
        sqlx::query(
            "UPDATE herald.deliveries SET state = 'pending', next_attempt_at = now()
             WHERE state = 'dead'",
        )
        .execute(&mut *replay)
        .await
        .expect("replayed");

        let day = Duration::from_secs(24 * 60 * 60);
        let expiry = Expiry {
            events: day,
            dead: Some(day),
        };
        let portion = Portion {
            events: 100,
            deliveries: 100,
        };
        let store = f.another();
        let deletion = tokio::spawn(async move { store.expire(&expiry, portion).await });
        let mut watch = connect(&f).await;
        let waits = "SELECT count(*)::text FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while text(&mut watch, waits).await.expect("asked") == "0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        replay.commit().await.expect("committed");
        let deleted = deletion.await.expect("done").expect("undone");
        assert_eq!(deleted, Expired::default());
        assert_eq!(f.store.feed(0, 100).await.expect("read").len(), 2);
        assert_eq!(f.store.deliveries(id).await.expect("read").len(), 1);
        let next = f.store.expire(&expiry, portion).await.expect("deleted");
        assert_eq!(next.events, 1, "the one before it");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_holds_back_vacuum_is_told_by_its_age() {
    on_postgres(async |f| {
        let mut connection = connect(&f).await;
        let mut old = connection.begin().await.expect("begun");
        // A snapshot, as a long report or a dump has one; it writes nothing.
        for sql in [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SELECT 1",
        ] {
            sqlx::query(AssertSqlSafe(sql))
                .execute(&mut *old)
                .await
                .expect("a snapshot");
        }
        for _ in 0..30 {
            f.emit(&[event("acme", "a")]).await;
        }
        let age = f.store.vitals().await.expect("read").oldest_xmin_age;
        assert!(age >= 30, "{age}");
        old.rollback().await.expect("ended");
    })
    .await;
}
