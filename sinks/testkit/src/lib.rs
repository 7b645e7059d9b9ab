//! What every sink must do, as tests, and a host made of memory to do it on. For tests only:
//! everything here panics with a sentence about what is wrong.
//!
//! - [`exercise_sink`] for sinks of the competing kind: a test says how to make the sink and how
//!   to look at its far end ([`SinkBench`]).
//! - [`exercise_broadcast`] for sinks of the broadcast kind: a test says how a client connects and
//!   reads ([`BroadcastBench`]).
//! - [`check_property`] for what must hold over many random cases.
//! - [`host`], [`MemoryHistory`], [`MemorySubscriptions`] and [`event`] stand in for the host.
//!
//! A sink's own conformance test is a few lines; what is particular to it is tested beside it.

mod broadcast;
mod calls;
mod competing;
mod history;
mod odd;
mod property;
mod subscriptions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use herald_contract::{Event, Host};
use serde_json::value::RawValue;
use ulid::Ulid;

pub use broadcast::{BroadcastBench, Client, exercise_broadcast};
pub use competing::{Arrival, FarEnd, SinkBench, exercise_sink};
pub use history::MemoryHistory;
pub use odd::odd_payloads;
pub use property::check_property;
pub use subscriptions::MemorySubscriptions;

/// Longer than any one call may take.
const HANG: Duration = Duration::from_secs(60);

/// A host that has no events and no subscriptions; put others in their place where it matters:
/// `Host { history, ..host("sse", folder) }`.
pub fn host(sink: &str, data_dir: impl Into<PathBuf>) -> Host {
    Host {
        sink: sink.into(),
        history: Arc::new(MemoryHistory::default()),
        subscriptions: Arc::new(MemorySubscriptions::default()),
        data_dir: data_dir.into(),
    }
}

/// An event of the feed, from 1 to 999,999; the same `seq` gives the same ids. `payload` is JSON.
///
/// Neither [`event_id`] nor [`aggregate_id`] follows the order of the feed, as happens where
/// several machines write.
pub fn event(seq: i64, tenant: &str, kind: &str, payload: &str) -> Arc<Event> {
    Arc::new(Event {
        seq,
        event_id: event_id(seq),
        aggregate_id: aggregate_id(seq),
        tenant_id: tenant.into(),
        kind: kind.into(),
        payload: raw(payload),
        metadata: None,
        created_at: DateTime::UNIX_EPOCH,
    })
}

/// The id of the [`event`] at `seq`: the later the event, the lower the id. Its random part is
/// `seq`.
pub fn event_id(seq: i64) -> Ulid {
    let seq = seq.unsigned_abs();
    Ulid::from_parts(1_000_000 - seq, seq.into())
}

/// The aggregate id of the [`event`] at `seq`, neighbours swapped: 2, 1, 4, 3 …
pub fn aggregate_id(seq: i64) -> i64 {
    if seq % 2 == 1 { seq + 1 } else { seq - 1 }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.into()).expect("the payload is JSON")
}

/// Waits for a call that must end.
async fn bounded<T>(what: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, call)
        .await
        .unwrap_or_else(|_| panic!("{what} did not end within {HANG:?}"))
}
