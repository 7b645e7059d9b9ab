//! Deliveries that wait for a destination, or for those before them in their lane.

use std::sync::Arc;
use std::time::Duration;

use herald::store::{Due, Lane, LedgerWrite, State, WaitsFor};
use herald_contract::Event;

use crate::backend::{Fixture, event};
use crate::ledger::write;

const LEASE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(3600);

async fn events(f: &Fixture, count: usize) -> Vec<Arc<Event>> {
    let new: Vec<_> = (0..count).map(|_| event("acme", "a")).collect();
    f.feed(&new).await
}

async fn record(f: &Fixture, writes: &[LedgerWrite]) {
    let recorded = f.store.ledger_record("email", writes).await;
    recorded.expect("recorded");
}

async fn due(f: &Fixture, upto: Option<i64>) -> Vec<Due> {
    let due = f.store.ledger_due("email", LEASE, 100, upto, None).await;
    due.expect("taken")
}

fn seqs(due: &[Due]) -> Vec<i64> {
    due.iter().map(|due| due.event.seq).collect()
}

fn waiting(event: &Event, destination: &str) -> LedgerWrite {
    let mut write = write(event, &format!("a@{destination}"), State::Pending);
    write.retry_in = LONG;
    write.destination = Some(destination.into());
    write.waits_for = Some(WaitsFor::Destination);
    write
}

fn lined(event: &Event, key: &str) -> LedgerWrite {
    let mut write = write(event, "a", State::Pending);
    write.attempts = 0;
    write.retry_in = LONG;
    write.waits_for = Some(WaitsFor::Order);
    write.order = Some((key.into(), event.seq));
    write
}

async fn release(f: &Fixture, keys: &[&str]) -> u64 {
    let lane = |key: &&str| Lane {
        recipient: "a".to_owned(),
        key: (*key).to_owned(),
    };
    let lanes: Vec<Lane> = keys.iter().map(lane).collect();
    let released = f.store.ledger_release("email", &lanes).await;
    released.expect("released")
}

pub async fn what_waits_for_a_destination_is_due_when_it_is_hastened(f: Arc<Fixture>) {
    let events = events(&f, 4).await;
    let mut backing_off = waiting(&events[3], "dead.test");
    backing_off.waits_for = None;
    let writes = [
        waiting(&events[0], "dead.test"),
        waiting(&events[1], "other.test"),
        waiting(&events[2], "dead.test"),
        backing_off,
    ];
    record(&f, &writes).await;
    assert!(due(&f, None).await.is_empty());
    let store = &f.store;
    let awaited = async |sink, limit| store.ledger_awaited(sink, limit).await.expect("looked");
    assert_eq!(awaited("email", 10).await, ["dead.test", "other.test"]);
    assert_eq!(awaited("email", 1).await, ["dead.test"]);
    assert!(awaited("push", 10).await.is_empty());
    let hasten = async |limit| {
        let hastened = store.ledger_hasten("email", "dead.test", Duration::ZERO, limit);
        hastened.await.expect("hastened")
    };
    assert_eq!(hasten(1).await, 1);
    assert_eq!(hasten(10).await, 1);
    assert_eq!(hasten(10).await, 0, "what was hastened waits no more");
    assert_eq!(awaited("email", 10).await, ["other.test"]);
    let taken = due(&f, None).await;
    assert_eq!(seqs(&taken), [events[0].seq, events[2].seq]);
    assert_eq!(taken[0].destination.as_deref(), Some("dead.test"));
}

pub async fn of_a_lane_only_the_first_is_taken_and_the_next_when_it_is_through(f: Arc<Fixture>) {
    let events = events(&f, 4).await;
    let keys = ["x", "x", "y", "x"];
    let writes: Vec<_> = events
        .iter()
        .zip(keys)
        .map(|(e, key)| lined(e, key))
        .collect();
    // Backwards: the order is that of the feed, not of the recording.
    for write in writes.iter().rev() {
        record(&f, std::slice::from_ref(write)).await;
    }
    assert!(due(&f, None).await.is_empty(), "nobody was let go");
    assert_eq!(release(&f, &["x", "y", "z"]).await, 2);
    let taken = due(&f, None).await;
    assert_eq!(seqs(&taken), [events[0].seq, events[2].seq]);
    assert_eq!(taken[0].order_key.as_deref(), Some("x"));

    // The first of x fails and comes again; those behind it stay.
    let mut again = lined(&events[0], "x");
    (again.attempts, again.retry_in, again.waits_for) = (1, Duration::ZERO, None);
    record(&f, std::slice::from_ref(&again)).await;
    assert_eq!(release(&f, &["x"]).await, 0);
    assert_eq!(seqs(&due(&f, None).await), [events[0].seq]);

    again.state = State::Delivered;
    record(&f, &[again]).await;
    assert_eq!(release(&f, &["x"]).await, 1);
    assert_eq!(seqs(&due(&f, None).await), [events[1].seq]);
    assert_eq!(release(&f, &["x"]).await, 0, "it is on its way");
}

pub async fn nothing_of_a_lane_is_taken_beyond_what_is_known_to_be_complete(f: Arc<Fixture>) {
    let events = events(&f, 3).await;
    record(&f, &[lined(&events[1], "x")]).await;
    release(&f, &["x"]).await;
    // The first event's delivery may yet come, from another process.
    assert!(due(&f, Some(0)).await.is_empty());
    record(&f, &[lined(&events[0], "x")]).await;
    release(&f, &["x"]).await;
    assert_eq!(seqs(&due(&f, Some(2)).await), [events[0].seq]);
    assert!(due(&f, Some(2)).await.is_empty(), "it is on its way");
}

pub async fn a_sweep_lets_go_of_the_first_in_every_lane(f: Arc<Fixture>) {
    let events = events(&f, 4).await;
    let keys = ["x", "y", "x", "y"];
    let writes: Vec<_> = events
        .iter()
        .zip(keys)
        .map(|(e, key)| lined(e, key))
        .collect();
    record(&f, &writes).await;
    let sweep = async || f.store.ledger_release_all("email").await.expect("swept");
    assert_eq!(f.store.ledger_release_all("push").await.expect("swept"), 0);
    assert_eq!(sweep().await, 2);
    assert_eq!(sweep().await, 0);
    assert_eq!(seqs(&due(&f, None).await), [events[0].seq, events[1].seq]);
}
