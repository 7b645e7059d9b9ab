//! What the stream no longer has comes from the feed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::bench::{Bench, all, read, read_and_ack, settled};

pub async fn a_group_gets_in_order_what_the_ceiling_took(bench: Arc<Bench>) {
    let broker = bench.with_ceiling("a", 10);
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    bench.publish(&*broker, 1..=50).await;
    assert_eq!(
        read_and_ack(&mut reader, 7, &*broker, "g").await,
        all(1..=7)
    );
    for (begin, end) in [(51, 2_400), (2_401, 4_800)] {
        bench.publish(&*broker, begin..=end).await;
        broker.trim(0).await.expect("trimmed");
    }
    assert_eq!(settled(&*broker, "g").await, Some(7));
    let got = read_and_ack(&mut reader, 4_793, &*broker, "g").await;
    assert_eq!(got, all(8..=4_800));
    assert_eq!(settled(&*broker, "g").await, Some(4_800));
}

pub async fn what_was_trimmed_while_it_was_held_is_handed_out_again(bench: Arc<Bench>) {
    let broker = bench.with_ceiling("a", 2);
    bench.publish(&*broker, 1..=10).await;
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 7).await, all(1..=7));
    broker.trim(0).await.expect("trimmed");
    broker.ack("g", &[2, 3]).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, Some(0));
    drop(reader);
    let mut other = broker.subscribe("g", 0).await.expect("subscribes");
    let got = read_and_ack(&mut other, 8, &*broker, "g").await;
    let got: BTreeSet<i64> = got.into_iter().collect();
    assert_eq!(got, BTreeSet::from([1, 4, 5, 6, 7, 8, 9, 10]));
    assert_eq!(settled(&*broker, "g").await, Some(10));
}

pub async fn after_a_loss_and_a_refill_from_further_on_everything_arrives(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=30).await;
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(
        read_and_ack(&mut reader, 7, &*broker, "g").await,
        all(1..=7)
    );
    assert_eq!(settled(&*broker, "g").await, Some(7));
    for (group_first, refill, count, settles) in [(true, 25..=40, 33, 40), (false, 45..=60, 20, 60)]
    {
        let before = settled(&*broker, "g").await;
        bench.server.lose().await;
        assert_eq!(settled(&*broker, "g").await, None);
        if group_first {
            while settled(&*broker, "g").await.is_none() {
                let _ = reader.next(7).await;
            }
            assert_eq!(settled(&*broker, "g").await, before);
        }
        bench.publish(&*broker, refill).await;
        let got = read_and_ack(&mut reader, count, &*broker, "g").await;
        let first = before.expect("settled") + 1;
        assert_eq!(
            got,
            all(first..=settles),
            "after what was settled: {group_first}"
        );
        assert_eq!(settled(&*broker, "g").await, Some(settles));
    }
}

pub async fn what_lies_between_the_checkpoint_and_the_streams_beginning_comes_from_the_feed(
    bench: Arc<Bench>,
) {
    let broker = bench.process("a");
    bench.publish(&*broker, 11..=20).await;
    let mut reader = broker.subscribe("g", 4).await.expect("subscribes");
    assert_eq!(settled(&*broker, "g").await, Some(4));
    assert_eq!(read(&mut reader, 16).await, all(5..=20));
    broker.ack("g", &[5, 7, 11]).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, Some(5));
    broker.ack("g", &[6, 8, 9]).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, Some(9));
    broker.ack("g", &all(10..=20)).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, Some(20));
}
