//! From the outbox to the feed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use herald::store::{Backlog, StoreError};
use herald_contract::Event;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::backend::{Fixture, event};

pub async fn the_feed_is_dense_and_in_the_order_of_the_commits(f: Arc<Fixture>) {
    let mut expected = Vec::new();
    for size in [1, 7, 300] {
        let batch: Vec<_> = (0..size).map(|_| event("acme", "a")).collect();
        expected.extend(batch.iter().map(|e| e.event_id));
        f.emit(&batch).await;
    }
    let mut lead = f.lead().await;
    let mut got = Vec::new();
    // A small limit, so that the numbers go on from one transaction to the next.
    loop {
        let more = lead.sequence(50).await.expect("sequenced");
        assert!(more.len() <= 50);
        if more.is_empty() {
            break;
        }
        got.extend(more);
    }
    let seqs: Vec<_> = got.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=308).collect::<Vec<_>>());
    let ids: Vec<_> = got.iter().map(|e| e.event_id).collect();
    assert_eq!(ids, expected);
    assert_eq!(f.store.feed_head().await.expect("read").seq, 308);
}

pub async fn each_event_moves_to_the_feed_once(f: Arc<Fixture>) {
    // Producers and the relay at the same time, and a lead that changes hands.
    let producers = produce(&f);
    let mut got = Vec::new();
    while got.len() < 200 {
        got.extend(f.sequence().await);
    }
    for producer in producers {
        producer.await.expect("produced");
    }
    assert!(f.sequence().await.is_empty());
    each_once(&got);
}

/// Four that emit 200 events.
fn produce(f: &Arc<Fixture>) -> Vec<JoinHandle<()>> {
    let one = |_| {
        let f = Arc::clone(f);
        tokio::spawn(async move {
            for _ in 0..25 {
                f.emit(&[event("acme", "a"), event("bolt", "b")]).await;
            }
        })
    };
    (0..4).map(one).collect()
}

fn each_once(got: &[Arc<Event>]) {
    let ids: HashSet<_> = got.iter().map(|e| e.event_id).collect();
    assert_eq!(ids.len(), 200);
    let seqs: Vec<_> = got.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
}

pub async fn each_event_moves_to_the_feed_once_whichever_process_leads(f: Arc<Fixture>) {
    let producers = produce(&f);
    let (feed, mut relays) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
    for store in [f.another(), f.another(), f.another()] {
        let feed = Arc::clone(&feed);
        relays.push(tokio::spawn(async move {
            while feed.lock().await.len() < 200 {
                if let Some(mut lead) = store.try_lead().await.expect("asked for the lead") {
                    let some = lead.sequence(7).await.expect("sequenced");
                    // Before the lead is given up, so that the events stand in their order.
                    feed.lock().await.extend(some);
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in producers.into_iter().chain(relays) {
        task.await.expect("does its part");
    }
    each_once(&feed.lock().await);
}

pub async fn an_outbox_row_that_is_inserted_again_is_dropped(f: Arc<Fixture>) {
    let first = event("acme", "a");
    f.feed(std::slice::from_ref(&first)).await;
    f.execute("INSERT INTO outbox (aggregate_id, event_id) SELECT id, event_id FROM events")
        .await
        .expect("inserted");
    let second = event("acme", "a");
    f.emit(std::slice::from_ref(&second)).await;
    let moved = f.sequence().await;
    assert_eq!(moved.len(), 1);
    assert_eq!((moved[0].seq, moved[0].event_id), (2, second.event_id));
    let head = f.store.feed_head().await.expect("read");
    assert_eq!(head.seq, 2);
    assert_eq!(f.store.backlog().await.expect("read").pending, 0);
}

pub async fn one_leads_at_a_time(f: Arc<Fixture>) {
    let lead = f.store.try_lead().await.expect("asked");
    assert!(lead.is_some());
    assert!(f.store.try_lead().await.expect("asked").is_none());
    drop(lead);
    f.lead().await;
}

pub async fn another_process_is_told_that_the_database_is_in_use(f: Arc<Fixture>) {
    let _lead = f.lead().await;
    match f.another().try_lead().await.map(|lead| lead.is_some()) {
        Err(StoreError::InUse(why)) => {
            assert!(why.contains("is in use by another herald process"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

pub async fn of_many_processes_one_leads(f: Arc<Fixture>) {
    let (first, second) = (f.lead().await, f.another());
    assert!(second.try_lead().await.expect("asked").is_none());
    drop(first);
    for _ in 0..1000 {
        if second.try_lead().await.expect("asked").is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lead is not passed on");
}

pub async fn the_backlog_is_what_waits(f: Arc<Fixture>) {
    assert_eq!(f.store.backlog().await.expect("read"), Backlog::default());
    f.emit(&[event("acme", "a"), event("acme", "a")]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let waiting = f.store.backlog().await.expect("read");
    assert_eq!(waiting.pending, 2);
    assert!(waiting.oldest >= Duration::from_millis(20), "{waiting:?}");
    assert!(waiting.oldest < Duration::from_secs(60), "{waiting:?}");
    f.sequence().await;
    assert_eq!(f.store.backlog().await.expect("read"), Backlog::default());
}

pub async fn an_epoch_is_replaced_once(f: Arc<Fixture>) {
    f.feed(&[event("acme", "a")]).await;
    let old = f.store.feed_head().await.expect("read");
    let new = f.store.new_epoch(&old.epoch).await.expect("replaced");
    assert_ne!(new.epoch, old.epoch);
    assert_eq!(new.seq, 1);
    // A second process that saw the same old epoch gets the one that the first began.
    assert_eq!(f.store.new_epoch(&old.epoch).await.expect("replaced"), new);
    assert_eq!(f.store.feed_head().await.expect("read"), new);
}

pub async fn what_was_committed_is_there_after_a_reopening(f: Arc<Fixture>) {
    let sent = event("acme", "a");
    f.feed(std::slice::from_ref(&sent)).await;
    let waiting = event("acme", "b");
    f.emit(std::slice::from_ref(&waiting)).await;
    let again = f.another();
    again.migrate().await.expect("nothing is left to migrate");
    again.ping().await.expect("answers");
    let feed = again.feed(0, 10).await.expect("read");
    assert_eq!(feed.len(), 1);
    assert_eq!(feed[0].event_id, sent.event_id);
    assert_eq!(again.backlog().await.expect("read").pending, 1);
    assert_eq!(
        again.feed_head().await.expect("read"),
        f.store.feed_head().await.expect("read")
    );
}
