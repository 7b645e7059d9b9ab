//! The readers of a group, all in one process.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep};

use crate::bench::{Bench, PATIENCE, all, read, read_and_ack, reads_nothing, settled};

pub async fn a_group_begins_after_its_checkpoint(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=10).await;
    let mut reader = broker.subscribe("g", 6).await.expect("subscribes");
    assert_eq!(settled(&*broker, "g").await, Some(6));
    assert_eq!(read(&mut reader, 4).await, all(7..=10));
    // The checkpoint may be the stream's end.
    let mut reader = broker.subscribe("h", 10).await.expect("subscribes");
    bench.publish(&*broker, 11..=12).await;
    assert_eq!(read(&mut reader, 2).await, all(11..=12));
}

pub async fn a_group_that_is_there_goes_on_where_it_was(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=20).await;
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    let got = read_and_ack(&mut reader, 14, &*broker, "g").await;
    assert_eq!(got, all(1..=14));
    drop(reader);
    // The store's checkpoint lags behind what is acknowledged.
    let mut again = broker.subscribe("g", 3).await.expect("subscribes");
    assert_eq!(settled(&*broker, "g").await, Some(14));
    assert_eq!(read(&mut again, 6).await, all(15..=20));
}

pub async fn a_group_behind_its_checkpoint_moves_there(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=20).await;
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    read_and_ack(&mut reader, 7, &*broker, "g").await;
    drop(reader);
    let mut moved = broker.subscribe("g", 15).await.expect("subscribes");
    assert_eq!(settled(&*broker, "g").await, Some(15));
    assert_eq!(read(&mut moved, 5).await, all(16..=20));
}

pub async fn of_a_groups_readers_one_gets_each_event(bench: Arc<Bench>) {
    let broker = bench.process("a");
    let (got, mut tasks) = (Arc::new(Mutex::new(Vec::<i64>::new())), Vec::new());
    for _ in 0..3 {
        let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
        let (broker, got) = (Arc::clone(&broker), Arc::clone(&got));
        tasks.push(tokio::spawn(async move {
            loop {
                let batch = reader.next(3).await.expect("reads");
                let seqs: Vec<i64> = batch.iter().map(|event| event.seq).collect();
                assert!(seqs.is_sorted(), "{seqs:?}");
                got.lock().await.extend(&seqs);
                broker.ack("g", &seqs).await.expect("acknowledged");
            }
        }));
    }
    for first in [1, 101, 201] {
        bench.publish(&*broker, first..=first + 99).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while settled(&*broker, "g").await != Some(300) {
        assert!(Instant::now() < deadline, "{:?}", got.lock().await);
        sleep(Duration::from_millis(5)).await;
    }
    for task in tasks {
        task.abort();
    }
    let mut got = got.lock().await.clone();
    got.sort_unstable();
    assert_eq!(got, all(1..=300));
}

pub async fn groups_are_independent(bench: Arc<Bench>) {
    let broker = bench.process("a");
    let mut one = broker.subscribe("one", 0).await.expect("subscribes");
    let mut two = broker.subscribe("two", 5).await.expect("subscribes");
    bench.publish(&*broker, 1..=20).await;
    assert_eq!(
        read_and_ack(&mut one, 20, &*broker, "one").await,
        all(1..=20)
    );
    assert_eq!(settled(&*broker, "one").await, Some(20));
    assert_eq!(settled(&*broker, "two").await, Some(5));
    assert_eq!(read(&mut two, 15).await, all(6..=20));
    broker.ack("one", &all(6..=20)).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "two").await, Some(5));
}

pub async fn what_a_dropped_reader_left_is_handed_out_again(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=20).await;
    let mut first = broker.subscribe("g", 0).await.expect("subscribes");
    let mut second = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut first, 14).await, all(1..=14));
    broker.ack("g", &[3, 7, 8]).await.expect("acknowledged");
    drop(first);
    // To a reader that was there, and to one that comes; what is acknowledged to neither.
    let mut got = read(&mut second, 7).await;
    broker.ack("g", &got).await.expect("acknowledged");
    drop(second);
    let mut third = broker.subscribe("g", 0).await.expect("subscribes");
    got.extend(read_and_ack(&mut third, 17 - got.len(), &*broker, "g").await);
    got.sort_unstable();
    let open = |seq: &i64| ![3, 7, 8].contains(seq);
    assert_eq!(got, (1..=20).filter(open).collect::<Vec<_>>());
    assert_eq!(settled(&*broker, "g").await, Some(20));
}

pub async fn what_a_reader_holds_is_kept_from_the_others(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=14).await;
    let mut slow = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut slow, 14).await, all(1..=14));
    let mut other = broker.subscribe("g", 0).await.expect("subscribes");
    reads_nothing(&mut other, bench.server.idle() * 4).await;
    assert_eq!(settled(&*broker, "g").await, Some(0));
    broker.ack("g", &all(1..=14)).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, Some(14));
}
