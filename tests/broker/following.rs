//! Readers without a group.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::bench::{Bench, PATIENCE, all, read, read_and_ack};

pub async fn a_follower_sees_every_event_after_its_place_in_order(bench: Arc<Bench>) {
    let broker = bench.process("a");
    let mut early = broker.follow(0).await.expect("follows");
    let mut ahead = broker.follow(25).await.expect("follows");
    bench.publish(&*broker, 1..=20).await;
    let mut late = broker.follow(4).await.expect("follows");
    assert_eq!(read(&mut early, 20).await, all(1..=20));
    bench.publish(&*broker, 21..=30).await;
    assert_eq!(read(&mut early, 10).await, all(21..=30));
    assert_eq!(read(&mut late, 26).await, all(5..=30));
    assert_eq!(read(&mut ahead, 5).await, all(26..=30));
}

pub async fn followers_and_groups_do_not_take_from_each_other(bench: Arc<Bench>) {
    let broker = bench.process("a");
    let mut group = broker.subscribe("g", 0).await.expect("subscribes");
    let mut one = broker.follow(0).await.expect("follows");
    bench.publish(&*broker, 1..=30).await;
    let got = read_and_ack(&mut group, 30, &*broker, "g").await;
    assert_eq!(got, all(1..=30));
    let mut two = broker.follow(0).await.expect("follows");
    assert_eq!(read(&mut one, 30).await, all(1..=30));
    assert_eq!(read(&mut two, 30).await, all(1..=30));
}

pub async fn a_batch_is_no_larger_than_asked_for(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=40).await;
    let group = broker.subscribe("g", 0).await.expect("subscribes");
    let follower = broker.follow(0).await.expect("follows");
    for mut reader in [group, follower] {
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 40 {
            let max = 1 + sizes.len() % 5;
            let batch = reader.next(max).await.expect("reads");
            assert!(batch.len() <= max, "{} of {max}", batch.len());
            sizes.push(batch.len());
        }
    }
}

pub async fn with_nothing_to_read_next_returns_after_a_while(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=3).await;
    let mut group = broker.subscribe("g", 3).await.expect("subscribes");
    let mut follower = broker.follow(3).await.expect("follows");
    for reader in [&mut group, &mut follower] {
        // The first looks may find what there was before.
        let _ = reader.next(7).await;
        let began = Instant::now();
        let none = timeout(PATIENCE, reader.next(7)).await;
        assert!(none.expect("it returns").expect("reads").is_empty());
        assert!(began.elapsed() > Duration::from_millis(5), "it waits");
    }
}

pub async fn a_waiting_reader_gets_what_is_appended_at_once(bench: Arc<Bench>) {
    const ROUNDS: u32 = 20;
    let broker = bench.process("a");
    let group = broker.subscribe("g", 0).await.expect("subscribes");
    let follower = broker.follow(0).await.expect("follows");
    let (arrive, mut arrivals) = mpsc::unbounded_channel();
    let readers = [group, follower].map(|mut reader| {
        let arrive = arrive.clone();
        tokio::spawn(async move {
            loop {
                for event in reader.next(7).await.expect("reads") {
                    arrive.send(event.seq).expect("the test goes on");
                }
            }
        })
    });
    let began = Instant::now();
    for seq in 1..=ROUNDS.into() {
        bench.publish(&*broker, seq..=seq).await;
        for _ in &readers {
            let arrived = timeout(PATIENCE, arrivals.recv()).await;
            assert_eq!(arrived.expect("in time"), Some(seq));
        }
    }
    // A reader that looks now and then would need longer.
    let each = began.elapsed() / ROUNDS;
    assert!(each < Duration::from_millis(100), "{each:?}");
    for reader in readers {
        reader.abort();
    }
}

pub async fn a_follower_skips_and_repeats_nothing_whatever_becomes_of_the_stream(
    bench: Arc<Bench>,
) {
    let broker = bench.process("a");
    let mut reader = broker.follow(4).await.expect("follows");
    bench.publish(&*broker, 1..=20).await;
    assert_eq!(read(&mut reader, 16).await, all(5..=20));
    // The stream begins anew after a hole.
    bench.server.lose().await;
    bench.publish(&*broker, 41..=60).await;
    assert_eq!(read(&mut reader, 40).await, all(21..=60));
    // The stream lags: it is being refilled from far back.
    bench.server.lose().await;
    bench.publish(&*broker, 30..=40).await;
    bench.grow(70).await;
    assert_eq!(read(&mut reader, 10).await, all(61..=70));
    bench.publish(&*broker, 41..=80).await;
    assert_eq!(read(&mut reader, 10).await, all(71..=80));
    // What it has not read yet is trimmed.
    bench.publish(&*broker, 81..=90).await;
    broker.trim(85).await.expect("trimmed");
    assert_eq!(read(&mut reader, 10).await, all(81..=90));
}
