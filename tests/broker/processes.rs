//! A group whose readers are in several processes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, PATIENCE, all, read, read_and_ack, reads_nothing, settled};

pub async fn of_all_processes_one_gets_each_event(bench: Arc<Bench>) {
    let processes = ["a", "b", "c"].map(|name| bench.process(name));
    let (got, mut tasks) = (Arc::new(Mutex::new(Vec::<i64>::new())), Vec::new());
    for broker in &processes {
        for _ in 0..2 {
            let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
            let (broker, got) = (Arc::clone(broker), Arc::clone(&got));
            tasks.push(tokio::spawn(async move {
                loop {
                    for event in reader.next(3).await.expect("reads") {
                        got.lock().await.push(event.seq);
                        broker.ack("g", &[event.seq]).await.expect("acknowledged");
                    }
                }
            }));
        }
    }
    bench.publish(&*processes[0], 1..=500).await;
    let deadline = Instant::now() + PATIENCE;
    while settled(&*processes[1], "g").await != Some(500) {
        assert!(Instant::now() < deadline, "{:?}", got.lock().await);
        sleep(Duration::from_millis(5)).await;
    }
    for task in tasks {
        task.abort();
    }
    let mut got = got.lock().await.clone();
    got.sort_unstable();
    assert_eq!(got, all(1..=500));
}

pub async fn a_dead_processes_events_go_to_another(bench: Arc<Bench>) {
    let (a, b) = (bench.process("a"), bench.process("b"));
    bench.publish(&*a, 1..=20).await;
    let mut dead = a.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut dead, 14).await, all(1..=14));
    a.ack("g", &[5]).await.expect("acknowledged");
    drop((dead, a));
    let mut other = b.subscribe("g", 0).await.expect("subscribes");
    let mut got = read_and_ack(&mut other, 19, &*b, "g").await;
    got.sort_unstable();
    assert_eq!(got, (1..=20).filter(|seq| *seq != 5).collect::<Vec<_>>());
    assert_eq!(settled(&*b, "g").await, Some(20));
}

pub async fn a_slow_delivery_is_kept_from_other_processes(bench: Arc<Bench>) {
    let (a, b) = (bench.process("a"), bench.process("b"));
    // The stream, where it keeps one, lacks the first: both kinds are kept.
    bench.publish(&*a, 8..=14).await;
    let mut slow = a.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut slow, 14).await, all(1..=14));
    let mut other = b.subscribe("g", 0).await.expect("subscribes");
    reads_nothing(&mut other, bench.server.idle() * 5).await;
    assert_eq!(settled(&*a, "g").await, Some(0));
    a.ack("g", &all(1..=14)).await.expect("acknowledged");
    assert_eq!(settled(&*a, "g").await, Some(14));
}

pub async fn every_process_knows_what_is_settled(bench: Arc<Bench>) {
    let (a, b) = (bench.process("a"), bench.process("b"));
    bench.publish(&*a, 1..=10).await;
    let mut reader = b.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(settled(&*a, "g").await, Some(0));
    assert_eq!(read(&mut reader, 10).await, all(1..=10));
    b.ack("g", &[1, 2, 4]).await.expect("acknowledged");
    for broker in [&a, &b] {
        assert_eq!(settled(&**broker, "g").await, Some(2));
    }
    // A runner that died between its ledger and its acknowledgement: another one makes up for it.
    a.ack("g", &[3]).await.expect("acknowledged");
    assert_eq!(settled(&*b, "g").await, Some(4));
    assert_eq!(a.head().await.expect("answers"), Some(10));
    assert_eq!(b.head().await.expect("answers"), Some(10));
    // A relay trims what another process's readers have settled.
    a.trim(4).await.expect("trimmed");
    b.ack("g", &all(5..=10)).await.expect("acknowledged");
    assert_eq!(settled(&*a, "g").await, Some(10));
    let mut late = a.subscribe("late", 2).await.expect("subscribes");
    assert_eq!(read_and_ack(&mut late, 8, &*a, "late").await, all(3..=10));
}
