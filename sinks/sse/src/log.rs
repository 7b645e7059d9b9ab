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
use std::time::Duration;

use herald_contract::TypeFilter;
use tokio::time::Instant;

use crate::chunk::Chunk;
use crate::coding::Coding;
use crate::frame::Format;
use crate::wave::{self, Wave};

/// Clients of one wave, before the next one gets some: what one core writes to in a moment.
const OF_A_WAVE: usize = 2048;

/// Waves of a stream.
const MOST_WAVES: usize = 16;

/// Pages of one stream that are kept, in bytes: enough for those who came a little later.
const KEPT: usize = 1 << 22;

/// What one page is to be at most, in bytes.
const PAGE: usize = 1 << 20;

/// How long a page is what the database has.
const FRESH: Duration = Duration::from_secs(1);

/// Events of the first page of a stream, whose events may be large.
const FIRST_PAGE: usize = 64;

impl Pages {
    pub fn clear(&mut self) {
        self.chunks.clear();
    }

    /// What was read of this place not long ago.
    pub fn find(&mut self, position: i64) -> Option<Arc<Chunk>> {
        let now = Instant::now();
        while self
            .chunks
            .front()
            .is_some_and(|(read, _)| now - *read > FRESH)
        {
            self.chunks.pop_front();
        }
        let covers = |chunk: &&Arc<Chunk>| chunk.from <= position && position < chunk.to;
        self.chunks
            .iter()
            .map(|(_, chunk)| chunk)
            .find(covers)
            .cloned()
    }

    /// Keeps a page for the others, and chooses the size of the next one.
    pub fn add(&mut self, page: &[Arc<Chunk>], limit: usize) {
        let read = Instant::now();
        let size = |chunk: &Arc<Chunk>| chunk.size();
        self.limit = match page.iter().map(size).sum::<usize>() {
            large if large > PAGE => (limit / 2).max(1),
            small if small < PAGE / 4 => limit.saturating_mul(2),
            _ => limit,
        };
        self.chunks
            .extend(page.iter().map(|chunk| (read, chunk.clone())));
        let mut all: usize = self.chunks.iter().map(|(_, chunk)| size(chunk)).sum();
        while all > KEPT
            && let Some((_, oldest)) = self.chunks.pop_front()
        {
            all -= size(&oldest);
        }
    }
}

/// What makes two clients' streams the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub tenant: Arc<str>,
    pub types: TypeFilter,
    pub format: Format,
    pub coding: Coding,
}

pub struct Log {
    pub topic: Topic,
    state: Mutex<State>,
    /// Clients that are up to date, with their connections.
    pub(crate) waves: Box<[Wave]>,
    /// Pages of history that were read last, for those who replay the same stretch. Whoever reads
    /// one holds the lock, so that the others find it.
    pub pages: tokio::sync::Mutex<Pages>,
}

/// Pages of history, for those who read it at the same time.
#[derive(Debug)]
pub struct Pages {
    /// Each with the time at which it was read.
    chunks: VecDeque<(Instant, Arc<Chunk>)>,
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
    /// Those of each wave.
    parked: Box<[Parked]>,
    /// Grows with every reason to wake those who wait.
    version: u64,
    /// Heartbeats so far, and the head at the last one.
    beats: u32,
    head: i64,
}

/// What is known of a wave.
#[derive(Debug, Default)]
struct Parked {
    clients: usize,
    /// Whether a task writes to them, which looks again before it ends.
    running: bool,
}

/// Those who are to be woken, once all locks are free.
#[derive(Default)]
#[must_use = "somebody waits"]
pub struct Call {
    wakers: Vec<Waker>,
    waves: Vec<(Arc<Log>, usize)>,
}

impl Call {
    pub fn extend(&mut self, other: Self) {
        self.wakers.extend(other.wakers);
        self.waves.extend(other.waves);
    }

    pub fn go(self) {
        self.wakers.into_iter().for_each(Waker::wake);
        for (log, number) in self.waves {
            tokio::spawn(wave::run(log, number));
        }
    }
}

