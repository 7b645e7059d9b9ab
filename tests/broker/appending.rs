//! How the stream grows.

use std::sync::Arc;

use herald::broker::{Broker, BrokerError};

use crate::bench::{Bench, all, read};

async fn head(broker: &dyn Broker) -> Option<i64> {
    broker.head().await.expect("answers")
}

async fn out_of_order(bench: &Bench, broker: &dyn Broker, first: i64, last: i64) {
    let refused = broker.append(&bench.events(first..=last).await).await;
    let expected = first - 1;
    assert!(
        matches!(refused, Err(BrokerError::OutOfOrder { expected: e }) if e == expected),
        "{refused:?}"
    );
}

pub async fn the_head_is_the_end_of_what_was_appended(bench: Arc<Bench>) {
    let broker = bench.process("a");
    broker.ping().await.expect("answers");
    for end in [3, 4, 2_500] {
        let begin = head(&*broker).await.unwrap_or_default() + 1;
        bench.publish(&*broker, begin..=end).await;
        assert_eq!(head(&*broker).await, Some(end));
    }
    broker.append(&[]).await.expect("nothing is no fault");
    assert_eq!(head(&*broker).await, Some(2_500));
}

pub async fn an_append_may_be_repeated(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=30).await;
    for (first, last) in [(1, 30), (20, 40), (40, 40), (1, 40)] {
        bench.publish(&*broker, first..=last).await;
    }
    assert_eq!(head(&*broker).await, Some(40));
    let mut reader = broker.follow(0).await.expect("follows");
    bench.publish(&*broker, 41..=41).await;
    assert_eq!(read(&mut reader, 41).await, all(1..=41));
}

pub async fn a_stream_that_is_not_there_has_no_head_and_may_begin_anywhere(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.grow(20).await;
    assert_eq!(head(&*broker).await, None);
    let _reader = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(head(&*broker).await, None, "made by a reader");
    bench.publish(&*broker, 5..=20).await;
    assert_eq!(head(&*broker).await, Some(20));
    bench.server.lose().await;
    assert_eq!(head(&*broker).await, None, "lost");
}

pub async fn an_append_that_would_leave_a_hole_is_refused(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 5..=2_600).await;
    bench.grow(2_610).await;
    out_of_order(&bench, &*broker, 2_602, 2_604).await;
    out_of_order(&bench, &*broker, 2_610, 2_610).await;
    assert_eq!(head(&*broker).await, Some(2_600));
    bench.publish(&*broker, 2_000..=2_601).await;
    assert_eq!(head(&*broker).await, Some(2_601));
}

pub async fn the_head_outlives_what_was_trimmed(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=100).await;
    broker.trim(100).await.expect("trimmed");
    assert_eq!(head(&*broker).await, Some(100));
    bench.publish(&*broker, 1..=1).await; // It had that before.
    assert_eq!(head(&*broker).await, Some(100));
    bench.grow(200).await;
    out_of_order(&bench, &*broker, 102, 102).await;
    bench.publish(&*broker, 101..=102).await;
    assert_eq!(head(&*broker).await, Some(102));
}

pub async fn a_witness_names_the_event_that_the_feed_has_in_its_place(bench: Arc<Bench>) {
    let broker = bench.process("a");
    assert_eq!(broker.witness().await.expect("answers"), None);
    let mut reader = broker.follow(0).await.expect("follows");
    for end in [9, 10] {
        bench.publish(&*broker, 1..=end).await;
        // The embedded broker's witness is what was read, for it keeps nothing.
        let new = if end == 9 { 9 } else { 1 };
        read(&mut reader, new).await;
        let witness = broker.witness().await.expect("answers").expect("one");
        let last = bench.events(end..=end).await.remove(0);
        assert_eq!((witness.seq, witness.event_id), (end, last.event_id));
    }
}
