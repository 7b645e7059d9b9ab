//! A client's signals as the body of a response.
//!
//! The body is polled by the connection: no task of its own, no channel, no timer. What is ready
//! at once goes out as one chunk; a single frame goes out as the shared buffer that it is.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use crate::client::Client;
use crate::frame::{self, EXPIRED, HEARTBEAT};
use crate::hub::Signal;

/// Frames are gathered into chunks up to this size; a larger frame is a chunk of its own.
const CHUNK: usize = 64 * 1024;

/// Counts clients and what they got.
pub struct Gauge {
    limit: u64,
    clients: AtomicU64,
    events: AtomicU64,
}

impl Gauge {
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit as u64,
            clients: AtomicU64::new(0),
            events: AtomicU64::new(0),
        }
    }

    /// A client's place among those that may be connected; `None` when all are taken.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let one_more = |n: u64| (n < self.limit).then_some(n + 1);
        self.clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| Admission(self.clone()))
    }

    pub fn clients(&self) -> u64 {
        self.clients.load(Ordering::Relaxed)
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

/// A client is counted as long as this lives.
pub struct Admission(Arc<Gauge>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The whole of one stream: the opening, the client's signals, the farewell.
pub struct EventStream {
    opening: Option<Bytes>,
    client: Client,
    named: bool,
    /// A frame that did not fit into the last chunk.
    carry: Option<Bytes>,
    ended: bool,
    admission: Admission,
}

impl EventStream {
    pub fn new(opening: Bytes, client: Client, named: bool, admission: Admission) -> Self {
        Self {
            opening: Some(opening),
            client,
            named,
            carry: None,
            ended: false,
            admission,
        }
    }

    pub fn into_body(self) -> Body {
        Body::from_stream(futures_util::stream::unfold(self, |mut stream| async {
            let chunk = stream.chunk().await?;
            Some((Ok::<_, Infallible>(chunk), stream))
        }))
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        if self.ended {
            return None;
        }
        let first = match self.carry.take() {
            Some(bytes) => bytes,
            None => match self.client.next().await {
                Some(signal) => self.write(signal),
                None => {
                    self.ended = true;
                    return Some(farewell());
                }
            },
        };
        Some(self.gather(first))
    }

    /// Adds what is ready to `first`. A second frame makes it a copy, a lone one does not.
    fn gather(&mut self, first: Bytes) -> Bytes {
        if first.len() >= CHUNK {
            return first;
        }
        let Some(second) = self.client.ready() else {
            return first;
        };
        let mut next = self.write(second);
        let mut chunk = BytesMut::new();
        chunk.extend_from_slice(&first);
        loop {
            if chunk.len() + next.len() > CHUNK {
                self.carry = Some(next);
                break;
            }
            chunk.extend_from_slice(&next);
            match self.client.ready() {
                Some(signal) => next = self.write(signal),
                None => break,
            }
        }
        chunk.freeze()
    }

    fn write(&self, signal: Signal) -> Bytes {
        match signal {
            Signal::Event(frame) => {
                self.admission.0.events.fetch_add(1, Ordering::Relaxed);
                frame.bytes(self.named)
            }
            Signal::Heartbeat(_) => HEARTBEAT,
            Signal::Expired => EXPIRED,
        }
    }
}

/// The last words to a client that is to come back, 2 to 10 s from now: spread, so that those who
/// were sent away together do not return together.
pub fn farewell() -> Bytes {
    let mut out = BytesMut::new();
    frame::put_retry(
        &mut out,
        Duration::from_millis(rand::random_range(2_000..=10_000)),
    );
    out.freeze()
}
