//! Live events to clients that are up to date, written one after the other by one task, which costs
//! little more than the system calls: nobody is woken for it.
//!
//! ```text
//!          has all there is            a new chunk, or a heartbeat: written whole
//! task ──────────────────────▶ parked ◀──────────────────┐
//!  ▲                             │ └──────────────────────┘
//!  └── it could not be written whole, is behind, its token expires, or all ends
//! ```
//!
//! Invariants:
//! 1. A client is in one place: with its task, in a slot, or on its way back in its seat. Only its
//!    task takes it out of its slot when its token expires, so there are no two who give it back.
//! 2. A parked client has been written all up to its position, and nothing of what follows.
//! 3. A wave ends only when nothing has become new since its last pass began, and that pass has
//!    written all there was; whoever is parked looks whether something is new after it is in its
//!    slot. So nothing stays unwritten.
//! 4. Locks are taken in this order: slots, log, and seat after slots. No client is dropped under
//!    one.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::chunk::SIZE;
use crate::client::Client;
use crate::gzip::Sum;
use crate::log::{Found, Log};
use crate::raw;
use crate::transport::vectored;

/// Clients that are written to before another task gets its turn.
const STEP: usize = 128;

#[derive(Default)]
pub struct Wave {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    parked: Vec<Option<Parked>>,
    free: Vec<usize>,
}

/// What a wave looks at for each client stands close together; the client is left alone.
struct Parked {
    /// Further than the client's own, which is brought up to it when it goes back.
    position: i64,
    /// Heartbeats that it has been given.
    beats: u32,
    chunked: bool,
    seat: Arc<Seat>,
    client: Box<Client>,
}

/// A connection, and where its client comes back to.
struct Seat {
    connection: TcpStream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    back: Option<Back>,
    waker: Option<Waker>,
}

/// A client, and what it is still to be written.
type Back = (Box<Client>, Vec<Bytes>);

impl Seat {
    fn new(connection: TcpStream) -> Self {
        Self {
            connection,
            state: Mutex::default(),
        }
    }

