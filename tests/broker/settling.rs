//! What a group is done with.

use std::sync::Arc;

use crate::bench::{Bench, all, read, read_and_ack, reads_nothing, settled};

pub async fn a_group_that_is_not_there_has_settled_nothing(bench: Arc<Bench>) {
    let broker = bench.process("a");
    assert_eq!(settled(&*broker, "g").await, None);
    bench.publish(&*broker, 1..=5).await;
    assert_eq!(settled(&*broker, "g").await, None);
    let _other = broker.subscribe("other", 3).await.expect("subscribes");
    assert_eq!(settled(&*broker, "g").await, None);
    // Who acknowledges for it, a late one of before a loss perhaps, does no harm.
    broker.ack("g", &[1]).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, None);
}

pub async fn settled_is_what_comes_before_the_first_open_end(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=20).await;
    let mut reader = broker.subscribe("g", 8).await.expect("subscribes");
    assert_eq!(settled(&*broker, "g").await, Some(8));
    assert_eq!(read(&mut reader, 12).await, all(9..=20));
    for (acked, expected) in [
        (vec![10, 13, 11], 8),
        (vec![9], 11),
        (vec![12], 13),
        (all(15..=20), 13),
        (vec![14], 20),
    ] {
        broker.ack("g", &acked).await.expect("acknowledged");
        assert_eq!(settled(&*broker, "g").await, Some(expected), "{acked:?}");
    }
    drop(reader);
    bench.publish(&*broker, 21..=30).await;
    assert_eq!(settled(&*broker, "g").await, Some(20), "nobody has read on");
}

pub async fn an_acknowledgement_may_be_repeated(bench: Arc<Bench>) {
    let broker = bench.process("a");
    bench.publish(&*broker, 1..=10).await;
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 10).await, all(1..=10));
    for _ in 0..2 {
        broker.ack("g", &[1, 2, 2, 4]).await.expect("acknowledged");
        assert_eq!(settled(&*broker, "g").await, Some(2));
    }
    broker.ack("g", &[]).await.expect("nothing is no fault");
    drop(reader);
    let mut again = broker.subscribe("g", 0).await.expect("subscribes");
    let got = read_and_ack(&mut again, 7, &*broker, "g").await;
    assert_eq!(got, [3, 5, 6, 7, 8, 9, 10]);
    broker.ack("g", &all(1..=10)).await.expect("acknowledged");
    assert_eq!(settled(&*broker, "g").await, Some(10));
    reads_nothing(&mut again, bench.server.idle()).await;
}

pub async fn trimming_takes_nothing_from_those_who_still_need_it(bench: Arc<Bench>) {
    let broker = bench.process("a");
    let mut fast = broker.subscribe("fast", 0).await.expect("subscribes");
    let mut slow = broker.subscribe("slow", 0).await.expect("subscribes");
    bench.publish(&*broker, 1..=20).await;
    assert_eq!(
        read_and_ack(&mut fast, 20, &*broker, "fast").await,
        all(1..=20)
    );
    assert_eq!(read(&mut slow, 7).await, all(1..=7));
    broker.ack("slow", &[1, 2, 3]).await.expect("acknowledged");
    broker.trim(3).await.expect("trimmed");
    assert_eq!(settled(&*broker, "slow").await, Some(3));
    broker.ack("slow", &[5]).await.expect("acknowledged");
    assert_eq!(
        read_and_ack(&mut slow, 13, &*broker, "slow").await,
        all(8..=20)
    );
    drop(slow);
    let mut again = broker.subscribe("slow", 3).await.expect("subscribes");
    assert_eq!(
        read_and_ack(&mut again, 3, &*broker, "slow").await,
        [4, 6, 7]
    );
    assert_eq!(settled(&*broker, "slow").await, Some(20));
}
