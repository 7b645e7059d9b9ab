//! What one client gets, in which order: first history, then live.
//!
//! ```text
//!            join the ring at head h
//! connect ─────────▶ Replay { upto: h } ── all of it sent ──▶ Live ── hub closed ──▶ Ended
//!                      ▲       │                               │                      ▲
//!                      │       └── database away for 30 s, or hub closed ─────────────┤
//!                      └────── too slow for the ring: join again at the new head ─────┘
//! ```
//!
//! Invariants:
//! 1. `position` only grows. Everything of the tenant's with `seq <= position` that passes the
//!    filter has been handed out; nothing after it has.
//! 2. The ring is joined before history is read, so what is published meanwhile waits in it.
//! 3. What the ring repeats (`seq <= position`) is skipped; what the ring has lost is read from
//!    history again, from `position` on. So nothing is lost and nothing comes twice, however slow
//!    the client is, and it costs one page and one ring at most.
//! 4. Where events expire before they were read, the client is told so before it gets the oldest
//!    ones that are kept. A heartbeat moves `position` too, so that a client of a quiet tenant
//!    does not seem to be as far behind as its last event is old.
//!
//! It knows nothing of how events are written to the client.

use std::sync::Arc;

use herald_contract::{Event, TypeFilter};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::frame::Frame;
use crate::history::{Reader, Stretch};
use crate::hub::{Hub, Ring, Signal};

pub struct Client {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    tenant: Arc<str>,
    types: TypeFilter,
    position: i64,
    /// Whether the first page is still to come and is to begin with the oldest event there is.
    from_oldest: bool,
    ring: Ring,
    stage: Stage,
}

enum Stage {
    Replay {
        /// Events up to here come from history, later ones through the ring.
        upto: i64,
        page: std::vec::IntoIter<Arc<Event>>,
        /// Whether no page follows this one.
        last: bool,
        /// Whether the client is still to be told that events before this page have expired.
        hole: bool,
    },
    Live,
    Ended,
}

impl Stage {
    fn replay(position: i64, head: i64) -> Self {
        if head <= position {
            return Self::Live;
        }
        Self::Replay {
            upto: head,
            page: Vec::new().into_iter(),
            last: false,
            hole: false,
        }
    }
}

/// What the ring said, whether it was waited for or not.
enum Ringing {
    Signal(Signal),
    Nothing,
    /// It is no longer whole: join again.
    Broken,
}

impl From<Result<Signal, TryRecvError>> for Ringing {
    fn from(result: Result<Signal, TryRecvError>) -> Self {
        match result {
            Ok(signal) => Self::Signal(signal),
            Err(TryRecvError::Empty) => Self::Nothing,
            Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => Self::Broken,
        }
    }
}

impl From<Result<Signal, RecvError>> for Ringing {
    fn from(result: Result<Signal, RecvError>) -> Self {
        match result {
            Ok(signal) => Self::Signal(signal),
            Err(RecvError::Lagged(_) | RecvError::Closed) => Self::Broken,
        }
    }
}

impl Client {
    /// A client that has joined at `head` and wants what follows `position`.
    pub fn new(
        hub: Arc<Hub>,
        reader: Arc<Reader>,
        tenant: Arc<str>,
        types: TypeFilter,
        (ring, head): (Ring, i64),
        position: i64,
    ) -> Self {
        let stage = Stage::replay(position, head);
        Self {
            hub,
            reader,
            tenant,
            types,
            position,
            from_oldest: position == 0 && matches!(stage, Stage::Replay { .. }),
            ring,
            stage,
        }
    }

    /// The next signal; `None` at the end. Waits, and may be dropped while it waits.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            if let Some(signal) = self.ready() {
                return Some(signal);
            }
            match &self.stage {
                Stage::Replay { .. } => self.turn_page().await,
                Stage::Live => {
                    let ringing = self.ring.recv().await.into();
                    if let Some(signal) = self.heard(ringing) {
                        return Some(signal);
                    }
                }
                Stage::Ended => return None,
            }
        }
    }

    /// The next signal, if it is at hand.
    pub fn ready(&mut self) -> Option<Signal> {
        loop {
            match &mut self.stage {
                Stage::Replay { page, hole, .. } => {
                    if std::mem::take(hole) {
                        return Some(Signal::Expired);
                    }
                    let event = page.next()?;
                    self.position = event.seq;
                    return Some(Signal::Event(Arc::new(Frame::new(&event))));
                }
                Stage::Live => match self.ring.try_recv().into() {
                    Ringing::Nothing => return None,
                    ringing => {
                        if let Some(signal) = self.heard(ringing) {
                            return Some(signal);
                        }
                    }
                },
                Stage::Ended => return None,
            }
        }
    }

    /// Takes what the ring said; `None` when it is nothing for this client.
    fn heard(&mut self, ringing: Ringing) -> Option<Signal> {
        match ringing {
            Ringing::Signal(Signal::Event(frame)) => {
                if frame.seq <= self.position {
                    return None;
                }
                self.position = frame.seq;
                self.types
                    .matches(&frame.kind)
                    .then_some(Signal::Event(frame))
            }
            Ringing::Signal(Signal::Heartbeat(head)) => {
                self.position = self.position.max(head);
                Some(Signal::Heartbeat(head))
            }
            Ringing::Signal(Signal::Expired) | Ringing::Nothing => None,
            Ringing::Broken => {
                self.join_again();
                None
            }
        }
    }

    fn join_again(&mut self) {
        match self.hub.join(&self.tenant) {
            Some((ring, head)) => {
                self.ring = ring;
                self.stage = Stage::replay(self.position, head);
            }
            None => self.stage = Stage::Ended,
        }
    }

    /// Fetches the next page, or goes live after the last.
    async fn turn_page(&mut self) {
        let Stage::Replay { upto, last, .. } = self.stage else {
            return;
        };
        if last {
            self.position = self.position.max(upto);
            self.stage = Stage::Live;
            return;
        }
        let stretch = Stretch {
            tenant: &self.tenant,
            types: &self.types,
            after: self.position,
            upto,
            from_oldest: self.from_oldest,
        };
        let page = tokio::select! {
            biased;
            () = self.hub.closed() => None,
            page = self.reader.page(stretch) => Some(page),
        };
        self.from_oldest = false;
        self.stage = match page {
            Some(Ok(page)) => Stage::Replay {
                upto,
                page: page.events.into_iter(),
                last: page.last,
                hole: page.hole,
            },
            Some(Err(cause)) => {
                tracing::warn!(%cause, "a replay ends early; the client comes back with its cursor");
                Stage::Ended
            }
            None => Stage::Ended,
        };
    }
}
