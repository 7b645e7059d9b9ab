//! Where live events meet the clients: one log for each stream that has clients.
//!
//! Invariants:
//! 1. `head` is the last `seq` this process has published. Moving it and adding the frames are one
//!    step under the lock, and so are joining a log and reading `head`. A client that joins at head
//!    `h` therefore finds every event with `seq > h` in its log and every event with `seq <= h` in
//!    history: no hole and no double.
//! 2. An event is serialised and framed at most once, and only when its tenant has clients.
//! 3. A stream without clients has no log.
//! 4. Those who wait are woken after the lock is free.
//!
//! Heartbeats travel through the logs too, so one clock serves all clients, and a client waits on
//! one thing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herald_contract::Event;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::chunk::Builder;
use crate::frame::Frame;
use crate::log::{Call, Log, Ticket, Topic};

/// Events published in one step. Clients join between two.
const STEP: usize = 128;

pub struct Hub {
    state: Mutex<State>,
    closed: CancellationToken,
    buffer: usize,
    pub budget: Arc<Budget>,
}

#[derive(Default)]
struct State {
    /// `None` until the host has said where live begins.
    head: Option<i64>,
    /// By tenant.
    logs: HashMap<Arc<str>, Vec<Arc<Log>>>,
    ticking: bool,
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Arc<Log>> {
        self.logs.values().flatten()
    }
}

impl Hub {
    /// Logs keep `buffer` events each.
    pub fn new(buffer: usize, budget: Arc<Budget>) -> Self {
        Self {
            state: Mutex::default(),
            closed: CancellationToken::new(),
            buffer,
            budget,
        }
    }

    pub fn start(&self, seq: i64) {
        let mut state = self.lock();
        state.head = Some(seq);
        let call: Call = state.all().map(|log| log.clear(seq)).collect();
        drop(state);
        call.go();
    }

    /// Passes events on. One that was published before is skipped, so a repeated batch does no
    /// harm.
    pub fn publish(&self, events: &[Arc<Event>]) {
        for step in events.chunks(STEP.min(self.buffer)) {
            self.publish_step(step).go();
        }
        if self.budget.is_exceeded() {
            self.relieve();
        }
    }

    fn publish_step(&self, events: &[Arc<Event>]) -> Call {
        let mut call = Call::default();
        let mut builders: Vec<(Arc<Log>, Builder)> = Vec::new();
        let mut state = self.lock();
        for event in events {
            let Some(head) = state.head else { break };
            if event.seq <= head {
                continue;
            }
            if event.seq > head + 1 {
                // Whose events are missing is not known here, but history has them.
                tracing::warn!(
                    head,
                    seq = event.seq,
                    "hole in the feed: all clients replay"
                );
                builders.clear();
                let start = event.seq - 1;
                call.extend(state.all().map(|log| log.clear(start)).collect());
            }
            state.head = Some(event.seq);
            let logs = state.logs.get(&*event.tenant_id).map(Vec::as_slice);
            let mut frame = None;
            for log in logs.unwrap_or_default() {
                if !log.topic.types.matches(&event.kind) {
                    continue;
                }
                let frame = frame.get_or_insert_with(|| Frame::new(event));
                let builder = match builders
                    .iter()
                    .position(|(known, _)| Arc::ptr_eq(known, log))
                {
                    Some(known) => &mut builders[known].1,
                    None => {
                        let Topic { format, coding, .. } = log.topic;
                        builders.push((log.clone(), Builder::new(log.end(), format, coding)));
                        let last = builders.len() - 1;
                        &mut builders[last].1
                    }
                };
                builder.push(event.seq, frame.bytes(log.topic.format), &self.budget);
            }
        }
        for (log, builder) in builders {
            call.extend(log.append(builder.finish(&self.budget), self.buffer));
        }
        call
    }

    /// Lets go of what is kept for clients that are behind: they read history.
    pub fn relieve(&self) {
        self.lock().all().for_each(|log| log.relieve());
    }

    /// The last `seq` that was published.
    pub fn head(&self) -> i64 {
        self.lock().head.unwrap_or_default()
    }

    /// Joins a client to its stream, with the head; `None` before the start and after the close.
    pub fn join(self: &Arc<Self>, topic: Topic) -> Option<(Member, i64)> {
        let mut state = self.lock();
        if self.closed.is_cancelled() {
            return None;
        }
        let head = state.head?;
        let logs = state.logs.entry(topic.tenant.clone()).or_default();
        let log = match logs.iter().find(|log| log.topic == topic) {
            Some(log) => log.clone(),
            None => {
                let log = Arc::new(Log::new(topic, head));
                logs.push(log.clone());
                log
            }
        };
        let ticket = log.enter();
        let hub = self.clone();
        Some((Member { hub, log, ticket }, head))
    }