impl FromIterator<Call> for Call {
    fn from_iter<I: IntoIterator<Item = Self>>(calls: I) -> Self {
        let mut all = Self::default();
        calls.into_iter().for_each(|call| all.extend(call));
        all
    }
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
#[derive(Debug, Clone, Default)]
pub struct Ticket {
    version: u64,
    waker: Option<Waker>,
    pub(crate) beats: u32,
    /// The wave that it is to be in.
    pub(crate) wave: usize,
}

impl Log {
    /// Of everything after `start`.
    pub fn new(topic: Topic, start: i64) -> Self {
        let waves = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_WAVES));
        Self {
            topic,
            waves: (0..waves).map(|_| Wave::default()).collect(),
            state: Mutex::new(State {
                start,
                chunks: VecDeque::new(),
                events: 0,
                clients: 0,
                waiting: Vec::new(),
                parked: (0..waves).map(|_| Parked::default()).collect(),
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
            wave: state.clients / OF_A_WAVE % self.waves.len(),
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
    pub fn append(self: &Arc<Self>, chunks: Vec<Chunk>, keep: usize) -> Call {
        let mut state = self.lock();
        for chunk in chunks {
            state.events += chunk.events();
            state.chunks.push_back(Arc::new(chunk));
        }
        while state.events > keep {
            state.forget_oldest();
        }
        state.wake(self)
    }

    /// Lets go of all there is; the stream goes on after `start`.
    pub fn clear(self: &Arc<Self>, start: i64) -> Call {
        let mut state = self.lock();
        state.start = start;
        state.chunks.clear();
        state.events = 0;
        state.wake(self)
    }

    /// Lets go of what is kept for those behind, but for the last chunk.
    pub fn relieve(&self) {
        let mut state = self.lock();
        while state.chunks.len() > 1 {
            state.forget_oldest();
        }
        drop(state);
        if let Ok(mut pages) = self.pages.try_lock() {
            pages.clear();
        }
    }

    /// All up to `head` is in the log.
    pub fn beat(self: &Arc<Self>, head: i64) -> Call {
        // Nobody has come for them for a while, or they are read again.
        if let Ok(mut pages) = self.pages.try_lock() {
            pages.clear();
        }
        let mut state = self.lock();
        state.beats = state.beats.wrapping_add(1);
        state.head = head;
        state.wake(self)
    }

    /// Who is to be woken because all ends.
    pub fn wake(self: &Arc<Self>) -> Call {
        self.lock().wake(self)
    }

    /// What follows `position`.
    pub fn look(&self, position: i64, ticket: &mut Ticket) -> Found {
        self.lock().look(position, ticket)
    }

    /// The same; when there is nothing, the task is woken when there is.
    pub fn look_or_wait(&self, position: i64, ticket: &mut Ticket, cx: &mut Context<'_>) -> Found {
        let mut state = self.lock();
        let found = state.look(position, ticket);
        if !matches!(found, Found::Nothing) {
            return found;
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

    /// One more client is about to be in the wave: counted before it is there, for it may be sent
    /// back as soon as it is.
    pub(crate) fn park(&self, wave: usize) {
        self.lock().parked[wave].clients += 1;
    }

    /// A client is in its wave, at `position`. What has come since it looked is written to it now.
    pub(crate) fn parked(self: &Arc<Self>, position: i64, ticket: &Ticket) -> Call {
        let mut state = self.lock();
        match state.look(position, &mut ticket.clone()) {
            Found::Nothing => Call::default(),
            _ => state.wake(self),
        }
    }

    pub(crate) fn unparked(&self, wave: usize) {
        self.lock().parked[wave].clients -= 1;
    }

    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Whether a wave may rest that began at this version: else there is something new.
    pub(crate) fn may_rest(&self, wave: usize, version: u64) -> bool {
        let mut state = self.lock();
        let rests = state.version == version;
        state.parked[wave].running = !rests;
        rests
    }
}

impl State {
    fn look(&self, position: i64, ticket: &mut Ticket) -> Found {
        if position < self.start {
            return Found::Behind;
        }
        let next = self.chunks.partition_point(|chunk| chunk.to <= position);
        if let Some(chunk) = self.chunks.get(next) {
            // It needs no other sign of life.
            ticket.beats = self.beats;
            return Found::Chunk(chunk.clone());
        }
        match std::mem::replace(&mut ticket.beats, self.beats) == self.beats {
            true => Found::Nothing,
            false => Found::Beat(self.head),
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.chunks.pop_front() {
            self.start = oldest.to;
            self.events -= oldest.events();
        }
    }

    fn wake(&mut self, log: &Arc<Log>) -> Call {
        self.version += 1;
        let mut waves = Vec::new();
        for (number, parked) in self.parked.iter_mut().enumerate() {
            if parked.clients > 0 && !std::mem::replace(&mut parked.running, true) {
                waves.push((log.clone(), number));
            }
        }
        Call {
            wakers: std::mem::take(&mut self.waiting),
            waves,
        }
    }
}
