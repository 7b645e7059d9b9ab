//! What one client gets, in which order: first history, then live.
//!
//! ```text
//!            join the log at head h
//! connect ─────────▶ Behind ◀──── the log has let go of what comes next
//!                      │  ▲
//!      a page of history  │                    hub closed, and all of the log handed out
//!                      ▼  │                                  │
//!                     In the log ────────────────────────────┴─▶ Ended
//! all ─▶ Ended: the client's token has expired
//! ```
//!
//! Invariants:
//! 1. `position` only grows. Everything of the tenant's with `seq <= position` that passes the
//!    filter has been handed out; nothing after it has.
//! 2. The log is joined before history is read, so what is published meanwhile is in it, or it says
//!    that the client is behind. So nothing is lost and nothing comes twice, however slow the
//!    client is, and what it costs is what is being written to it.
//! 3. Where events expire before they were read, the client is told so before it gets the oldest
//!    ones that are kept. A heartbeat moves `position` too, so that a client of a quiet tenant
//!    does not seem to be as far behind as its last event is old.
//!
//! It knows nothing of how bytes get to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use herald_contract::Unavailable;
use tokio::task::JoinHandle;

use crate::admission::Admission;
use crate::chunk::{self, Chunk, SIZE};
use crate::coding::Coding;
use crate::frame::Cause;
use crate::gzip::{self, Sum};
use crate::history::Reader;
use crate::hub::{Hub, Member};
use crate::lease::{Lease, Term};
use crate::log::{Found, Log, Ticket, Topic};

pub struct Client {
    pub hub: Arc<Hub>,
    reader: Arc<Reader>,
    admission: Admission,
    member: Member,
    /// What it gets before all else.
    opening: Option<Bytes>,
    heartbeat: Bytes,
    /// How long it may stay, where there is an end to that.
    lease: Option<Box<Lease>>,
    /// Where the stream is compressed.
    tally: Option<Box<Tally>>,
    position: i64,
    /// Whether the first page is still to come and is to begin with the oldest event there is.
    from_oldest: bool,
    /// A page that is being read: by a task of its own, for others may wait for it who are polled
    /// when this client is not.
    page: Option<JoinHandle<Result<Arc<Chunk>, Unavailable>>>,
    /// Whether what was handed out last is a page of history.
    behind: bool,
    /// Whether it is parked while it is live, rather than woken by the log.
    parks: bool,
    /// Whether what it gets comes in chunks of a response.
    chunked: bool,
    ended: bool,
}

/// What the end of a compressed stream tells of it.
struct Tally {
    /// Of all that it has been handed out.
    sum: Sum,
    heartbeat: Sum,
}

impl Client {
    /// A client that has joined at `head` and wants what follows `position`.
    pub fn new(
        hub: Arc<Hub>,
        reader: Arc<Reader>,
        admission: Admission,
        (member, head): (Member, i64),
        position: i64,
        opening: Bytes,
        heartbeat: Bytes,
    ) -> Self {
        let (tally, heartbeat) = match member.log.topic.coding {
            Coding::Identity => (None, heartbeat),
            Coding::Gzip => {
                let tally = Tally {
                    sum: Sum::default(),
                    heartbeat: Sum::of(&heartbeat),
                };
                (Some(Box::new(tally)), gzip::stored(&heartbeat))
            }
        };
        Self {
            hub,
            reader,
            admission,
            member,
            opening: Some(opening),
            heartbeat,
            lease: None,
            tally,
            position,
            from_oldest: position == 0 && head > 0,
            page: None,
            behind: false,
            parks: false,
            chunked: false,
            ended: false,
        }
    }

