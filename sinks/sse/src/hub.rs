//! Where live events meet the clients: one ring a tenant, shared by its clients.
//!
//! Invariants:
//! 1. `head` is the last `seq` this process has published. Moving it and sending the frame are one
//!    step under the lock, and so are registering a client and reading `head`. A client that joins
//!    at head `h` therefore gets every event with `seq > h` through its ring and finds every event
//!    with `seq <= h` in history: no hole and no double.
//! 2. An event is serialised and framed at most once, and only when its tenant has clients.
//! 3. A tenant without clients has no ring.
//! 4. A ring that closes means "join again": the hub drops rings when it cannot keep invariant 1,
//!    and for good when it closes.
//!
//! A ring holds `buffer` frames at most and lets go of each when the last client has it. Heartbeats
//! travel through the rings too, so one clock serves all clients, and a client waits on one thing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herald_contract::Event;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;

/// What a client gets; events and heartbeats travel through its ring.
#[derive(Debug, Clone)]
pub enum Signal {
    Event(Arc<Frame>),
    /// With the head: whoever hears it has heard every event up to there.
    Heartbeat(i64),
    /// Events between the last one and the next have expired.
    Expired,
}

pub struct Hub {
    state: Mutex<State>,
    closed: CancellationToken,
    buffer: usize,
}

#[derive(Default)]
struct State {
    /// `None` until the host has said where live begins.
    head: Option<i64>,
    rings: HashMap<Arc<str>, Sender<Signal>>,
    ticking: bool,
}

impl Hub {
    pub fn new(buffer: usize) -> Self {
        Self {
            state: Mutex::default(),
            closed: CancellationToken::new(),
            buffer,
        }
    }

    pub fn start(&self, seq: i64) {
        let mut state = self.lock();
        state.head = Some(seq);
        state.rings.clear();
    }

    /// Passes events on. One that was published before is skipped, so a repeated batch does no
    /// harm.
    pub fn publish(&self, events: &[Arc<Event>]) {
        for event in events {
            // The lock is taken for each event, so that clients can join during a long batch.
            let mut state = self.lock();
            let Some(head) = state.head else { return };
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
                state.rings.clear();
            }
            state.head = Some(event.seq);
            if let Some(ring) = state.rings.get(&*event.tenant_id) {
                // It fails only without receivers, and then nobody misses anything.
                let _ = ring.send(Signal::Event(Arc::new(Frame::new(event))));
            }
        }
    }

    /// Registers a client; `None` before the start and after the close.
    pub fn join(self: &Arc<Self>, tenant: &Arc<str>) -> Option<(Ring, i64)> {
        let mut state = self.lock();
        if self.closed.is_cancelled() {
            return None;
        }
        let head = state.head?;
        let receiver = match state.rings.get(tenant) {
            Some(ring) => ring.subscribe(),
            None => {
                let (ring, receiver) = tokio::sync::broadcast::channel(self.buffer);
                state.rings.insert(tenant.clone(), ring);
                receiver
            }
        };
        let ring = Ring {
            hub: self.clone(),
            tenant: tenant.clone(),
            receiver: Some(receiver),
        };
        Some((ring, head))
    }

    /// Ends every ring; what is in them is still read.
    pub fn close(&self) {
        let mut state = self.lock();
        self.closed.cancel();
        state.rings.clear();
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
        for ring in state.rings.values() {
            let _ = ring.send(Signal::Heartbeat(head));
        }
    }

    /// Nothing under the lock can leave the state half changed, so a panic elsewhere is no reason
    /// to stop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn rings(&self) -> usize {
        self.lock().rings.len()
    }
}

/// A client's reading end of its tenant's ring.
pub struct Ring {
    hub: Arc<Hub>,
    tenant: Arc<str>,
    /// Taken on drop only.
    receiver: Option<Receiver<Signal>>,
}

impl Ring {
    pub async fn recv(&mut self) -> Result<Signal, RecvError> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv().await,
            None => Err(RecvError::Closed),
        }
    }

    pub fn try_recv(&mut self) -> Result<Signal, TryRecvError> {
        match &mut self.receiver {
            Some(receiver) => receiver.try_recv(),
            None => Err(TryRecvError::Closed),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        // Under the lock: of two clients that leave together, the second must see the first gone.
        self.receiver = None;
        if state
            .rings
            .get(&self.tenant)
            .is_some_and(|ring| ring.receiver_count() == 0)
        {
            state.rings.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: i64, tenant: &str) -> Arc<Event> {
        herald_testkit::event(seq, tenant, "k", "{}")
    }

    fn heard(ring: &mut Ring) -> Vec<i64> {
        let mut seqs = Vec::new();
        while let Ok(Signal::Event(frame)) = ring.try_recv() {
            seqs.push(frame.seq);
        }
        seqs
    }

    #[test]
    fn nobody_joins_before_the_start_or_after_the_close() {
        let hub = Arc::new(Hub::new(4));
        let tenant: Arc<str> = "a".into();
        assert!(hub.join(&tenant).is_none());
        hub.start(7);
        assert_eq!(hub.join(&tenant).map(|(_, head)| head), Some(7));
        hub.close();
        assert!(hub.join(&tenant).is_none());
    }

    #[test]
    fn a_ring_stands_only_as_long_as_its_tenant_has_clients() {
        let hub = Arc::new(Hub::new(4));
        hub.start(0);
        hub.publish(&[event(1, "a")]);
        assert_eq!(hub.rings(), 0, "publishing makes no ring");
        let first = hub.join(&"a".into());
        let second = hub.join(&"a".into());
        let other = hub.join(&"b".into());
        assert_eq!(hub.rings(), 2);
        drop(first);
        assert_eq!(hub.rings(), 2);
        drop((second, other));
        assert_eq!(hub.rings(), 0);
    }

    #[test]
    fn a_repeated_batch_is_heard_once() {
        let hub = Arc::new(Hub::new(8));
        hub.start(0);
        let (mut ring, _) = hub.join(&"a".into()).expect("open");
        let batch: Vec<_> = (1..=3).map(|seq| event(seq, "a")).collect();
        hub.publish(&batch);
        hub.publish(&batch);
        hub.publish(&[event(3, "a"), event(4, "a")]);
        assert_eq!(heard(&mut ring), [1, 2, 3, 4]);
    }

    #[test]
    fn a_hole_breaks_every_ring_so_that_clients_read_history() {
        let hub = Arc::new(Hub::new(8));
        hub.start(0);
        let (mut a, _) = hub.join(&"a".into()).expect("open");
        let (mut b, _) = hub.join(&"b".into()).expect("open");
        hub.publish(&[event(1, "a"), event(3, "a")]);
        assert_eq!(heard(&mut a), [1], "what came before the hole is kept");
        assert!(matches!(a.try_recv(), Err(TryRecvError::Closed)));
        assert!(matches!(b.try_recv(), Err(TryRecvError::Closed)));
        assert_eq!(hub.join(&"a".into()).map(|(_, head)| head), Some(3));
    }
}
