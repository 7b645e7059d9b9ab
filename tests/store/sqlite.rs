//! What SQLite alone promises.

use std::time::{Duration, Instant};

use herald::store::{Sqlite, Store as _, StoreError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use crate::backend::{TIMEOUT, event};

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
