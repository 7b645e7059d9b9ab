//! A database that was restored from a backup begins a new epoch: its stream has nothing to do with
//! the old one's.

use std::sync::Arc;

use crate::bench::{Bench, all, read, read_and_ack, settled};

pub async fn a_new_epoch_is_a_new_stream(bench: Arc<Bench>) {
    let old = bench.process("a");
    let mut group = old.subscribe("g", 2).await.expect("subscribes");
    bench.publish(&*old, 3..=9).await;
    assert_eq!(read_and_ack(&mut group, 7, &*old, "g").await, all(3..=9));
    bench.server.begin_epoch();
    let new = bench.process("a");
    assert_eq!(new.head().await.expect("answers"), None);
    assert_eq!(new.witness().await.expect("answers"), None);
    assert_eq!(settled(&*new, "g").await, None);
    bench.publish(&*new, 3..=16).await;
    let mut group = new.subscribe("g", 2).await.expect("subscribes");
    // What was read of the old stream is acknowledged there, and nowhere else.
    old.ack("g", &all(3..=16)).await.expect("acknowledged");
    assert_eq!(settled(&*new, "g").await, Some(2));
    assert_eq!(read_and_ack(&mut group, 14, &*new, "g").await, all(3..=16));
    let mut follower = new.follow(9).await.expect("follows");
    assert_eq!(read(&mut follower, 7).await, all(10..=16));
    assert_eq!(old.head().await.expect("answers"), Some(9));
}
