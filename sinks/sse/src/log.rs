//! The end of one stream: what clients of one tenant with one filter get, kept in memory for those
//! who are up to date or nearly so.
//!
//! Invariants:
//! 1. The chunks hold every frame of the stream with `start < seq <=` the hub's head, in order.
//! 2. `start` only grows. A client whose position is before it reads history.
//! 3. A client that found nothing new is woken by whatever is new; it is in `waiting` until then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use herald_contract::TypeFilter;

use crate::chunk::Chunk;
use crate::frame::Format;

/// Events of the first page of a stream, whose events may be large.
const FIRST_PAGE: usize = 64;

/// What makes two clients' streams the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub tenant: Arc<str>,
    pub types: TypeFilter,
    pub format: Format,
}

pub struct Log {
    pub topic: Topic,
    state: Mutex<State>,
    /// Pages of history that were read last, for those who replay the same stretch. Whoever reads
    /// one holds the lock, so that the others find it.
    pub pages: tokio::sync::Mutex<Pages>,
}

/// Pages of history.
#[derive(Debug)]
pub struct Pages {
    pub chunks: VecDeque<Arc<Chunk>>,
    /// Events that the next query is to read at most.
    pub limit: usize,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            chunks: VecDeque::new(),
            limit: FIRST_PAGE,
        }
    }
}

struct State {
    start: i64,
    chunks: VecDeque<Arc<Chunk>>,
    events: usize,
    clients: usize,
    waiting: Vec<Waker>,
    /// Grows with every reason to wake those who wait.
    version: u64,
    /// Heartbeats so far, and the head at the last one.
    beats: u32,
    head: i64,
}

/// What a client finds.
pub enum Found {
    Chunk(Arc<Chunk>),
    /// It is too far behind for the log.
    Behind,
    /// It is up to date, and a heartbeat has come since the one it knows, when this was the head.
    Beat(i64),
    Nothing,
}

/// A client's place among those who wait.
#[derive(Debug, Default)]
pub struct Ticket {
    version: u64,
    waker: Option<Waker>,
    beats: u32,
}

impl Log {
    /// Of everything after `start`.
    pub fn new(topic: Topic, start: i64) -> Self {
        Self {
            topic,
            state: Mutex::new(State {
                start,
                chunks: VecDeque::new(),
                events: 0,
                clients: 0,
                waiting: Vec::new(),
                version: 1,
                beats: 0,
                head: start,
            }),
            pages: tokio::sync::Mutex::default(),
        }
    }

    /// Nothing under the lock can leave the state half changed, so a panic elsewhere is no reason
    /// to stop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn enter(&self) -> Ticket {
        let mut state = self.lock();
        state.clients += 1;
        Ticket {
            beats: state.beats,
            ..Ticket::default()
        }
    }

    /// How many clients are left.
    pub fn leave(&self) -> usize {
        let mut state = self.lock();
        state.clients -= 1;
        state.clients
    }

    /// Where the next chunk begins.
    pub fn end(&self) -> i64 {
        let state = self.lock();
        state.chunks.back().map_or(state.start, |last| last.to)
    }

    /// Adds chunks and lets go of the oldest beyond `keep` events; who is to be woken.
    pub fn append(&self, chunks: Vec<Chunk>, keep: usize) -> Vec<Waker> {
        let mut state = self.lock();
        for chunk in chunks {
            state.events += chunk.events();
            state.chunks.push_back(Arc::new(chunk));
        }
        while state.events > keep {
            state.forget_oldest();
        }
        state.wake()
    }

    /// Lets go of all there is; the stream goes on after `start`.
    pub fn clear(&self, start: i64) -> Vec<Waker> {
        let mut state = self.lock();
        state.start = start;
        state.chunks.clear();
        state.events = 0;
        state.wake()
    }

    /// Lets go of what is kept for those behind, but for the last chunk.
    pub fn relieve(&self) {
        let mut state = self.lock();
        while state.chunks.len() > 1 {
            state.forget_oldest();
        }
        drop(state);
        if let Ok(mut pages) = self.pages.try_lock() {
            pages.chunks.clear();
        }
    }

    /// All up to `head` is in the log.
    pub fn beat(&self, head: i64) -> Vec<Waker> {
        // Nobody has come for them for a while, or they are read again.
        if let Ok(mut pages) = self.pages.try_lock() {
            pages.chunks.clear();
        }
        let mut state = self.lock();
        state.beats = state.beats.wrapping_add(1);
        state.head = head;
        state.wake()
    }

    /// Who is to be woken because all ends.
    pub fn wake(&self) -> Vec<Waker> {
        self.lock().wake()
    }

    /// What follows `position`. When there is nothing, the ticket's task is woken when there is.
    pub fn look(&self, position: i64, ticket: &mut Ticket, cx: &mut Context<'_>) -> Found {
        let mut state = self.lock();
        if position < state.start {
            return Found::Behind;
        }
        let next = state.chunks.partition_point(|chunk| chunk.to <= position);
        if let Some(chunk) = state.chunks.get(next) {
            // It needs no other sign of life.
            ticket.beats = state.beats;
            return Found::Chunk(chunk.clone());
        }
        if std::mem::replace(&mut ticket.beats, state.beats) != state.beats {
            return Found::Beat(state.head);
        }
        let known = ticket.version == state.version
            && ticket
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            state.waiting.push(cx.waker().clone());
            ticket.version = state.version;
            ticket.waker = Some(cx.waker().clone());
        }
        Found::Nothing
    }
}

impl State {
    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.chunks.pop_front() {
            self.start = oldest.to;
            self.events -= oldest.events();
        }
    }

    fn wake(&mut self) -> Vec<Waker> {
        self.version += 1;
        std::mem::take(&mut self.waiting)
    }
}
