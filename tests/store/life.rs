//! The ledger as its model speaks of it: a database, two processes, and the events of a life.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use herald::store::{Attempt, DeadFilter, Due, LedgerRow, LedgerWrite, State, Store, WaitsFor};
use herald_contract::Event;

use crate::backend::Fixture;
use crate::model::{Dead, Key, Model, ORDERED, RECIPIENTS, Row, SINKS, Write};

const HOUR: u64 = 3600;
const DESTINATION: &str = "example.org";

pub struct Life {
    pub f: Arc<Fixture>,
    pub processes: [Arc<dyn Store>; 2],
    pub events: Vec<Arc<Event>>,
}

impl Life {
    pub async fn record(&self, process: usize, sink: usize, writes: &[Write]) {
        let attempt = Attempt {
            at: DateTime::UNIX_EPOCH,
            cause: "busy".to_owned(),
        };
        let waits_for = match sink {
            ORDERED => WaitsFor::Order,
            _ => WaitsFor::Destination,
        };
        let writes: Vec<_> = writes
            .iter()
            .map(|write| LedgerWrite {
                event_id: self.events[write.event].event_id,
                tenant_id: "acme".into(),
                recipient: RECIPIENTS[write.recipient].to_owned(),
                state: write.state,
                attempts: write.attempts,
                retry_in: hours(write.wait),
                cause: None,
                response: None,
                history: vec![attempt.clone(); write.attempts as usize],
                destination: (sink != ORDERED).then(|| DESTINATION.into()),
                waits_for: (write.waits && write.state == State::Pending).then_some(waits_for),
                first: false,
                order: (sink == ORDERED).then(|| self.order(write.event)),
            })
            .collect();
        self.processes[process]
            .ledger_record(SINKS[sink], &writes)
            .await
            .expect("recorded");
    }

    /// The key of every lane, and the event's place in it.
    fn order(&self, event: usize) -> (Arc<str>, i64) {
        ("order 7".into(), self.events[event].seq)
    }

    pub async fn let_go(&self, sink: usize) -> u64 {
        let (store, name) = (&self.f.store, SINKS[sink]);
        let done = match sink {
            ORDERED => store.ledger_release_all(name).await,
            _ => {
                store
                    .ledger_hasten(name, DESTINATION, Duration::ZERO, 100)
                    .await
            }
        };
        done.expect("let go")
    }

    pub async fn take(&self, process: usize, sink: usize, limit: usize, lease: i64) -> Vec<Due> {
        self.processes[process]
            .ledger_due(SINKS[sink], hours(lease), limit, None, None)
            .await
            .expect("taken")
    }

    /// The ledger's rows as the model has them, by the model's clock.
    pub async fn rows(&self, model: &Model, events: &[usize]) -> Vec<(Key, Row)> {
        let mut rows = Vec::new();
        for &event in events {
            let id = self.events[event].event_id;
            let found = self.f.store.deliveries(id).await.expect("read");
            rows.extend(found.iter().map(|row| as_model(model.now, event, row)));
        }
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }

    pub fn event(&self, event: &Event) -> usize {
        let place = self
            .events
            .iter()
            .position(|e| e.event_id == event.event_id);
        place.expect("an event of this life")
    }

    pub fn filter(&self, dead: Dead) -> DeadFilter {
        DeadFilter {
            sink: dead.sink.map(|sink| SINKS[sink].to_owned()),
            event_id: dead.event.map(|event| self.events[event].event_id),
            recipient: dead.recipient.map(|r| RECIPIENTS[r].to_owned()),
            ..DeadFilter::default()
        }
    }
}

fn hours(hours: i64) -> Duration {
    Duration::from_secs(hours.unsigned_abs() * HOUR)
}

/// The case itself takes far less than half an hour.
pub fn whole_hours(wait: TimeDelta) -> i64 {
    (wait + TimeDelta::minutes(30))
        .num_seconds()
        .div_euclid(3600)
}

pub fn recipient(name: &str) -> usize {
    let place = RECIPIENTS.iter().position(|r| *r == name);
    place.expect("a recipient of this life")
}

fn as_model(now: i64, event: usize, row: &LedgerRow) -> (Key, Row) {
    let sink = SINKS.iter().position(|sink| *sink == row.sink);
    let key = (
        sink.expect("a sink of this life"),
        event,
        recipient(&row.recipient),
    );
    let due = row
        .next_attempt_at
        .map(|at| now + whole_hours(at - Utc::now()));
    let row = Row {
        state: row.state,
        attempts: row.attempts,
        due,
        history: row.history.len(),
        waits: false, // It is not shown.
    };
    (key, row)
}
