//! A model of the ledger, so small that one can see that it is right:
//!
//! 1. A final row never changes, except that a replay makes a dead one pending and a drop takes it
//!    away.
//! 2. Attempts never go down, except that a replay begins anew at none. A pending outcome that
//!    knows of fewer is stale and changes nothing.
//! 3. Of several outcomes of one delivery in a batch, the first final one counts, or else the
//!    later one of most attempts.
//! 4. A pending row is handed out when its time has come, the oldest first, and then not before
//!    its lease is over, whoever asks.
//! 5. One sink keeps the order of the events for each recipient: of a lane only the first pending
//!    row is handed out.
//! 6. What waits for its destination or for those before it in its lane is due when it is let go,
//!    and waits no more once it was handed out or recorded anew.
//!
//! Its clock counts whole hours, and a delivery is known by its place in three short lists.

use std::collections::BTreeMap;

use herald::store::State;

pub const SINKS: [&str; 2] = ["email", "push"];
/// The sink that keeps the order.
pub const ORDERED: usize = 1;
pub const RECIPIENTS: [&str; 2] = ["ada", "bob"];

/// Indices of sink, event and recipient.
pub type Key = (usize, usize, usize);

/// What is recorded of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub event: usize,
    pub recipient: usize,
    pub state: State,
    pub attempts: u32,
    /// Hours until the next attempt.
    pub wait: i64,
    /// Whether it waits for something else than its time: on the ordered sink for those before
    /// it, on the other one for its destination.
    pub waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub state: State,
    pub attempts: u32,
    /// The hour of the next attempt.
    pub due: Option<i64>,
    /// Failed attempts it remembers: as many as the last outcome that counted brought.
    pub history: usize,
    pub waits: bool,
}

impl Row {
    /// Without what the store does not show.
    pub fn shown(&self) -> Self {
        Self {
            waits: false,
            ..*self
        }
    }
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Copy)]
pub struct Dead {
    pub sink: Option<usize>,
    pub event: Option<usize>,
    pub recipient: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub now: i64,
    pub rows: BTreeMap<Key, Row>,
}

impl Model {
    pub fn record(&mut self, sink: usize, writes: &[Write]) {
        let mut batch: BTreeMap<Key, Write> = BTreeMap::new();
        for write in writes {
            let key = (sink, write.event, write.recipient);
            let counts = batch.get(&key).is_none_or(|before| {
                before.state == State::Pending
                    && (write.state != State::Pending || write.attempts >= before.attempts)
            });
            if counts {
                batch.insert(key, *write);
            }
        }
        for (key, write) in batch {
            self.conclude(key, write);
        }
    }

    fn conclude(&mut self, key: Key, write: Write) {
        let pending = write.state == State::Pending;
        let mut row = Row {
            state: write.state,
            attempts: write.attempts,
            due: pending.then_some(self.now + write.wait),
            history: write.attempts as usize,
            waits: pending && write.waits,
        };
        if let Some(before) = self.rows.get(&key) {
            let stale = pending && write.attempts < before.attempts;
            if before.state != State::Pending || stale {
                return;
            }
            row.attempts = row.attempts.max(before.attempts);
        }
        self.rows.insert(key, row);
    }

    /// Whether no pending row is before it in its lane.
    fn is_first(&self, key: Key) -> bool {
        let (sink, event, recipient) = key;
        let pending = |event| {
            let row = self.rows.get(&(sink, event, recipient));
            row.is_some_and(|row| row.state == State::Pending)
        };
        sink != ORDERED || !(0..event).any(pending)
    }

    /// What can be taken, with its hour.
    pub fn due(&self, sink: usize) -> BTreeMap<Key, i64> {
        let of_sink = self.rows.iter().filter(|(key, _)| key.0 == sink);
        of_sink
            .filter(|(key, _)| self.is_first(**key))
            .filter_map(|(key, row)| Some((*key, row.due.filter(|due| *due <= self.now)?)))
            .collect()
    }

    pub fn lease(&mut self, taken: &[Key], hours: i64) {
        for key in taken {
            if let Some(row) = self.rows.get_mut(key) {
                row.due = Some(self.now + hours);
                row.waits = false;
            }
        }
    }

    /// Lets go of what waits on this sink, as far as it is first; returns how many.
    pub fn let_go(&mut self, sink: usize) -> u64 {
        let waiting: Vec<Key> = self
            .rows
            .iter()
            .filter(|(key, row)| key.0 == sink && row.waits && self.is_first(**key))
            .map(|(key, _)| *key)
            .collect();
        self.lease(&waiting, 0);
        waiting.len() as u64
    }

    /// The hour of the sink's next attempt.
    pub fn next(&self, sink: usize) -> Option<i64> {
        let of_sink = self.rows.iter().filter(|(key, _)| key.0 == sink);
        of_sink.filter_map(|(_, row)| row.due).min()
    }

    pub fn count(&self, sink: usize, state: State) -> usize {
        let of_sink = self.rows.iter().filter(|(key, _)| key.0 == sink);
        of_sink.filter(|(_, row)| row.state == state).count()
    }

    pub fn dead(&self, dead: Dead) -> Vec<Key> {
        let meant = |(sink, event, recipient): Key| {
            dead.sink.is_none_or(|s| s == sink)
                && dead.event.is_none_or(|e| e == event)
                && dead.recipient.is_none_or(|r| r == recipient)
        };
        self.rows
            .iter()
            .filter(|(key, row)| row.state == State::Dead && meant(**key))
            .map(|(key, _)| *key)
            .collect()
    }

    pub fn replay(&mut self, dead: Dead) {
        for key in self.dead(dead) {
            if let Some(row) = self.rows.get_mut(&key) {
                row.state = State::Pending;
                row.attempts = 0;
                row.due = Some(self.now);
            }
        }
    }

    pub fn drop(&mut self, dead: Dead) {
        for key in self.dead(dead) {
            self.rows.remove(&key);
        }
    }
}
