//! The contract of a sink of the broadcast kind ([`Broadcast`]), as the life of one process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::{Broadcast, Event, StreamStats};
use ulid::Ulid;

use crate::{MemoryHistory, bounded, event};

/// More than a client's buffer holds.
const FLOOD: i64 = 5_000;

/// A sink that was not started yet and its way in, as [`exercise_broadcast`] needs them.
#[async_trait]
pub trait BroadcastBench: Sync {
    fn sink(&self) -> &dyn Broadcast;

    /// The history that the sink's host has.
    fn history(&self) -> &MemoryHistory;

    /// Connects a client of the tenant's, for live events of every type; it gets all that is
    /// published once this returns.
    async fn connect(&self, tenant: &str) -> Box<dyn Client>;
}

/// A connected client. Dropped, it has left.
#[async_trait]
pub trait Client: Send {
    /// The id of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Ulid>;
}

/// Checks that the sink keeps the contract.
///
/// # Panics
/// It does not.
pub async fn exercise_broadcast(bench: &dyn BroadcastBench) {
    let sink = bench.sink();
    assert_eq!(sink.stats(), StreamStats::default(), "before the start");
    sink.start(0);
    // Nobody is connected: nothing to do and nothing to count.
    emit(bench, 1, 20);
    assert_eq!(sink.stats(), StreamStats::default(), "without clients");

    let mut red = bench.connect("red").await;
    let mut blue = bench.connect("blue").await;
    clients(sink, 2).await;
    let batch = emit(bench, 21, 40);
    reads(&mut *red, "red", &batch).await;
    reads(&mut *blue, "blue", &batch).await;

    // A relay that did not hear the answer publishes again; so does one that took over.
    sink.publish(&batch);
    sink.publish(&batch[10..]);
    sink.publish(&[]);
    let next = emit(bench, 41, 60);
    reads(&mut *red, "red", &next).await;
    reads(&mut *blue, "blue", &next).await;

    let leaver = bench.connect("red").await;
    clients(sink, 3).await;
    drop(leaver);
    clients(sink, 2).await;

    // Red reads nothing meanwhile; that may hold up neither the publisher nor blue.
    let flood = emit(bench, 61, 60 + FLOOD);
    reads(&mut *blue, "blue", &flood).await;
    reads(&mut *red, "red", &flood).await;
    let read = 40 + FLOOD.unsigned_abs();
    assert_eq!(sink.stats().events, read, "events handed to clients");

    let last = emit(bench, 61 + FLOOD, 70 + FLOOD);
    sink.close();
    sink.close();
    ends(&mut *red, "red", &last).await;
    ends(&mut *blue, "blue", &last).await;
    drop((red, blue));
    clients(sink, 0).await;
    emit(bench, 71 + FLOOD, 80 + FLOOD);
    assert_eq!(sink.stats().clients, 0, "after the end");
}

/// Commits and publishes events, red and blue in turn.
fn emit(bench: &dyn BroadcastBench, from: i64, to: i64) -> Vec<Arc<Event>> {
    let tenant = |seq| if seq % 2 == 0 { "red" } else { "blue" };
    let events: Vec<_> = (from..=to)
        .map(|seq| event(seq, tenant(seq), "order.created", r#"{"text":"\ud800"}"#))
        .collect();
    bench.history().commit(&events);
    bench.sink().publish(&events);
    events
}

/// The client gets these of the tenant's, each once and in order.
async fn reads(client: &mut dyn Client, tenant: &str, events: &[Arc<Event>]) {
    for event in events.iter().filter(|e| &*e.tenant_id == tenant) {
        let id = bounded("a published event", client.next()).await;
        assert_eq!(id, Some(event.event_id), "{tenant} at seq {}", event.seq);
    }
}

/// The stream ends, after none, some or all of these, without a hole: a client that is cut off
/// resumes after the last that it got.
async fn ends(client: &mut dyn Client, tenant: &str, last: &[Arc<Event>]) {
    let mut own = last.iter().filter(|e| &*e.tenant_id == tenant);
    while let Some(id) = bounded("the end of a stream", client.next()).await {
        let expected = own.next().map(|e| e.event_id);
        assert_eq!(Some(id), expected, "{tenant} after the close");
    }
}

/// Waits until so many clients are counted: one that leaves may be noticed a little later.
async fn clients(sink: &dyn Broadcast, count: u64) {
    let counted = async {
        while sink.stats().clients != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    bounded(&format!("counting {count} clients"), counted).await;
}
