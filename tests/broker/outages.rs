//! The server out of reach.

use std::sync::Arc;
use std::time::Duration;

use herald::broker::Hold;
use tokio::time::{Instant, sleep, timeout};

use crate::bench::{Bench, PATIENCE, all, read, read_and_ack, settled};

pub async fn a_follower_goes_on_while_the_server_is_away(bench: Arc<Bench>) {
    let (near, broker) = (bench.process("near"), bench.far("a", 1_000));
    let mut reader = broker.follow(0).await.expect("follows");
    bench.publish(&*near, 1..=5).await;
    assert_eq!(read(&mut reader, 5).await, all(1..=5));
    bench.server.cut(true);
    broker.ping().await.expect_err("it is away");
    broker.head().await.expect_err("nobody answers");
    for seq in 6..=30 {
        bench.grow(seq).await;
        assert_eq!(read(&mut reader, 1).await, [seq]);
    }
    bench.publish(&*near, 6..=30).await;
    bench.server.cut(false);
    let deadline = Instant::now() + PATIENCE;
    while broker.ping().await.is_err() {
        assert!(Instant::now() < deadline, "the same broker connects again");
        sleep(Duration::from_millis(10)).await;
    }
    for seq in 31..=60 {
        bench.publish(&*near, seq..=seq).await;
        assert_eq!(read(&mut reader, 1).await, [seq]);
    }
}

pub async fn a_groups_reader_goes_on_after_the_server_was_away(bench: Arc<Bench>) {
    let (near, broker) = (bench.process("near"), bench.far("a", 1_000));
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    bench.publish(&*near, 1..=10).await;
    assert_eq!(read(&mut reader, 7).await, all(1..=7));
    bench.server.cut(true);
    timeout(PATIENCE, async { while reader.next(7).await.is_ok() {} })
        .await
        .expect("it says so");
    broker
        .ack("g", &all(1..=7))
        .await
        .expect_err("nobody takes the acknowledgement");
    bench.server.cut(false);
    let got = read_and_ack(&mut reader, 10, &*near, "g").await;
    assert_eq!(
        got,
        all(1..=10),
        "what could not be acknowledged comes again"
    );
    assert_eq!(settled(&*near, "g").await, Some(10));
}

pub async fn what_a_process_got_is_its_own_only_as_long_as_it_can_say_so(bench: Arc<Bench>) {
    let (near, far) = (bench.process("near"), bench.far("far", 1_000));
    bench.publish(&*near, 1..=5).await;
    let mut reader = far.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 5).await, all(1..=5));
    assert_eq!(far.hold("g", 3), Hold::Firm);
    assert_eq!(far.hold("g", 6), Hold::Lost, "it never got that");

    // Cut off, it keeps nothing from the others, and begins to doubt before they may take it.
    bench.server.cut(true);
    let mut other = near.subscribe("g", 0).await.expect("subscribes");
    let mut got = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while got.len() < 5 {
        assert!(Instant::now() < deadline, "only {got:?} came");
        let batch = other.next(5).await.expect("reads");
        if !batch.is_empty() {
            assert_ne!(far.hold("g", 3), Hold::Firm, "two processes have it");
        }
        got.extend(batch.iter().map(|event| event.seq));
    }
    assert_eq!(near.hold("g", 3), Hold::Firm);

    // Back again, it learns that they are gone.
    bench.server.cut(false);
    while far.hold("g", 3) != Hold::Lost {
        assert!(Instant::now() < deadline, "it believes to have them");
        sleep(Duration::from_millis(5)).await;
    }
}
