//! Everything at once: three processes read and die, the relay makes the stream equal the feed
//! under a ceiling that is far too low, the server is cut off and loses all it has.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use herald::broker::Broker;
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, PATIENCE};

const END: i64 = 3_000;
const CEILING: u64 = 60;

/// What was handed out, and what is acknowledged or about to be.
#[derive(Default)]
struct Seen {
    got: BTreeSet<i64>,
    acknowledged: BTreeSet<i64>,
}

/// Reads and acknowledges as a runner does, through every error; dies now and then.
async fn run(broker: Arc<dyn Broker>, checkpoint: Arc<AtomicI64>, seen: Arc<Mutex<Seen>>) {
    loop {
        let from = checkpoint.load(Ordering::SeqCst);
        let Ok(mut reader) = broker.subscribe("g", from).await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        for _ in 0..rand::random_range(20..60) {
            let Ok(batch) = reader.next(20).await else {
                continue;
            };
            let seqs: Vec<i64> = batch.iter().map(|event| event.seq).collect();
            {
                let mut seen = seen.lock().expect("whole");
                seen.got.extend(&seqs);
                seen.acknowledged.extend(&seqs);
            }
            let _ = broker.ack("g", &seqs).await;
        }
        // Taken and never acknowledged.
        if let Ok(batch) = reader.next(5).await {
            let mut seen = seen.lock().expect("whole");
            seen.got.extend(batch.iter().map(|event| event.seq));
        }
    }
}

/// As the relay: makes the stream equal the feed, moves the checkpoint, trims.
async fn relay(
    bench: &Bench,
    broker: &dyn Broker,
    end: i64,
    checkpoint: &AtomicI64,
    seen: &Mutex<Seen>,
) {
    if let Ok(Some(settled)) = broker.settled("g").await {
        let seen = seen.lock().expect("whole");
        let open = (1..=settled).find(|seq| !seen.acknowledged.contains(seq));
        assert_eq!(open, None, "{settled} is settled, but not this");
        checkpoint.fetch_max(settled, Ordering::SeqCst);
    }
    let settled = checkpoint.load(Ordering::SeqCst);
    if let Ok(head) = broker.head().await {
        // Refills leave out what is beyond the ceiling.
        let after = head.unwrap_or(settled.max(end - 60));
        let upto = end.min(after + 40);
        if after < upto {
            let _ = broker.append(&bench.events(after + 1..=upto).await).await;
        }
    }
    let _ = broker.trim(settled).await;
}

pub async fn nothing_is_lost_through_cuts_losses_ceilings_and_deaths(bench: Arc<Bench>) {
    let checkpoint = Arc::new(AtomicI64::new(0));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut tasks = Vec::new();
    for name in ["a", "b", "c"] {
        let broker = bench.far(name, CEILING);
        let (checkpoint, seen) = (Arc::clone(&checkpoint), Arc::clone(&seen));
        tasks.push(tokio::spawn(run(broker, checkpoint, seen)));
    }
    let near = bench.with_ceiling("relay", CEILING);
    let deadline = Instant::now() + PATIENCE * 3;
    for round in 1_i64.. {
        let end = END.min(round * 20);
        bench.grow(end).await;
        relay(&bench, &*near, end, &checkpoint, &seen).await;
        match round % 50 {
            // Told that it is up, the server's way cuts what is open.
            7 | 23 => bench.server.cut(false),
            41 if round < 300 => bench.server.lose().await,
            _ => {}
        }
        if checkpoint.load(Ordering::SeqCst) == END {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "settled only {checkpoint:?}, missing {:?}",
            (1..=END).find(|seq| !seen.lock().expect("whole").got.contains(seq))
        );
        sleep(Duration::from_millis(10)).await;
    }
    for task in tasks {
        task.abort();
    }
    let seen = seen.lock().expect("whole");
    assert!(seen.got.iter().copied().eq(1..=END), "every event came");
}