    /// Adds what is at hand to `out`, about one chunk of it; `false` at the end. Waits when there
    /// is nothing.
    pub fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>) -> Poll<bool> {
        self.behind = false;
        if let Some(opening) = self.opening.take() {
            if self.tally.is_some() {
                self.put(gzip::HEADER, out);
            }
            self.say(opening, out);
            return Poll::Ready(true);
        }
        loop {
            if self.ended {
                return Poll::Ready(false);
            }
            if let Some(lease) = &self.lease
                && lease.term().poll_over(cx).is_ready()
            {
                let last = self.topic().format.token_expired();
                self.end(last, out);
                return Poll::Ready(true);
            }
            if let Some(page) = &mut self.page {
                let page = ready!(Pin::new(page).poll(cx));
                self.page = None;
                match page.unwrap_or_else(|failed| Err(Unavailable(failed.to_string()))) {
                    Ok(page) => {
                        if !std::mem::take(&mut self.from_oldest) && page.expired > self.position {
                            self.say(self.topic().format.expired(), out);
                        }
                        self.behind = true;
                        self.hand_out(&page, out);
                    }
                    Err(cause) => {
                        if !self.hub.is_closed() {
                            tracing::warn!(%cause, "a replay ends early; the client comes back with its cursor");
                        }
                        self.send_away(out);
                    }
                }
            } else {
                self.look(cx, out);
                if self.page.is_none() && out.is_empty() {
                    return Poll::Pending;
                }
            }
            if !out.is_empty() {
                return Poll::Ready(true);
            }
        }
    }

    /// Takes what the log has, up to about one chunk.
    fn look(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>) {
        let mut size = 0;
        while size < SIZE {
            let member = &mut self.member;
            let found = match self.parks {
                true => member.log.look(self.position, &mut member.ticket),
                false => member
                    .log
                    .look_or_wait(self.position, &mut member.ticket, cx),
            };
            match found {
                Found::Chunk(chunk) => {
                    if size > 0 && size + chunk.size() > SIZE {
                        return;
                    }
                    size += self.hand_out(&chunk, out);
                }
                Found::Behind if size == 0 => {
                    let (hub, reader) = (self.hub.clone(), self.reader.clone());
                    let (log, position) = (member.log.clone(), self.position);
                    self.page = Some(tokio::spawn(async move {
                        tokio::select! {
                            biased;
                            () = hub.closed() => Err(Unavailable("herald stops".into())),
                            page = reader.replay(&hub, &log, position) => page,
                        }
                    }));
                    return;
                }
                Found::Beat(head) if size == 0 => {
                    self.position = self.position.max(head);
                    self.beaten();
                    return out.push(self.heartbeat.clone());
                }
                Found::Nothing if size == 0 && self.hub.is_closed() => return self.send_away(out),
                Found::Behind | Found::Beat(_) | Found::Nothing => return,
            }
        }
    }

    fn hand_out(&mut self, chunk: &Chunk, out: &mut Vec<Bytes>) -> usize {
        let before = out.len();
        let (events, sum) = chunk.put_after(self.position, self.chunked, out);
        self.coded(sum);
        self.position = chunk.to;
        self.admission.count(events);
        out[before..].iter().map(Bytes::len).sum()
    }

    /// What it gets beside the stream.
    fn say(&mut self, text: Bytes, out: &mut Vec<Bytes>) {
        if self.tally.is_none() {
            return self.put(text, out);
        }
        self.coded(Sum::of(&text));
        self.put(gzip::stored(&text), out);
    }

    fn put(&self, bytes: Bytes, out: &mut Vec<Bytes>) {
        out.push(match self.chunked {
            true => chunk::chunked(&bytes),
            false => bytes,
        });
    }

    /// Ends its stream with a time to come back.
    pub fn send_away(&mut self, out: &mut Vec<Bytes>) {
        if self.ended {
            return;
        }
        let last = self.topic().format.farewell(Cause::now(&self.hub));
        self.end(last, out);
    }

    fn end(&mut self, last: Bytes, out: &mut Vec<Bytes>) {
        self.ended = true;
        self.say(last, out);
        if let Some(tally) = &self.tally {
            self.put(gzip::end(tally.sum), out);
        }
        if self.chunked {
            out.push(chunk::LAST);
        }
    }

    /// From now on whoever polls it parks it when there is nothing.
    pub fn park_when_live(&mut self) {
        self.parks = true;
    }

    /// Whether what it gets from now on comes in chunks of a response.
    pub fn frame(&mut self, chunked: bool) {
        self.chunked = chunked;
        if chunked {
            self.heartbeat = chunk::chunked(&self.heartbeat);
        }
    }

    /// It stays no longer than this.
    pub fn stay_for(&mut self, lease: Lease) {
        self.lease = Some(Box::new(lease));
    }

    /// When it ends by itself, if it does.
    pub fn term(&self) -> Option<Arc<Term>> {
        self.lease.as_ref().map(|lease| lease.term().clone())
    }

    pub fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// Whether it has all there is; else it waits for a page of history.
    pub fn is_live(&self) -> bool {
        self.page.is_none()
    }

    pub fn log(&self) -> &Arc<Log> {
        &self.member.log
    }

    pub fn ticket(&self) -> &Ticket {
        &self.member.ticket
    }

    pub fn position(&self) -> i64 {
        self.position
    }

    pub fn heartbeat(&self) -> &Bytes {
        &self.heartbeat
    }

    /// It has been given everything up to there, in a wave.
    pub fn moved(&mut self, to: i64, beats: u32) {
        self.position = self.position.max(to);
        self.member.ticket.beats = beats;
    }

    /// It has been given what adds this to a compressed stream.
    pub fn coded(&mut self, sum: Sum) {
        if let Some(tally) = &mut self.tally {
            tally.sum = tally.sum.then(sum);
        }
    }

    /// It has been given a heartbeat.
    pub fn beaten(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.sum = tally.sum.then(tally.heartbeat);
        }
    }

    /// So many events have been handed out, to it or to others.
    pub fn count(&self, events: usize) {
        self.admission.count(events);
    }

    /// Where to wait for a turn to be written what was handed out last; `None` where that is live.
    pub fn queue(&self) -> Option<Arc<Reader>> {
        self.behind.then(|| self.reader.clone())
    }

    pub fn topic(&self) -> &Topic {
        &self.member.log.topic
    }

    /// Leaves the stream; its place among the clients, and how far it has been handed the stream.
    pub fn leave(self) -> (Admission, i64) {
        (self.admission, self.position)
    }
}
