//! What PostgreSQL alone promises: events in the application's own transaction, and many relays.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::Utc;
use herald::store::{Postgres, emit};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use ulid::Ulid;

use crate::backend::{Fixture, event, on_postgres};

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