    /// Ends every stream; what is in its log is still read.
    pub fn close(&self) {
        let state = self.lock();
        self.closed.cancel();
        let call: Call = state.all().map(|log| log.wake()).collect();
        drop(state);
        call.go();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the hub is closed.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Starts the clock of heartbeats unless it runs. Call it within a Tokio runtime.
    pub fn tick_every(self: &Arc<Self>, period: Duration) {
        if std::mem::replace(&mut self.lock().ticking, true) {
            return;
        }
        let closed = self.closed.clone();
        // Weak, so that a hub that is dropped without a close ends its clock too.
        let hub = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut clock = tokio::time::interval(period);
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            clock.tick().await; // The first comes at once.
            loop {
                tokio::select! {
                    () = closed.cancelled() => return,
                    _ = clock.tick() => {}
                }
                let Some(hub) = hub.upgrade() else { return };
                hub.beat();
            }
        });
    }

    fn beat(&self) {
        let state = self.lock();
        let Some(head) = state.head else { return };
        let call: Call = state.all().map(|log| log.beat(head)).collect();
        drop(state);
        call.go();
    }

    /// Nothing under the lock can leave the state half changed, so a panic elsewhere is no reason
    /// to stop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn logs(&self) -> usize {
        self.lock().all().count()
    }
}

/// A client's membership of its stream.
pub struct Member {
    hub: Arc<Hub>,
    pub log: Arc<Log>,
    pub ticket: Ticket,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        // Under the lock: of two clients that leave together, the second must see the first gone.
        if self.log.leave() > 0 {
            return;
        }
        let tenant = &self.log.topic.tenant;
        if let Some(logs) = state.logs.get_mut(tenant) {
            logs.retain(|log| !Arc::ptr_eq(log, &self.log));
            if logs.is_empty() {
                state.logs.remove(tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::Coding;
    use crate::frame::Format;
    use crate::log::Found;

    fn hub() -> Arc<Hub> {
        Arc::new(Hub::new(8, Arc::new(Budget::new(1 << 20))))
    }

    fn event(seq: i64, tenant: &str) -> Arc<Event> {
        herald_testkit::event(seq, tenant, "k", "{}")
    }

    fn topic(tenant: &str, types: &str) -> Topic {
        Topic {
            tenant: tenant.into(),
            types: herald_contract::TypeFilter::parse(types).expect("a filter"),
            format: Format::Sse,
            coding: Coding::Identity,
        }
    }

    /// Where a client at `position` is after all that it finds; `None` when it must replay.
    fn heard(member: &mut Member, mut position: i64) -> Option<i64> {
        loop {
            match member.log.look(position, &mut member.ticket) {
                Found::Chunk(chunk) => position = chunk.to,
                Found::Behind => return None,
                Found::Beat(_) | Found::Nothing => return Some(position),
            }
        }
    }

    #[test]
    fn nobody_joins_before_the_start_or_after_the_close() {
        let hub = hub();
        assert!(hub.join(topic("a", "")).is_none());
        hub.start(7);
        assert_eq!(hub.join(topic("a", "")).map(|(_, head)| head), Some(7));
        hub.close();
        assert!(hub.join(topic("a", "")).is_none());
    }

    #[test]
    fn a_log_stands_only_as_long_as_its_stream_has_clients() {
        let hub = hub();
        hub.start(0);
        hub.publish(&[event(1, "a")]);
        assert_eq!(hub.logs(), 0, "publishing makes no log");
        let first = hub.join(topic("a", ""));
        let second = hub.join(topic("a", ""));
        let filtered = hub.join(topic("a", "k"));
        let other = hub.join(topic("b", ""));
        assert_eq!(hub.logs(), 3);
        drop(first);
        assert_eq!(hub.logs(), 3);
        drop((second, filtered, other));
        assert_eq!(hub.logs(), 0);
    }

    #[test]
    fn a_repeated_batch_is_heard_once() {
        let hub = hub();
        hub.start(0);
        let (mut member, _) = hub.join(topic("a", "")).expect("open");
        let batch: Vec<_> = (1..=3).map(|seq| event(seq, "a")).collect();
        hub.publish(&batch);
        hub.publish(&batch);
        hub.publish(&[event(3, "a"), event(4, "a")]);
        assert_eq!(heard(&mut member, 0), Some(4));
        assert_eq!(member.log.end(), 4);
    }

    #[test]
    fn a_hole_makes_everybody_read_history() {
        let hub = hub();
        hub.start(0);
        let (mut a, _) = hub.join(topic("a", "")).expect("open");
        let (mut b, _) = hub.join(topic("b", "")).expect("open");
        hub.publish(&[event(1, "a"), event(3, "a")]);
        assert_eq!((heard(&mut a, 0), heard(&mut b, 0)), (None, None));
        assert_eq!(heard(&mut a, 2), Some(3));
        assert_eq!(hub.join(topic("a", "")).map(|(_, head)| head), Some(3));
    }

    #[test]
    fn beyond_its_limit_the_hub_keeps_the_last_chunk_of_each_stream_alone() {
        let hub = Arc::new(Hub::new(1000, Arc::new(Budget::new(1))));
        hub.start(0);
        let (mut member, _) = hub.join(topic("a", "")).expect("open");
        for seq in 1..=10 {
            hub.publish(&[event(seq, "a")]);
        }
        assert_eq!(heard(&mut member, 8), None);
        assert_eq!(heard(&mut member, 9), Some(10));
        assert!(hub.budget.used() < 1000);
    }
}