    fn give_back(&self, back: Back) {
        let waker = {
            let mut state = lock(&self.state);
            state.back = Some(back);
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll_back(&self, cx: &mut Context<'_>) -> Poll<Back> {
        let mut state = lock(&self.state);
        if let Some(back) = state.back.take() {
            return Poll::Ready(back);
        }
        if !state
            .waker
            .as_ref()
            .is_some_and(|w| w.will_wake(cx.waker()))
        {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A client's place in a wave; it is taken out when this is dropped.
struct Place<'a> {
    log: Arc<Log>,
    wave: usize,
    slot: usize,
    seat: &'a Arc<Seat>,
}

impl Place<'_> {
    /// Takes the client out, unless it is on its way back.
    fn take(&self) -> Option<Parked> {
        let mut slots = lock(&self.log.waves[self.wave].slots);
        let is_ours = |parked: &Parked| Arc::ptr_eq(&parked.seat, self.seat);
        slots.parked[self.slot]
            .as_ref()
            .filter(|parked| is_ours(parked))?;
        let parked = slots.take(self.slot);
        drop(slots);
        self.log.unparked(self.wave);
        parked
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl Slots {
    fn put(&mut self, parked: Parked) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.parked[slot] = Some(parked);
                slot
            }
            None => {
                self.parked.push(Some(parked));
                self.parked.len() - 1
            }
        }
    }

    fn take(&mut self, slot: usize) -> Option<Parked> {
        let parked = self.parked[slot].take();
        self.free.push(slot);
        parked
    }
}

/// Writes the head, then the stream, until the client leaves, takes nothing for `send_timeout`, or
/// has been told to come back later.
pub async fn write(
    socket: TcpStream,
    head: Bytes,
    chunked: bool,
    client: Client,
    send_timeout: Duration,
) {
    let mut client = Box::new(client);
    let seat = Arc::new(Seat::new(socket));
    let budget = client.hub.budget.clone();
    let mut pieces = vec![head];
    let mut queue = None;
    client.frame(chunked);
    client.park_when_live();
    loop {
        if !raw::write_all(&seat.connection, &mut pieces, queue, &budget, send_timeout).await {
            return;
        }
        // A client that takes everything at once does not keep others from their turn.
        tokio::task::consume_budget().await;
        match poll_fn(|cx| poll_next(cx, &seat.connection, &mut client, &mut pieces)).await {
            Next::Write => queue = client.queue(),
            Next::Park => match park(client, &seat).await {
                Some(back) => (client, pieces, queue) = (back.0, back.1, None),
                None => return,
            },
            Next::End => break,
            Next::Gone => return,
        }
    }
    drop(client);
    raw::close(&seat.connection).await;
}

enum Next {
    Write,
    Park,
    End,
    Gone,
}

fn poll_next(
    cx: &mut Context<'_>,
    connection: &TcpStream,
    client: &mut Client,
    pieces: &mut Vec<Bytes>,
) -> Poll<Next> {
    match client.poll_next(cx, pieces) {
        Poll::Ready(true) => Poll::Ready(Next::Write),
        Poll::Ready(false) => Poll::Ready(Next::End),
        Poll::Pending if client.is_live() => Poll::Ready(Next::Park),
        Poll::Pending => raw::poll_gone(cx, connection).map(|()| Next::Gone),
    }
}

/// Leaves a client that has all there is to its wave, until it comes back; `None` when it has
/// closed the connection.
async fn park(client: Box<Client>, seat: &Arc<Seat>) -> Option<Back> {
    let (log, position) = (client.log().clone(), client.position());
    let ticket = client.ticket().clone();
    let term = client.term();
    log.park(ticket.wave);
    let slot = lock(&log.waves[ticket.wave].slots).put(Parked {
        position,
        beats: ticket.beats,
        chunked: client.is_chunked(),
        seat: seat.clone(),
        client,
    });
    let place = Place {
        log,
        wave: ticket.wave,
        slot,
        seat,
    };
    place.log.parked(position, &ticket).go();
    let back = poll_fn(|cx| {
        if let Poll::Ready(back) = seat.poll_back(cx) {
            return Poll::Ready(Some(back));
        }
        if let Some(term) = &term
            && term.poll_over(cx).is_ready()
            && let Some(parked) = place.take()
        {
            return Poll::Ready(Some((parked.leave(), Vec::new())));
        }
        ready!(raw::poll_gone(cx, &seat.connection));
        Poll::Ready(None)
    })
    .await;
    drop(place);
    back
}

/// Writes what is new to all who are parked, until nothing is.
pub async fn run(log: Arc<Log>, number: usize) {
    loop {
        let version = log.version();
        let mut pass = Pass::default();
        while step(&log, number, &mut pass) {
            tokio::task::yield_now().await;
        }
        if !pass.again && log.may_rest(number, version) {
            return;
        }
    }
}

/// Once through all clients of a wave.
#[derive(Default)]
struct Pass {
    next: usize,
    known: Option<Known>,
    /// Whether there was more for some than is written at a time.
    again: bool,
}

/// What those find who are at the same place.
struct Known {
    position: i64,
    beats: u32,
    chunked: bool,
    news: News,
    /// Heartbeats that they have been given then.
    after: u32,
    /// Whether more follows this.
    more: bool,
    /// Whether all ends when they have got this.
    last: bool,
}

enum News {
    Pieces {
        pieces: Vec<Bytes>,
        to: i64,
        events: usize,
        /// What they add to a compressed stream.
        sum: Sum,
    },
    Beat(i64),
    Behind,
    Nothing,
}

/// Goes on with some clients; `false` when all have had their turn.
fn step(log: &Arc<Log>, number: usize, pass: &mut Pass) -> bool {
    let (mut back, mut events) = (Vec::new(), 0);
    let mut slots = lock(&log.waves[number].slots);
    let begin = pass.next;
    let end = slots.parked.len().min(begin + STEP);
    // Their connections are all over the memory: fetched together, they are waited for once.
    let seats = slots.parked[begin..end].iter().flatten();
    std::hint::black_box(seats.fold(0, |all, parked| all ^ parked.seat.connection.as_raw_fd()));
    for slot in begin..end {
        let Some(parked) = &mut slots.parked[slot] else {
            continue;
        };
        let known = match &mut pass.known {
            Some(known) if known.holds_for(parked) => known,
            known => known.insert(Known::new(log, parked)),
        };
        pass.again |= known.more;
        let rest = parked.write(known, &mut events);
        if let Some(rest) = rest
            && let Some(parked) = slots.take(slot)
        {
            back.push((parked, rest));
        }
    }
    let stayed = slots.parked[begin..end].iter().flatten();
    // One is enough to count for all.
    if let Some(one) = stayed.chain(back.iter().map(|(parked, _)| parked)).next() {
        one.client.count(events);
    }
    pass.next = end;
    let more = end < slots.parked.len();
    drop(slots);
    for (parked, rest) in back {
        log.unparked(number);
        let seat = parked.seat.clone();
        seat.give_back((parked.leave(), rest));
    }
    more
}

impl Known {
    fn holds_for(&self, parked: &Parked) -> bool {
        self.position == parked.position
            && self.beats == parked.beats
            && self.chunked == parked.chunked
    }

    fn new(log: &Log, parked: &Parked) -> Self {
        let Parked {
            position,
            beats,
            chunked,
            ..
        } = *parked;
        let mut ticket = parked.client.ticket().clone();
        ticket.beats = beats;
        let last = parked.client.hub.is_closed();
        let (mut pieces, mut to, mut events, mut size) = (Vec::new(), position, 0, 0);
        let mut sum = Sum::default();
        let found = loop {
            match log.look(to, &mut ticket) {
                Found::Chunk(chunk) if size == 0 || size + chunk.size() <= SIZE => {
                    let (more, adds) = chunk.put_after(to, chunked, &mut pieces);
                    events += more;
                    sum = sum.then(adds);
                    size += chunk.size();
                    to = chunk.to;
                }
                found => break found,
            }
        };
        let more = matches!(found, Found::Chunk(_) | Found::Behind);
        let news = match found {
            _ if size > 0 => News::Pieces {
                pieces,
                to,
                events,
                sum,
            },
            Found::Beat(head) => News::Beat(head),
            Found::Behind => News::Behind,
            Found::Chunk(_) | Found::Nothing => News::Nothing,
        };
        Self {
            position,
            beats,
            chunked,
            news,
            after: ticket.beats,
            more,
            last,
        }
    }
}

impl Parked {
    /// The client, brought up to what it has been written.
    fn leave(mut self) -> Box<Client> {
        self.client.moved(self.position, self.beats);
        self.client
    }

    /// What is left to write, when the client is to go back to its task.
    fn write(&mut self, known: &Known, counted: &mut usize) -> Option<Vec<Bytes>> {
        match &known.news {
            News::Behind => return Some(Vec::new()),
            News::Nothing => {}
            News::Beat(head) => {
                (self.position, self.beats) = (self.position.max(*head), known.after);
                // A client that cannot take it has something to read.
                let heartbeat = self.client.heartbeat();
                match send(&self.seat.connection, slice::from_ref(heartbeat)) {
                    Ok(count) => {
                        let rest = heartbeat.slice(count..);
                        self.client.beaten();
                        if !rest.is_empty() {
                            return Some(vec![rest]);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Some(Vec::new()),
                }
            }
            News::Pieces {
                pieces,
                to,
                events,
                sum,
            } => {
                match send(&self.seat.connection, pieces) {
                    Ok(count) => {
                        (self.position, self.beats) = (*to, known.after);
                        *counted += events;
                        // Its client is elsewhere in the memory, and plain ones need it not.
                        if !sum.is_empty() {
                            self.client.coded(*sum);
                        }
                        if count < pieces.iter().map(Bytes::len).sum() {
                            let mut rest = pieces.clone();
                            raw::advance(&mut rest, count);
                            return Some(rest);
                        }
                    }
                    // Its task waits until it can be written to, or finds out that it cannot.
                    Err(_) => return Some(Vec::new()),
                }
            }
        }
        known.last.then(Vec::new)
    }
}

/// Past the runtime's books of who can be written to, which take a memory access of their own for
/// each: a task that finds out that it cannot be written to sets them right.
fn send(connection: &TcpStream, pieces: &[Bytes]) -> io::Result<usize> {
    let socket = SockRef::from(connection);
    match pieces {
        [only] => socket.send(only),
        pieces => vectored(pieces, |slices| socket.send_vectored(slices)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
