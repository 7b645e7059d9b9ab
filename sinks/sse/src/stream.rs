//! A client's stream as a body that an HTTP server polls: for HTTP/2, and for whoever cannot be
//! given the connection itself. Each chunk goes out as the shared buffer that it is.
//!
//! A server that has a chunk which its client does not take asks for no other one. Nobody would
//! notice then that the client takes nothing, nor that its token has expired; so a task looks after
//! it, once in a `send_timeout`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, sleep};

use crate::client::Client;

/// A client that either its body or whoever takes over the connection writes to.
pub type Shared = Arc<Mutex<Held>>;

pub struct Held {
    client: Option<Client>,
    /// What is left to be said to one that was sent away.
    last: Vec<Bytes>,
    /// When the server was given something, if it has not asked again since.
    given: Option<Instant>,
}

pub fn hold(client: Client) -> Shared {
    Arc::new(Mutex::new(Held {
        client: Some(client),
        last: Vec::new(),
        given: None,
    }))
}

pub fn take(shared: &Shared) -> Option<Client> {
    lock(shared).client.take()
}

fn lock(shared: &Shared) -> MutexGuard<'_, Held> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct EventStream {
    shared: Shared,
    /// Until it is polled for the first time.
    send_timeout: Option<Duration>,
    /// What was handed out and not asked for yet.
    pieces: VecDeque<Bytes>,
}

impl EventStream {
    /// Its client is sent away when it takes nothing for one to two `send_timeout`s.
    pub fn body(shared: Shared, send_timeout: Duration) -> Body {
        Body::new(Self {
            shared,
            send_timeout: Some(send_timeout),
            pieces: VecDeque::new(),
        })
    }
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self {
            shared,
            send_timeout,
            pieces,
        } = &mut *self;
        if let Some(send_timeout) = send_timeout.take() {
            tokio::spawn(look_after(Arc::downgrade(shared), send_timeout));
        }
        let mut held = lock(shared);
        held.given = None;
        while pieces.is_empty()
            && let Some(client) = &mut held.client
        {
            let mut out = Vec::new();
            if !ready!(client.poll_next(cx, &mut out)) {
                let gone = held.client.take();
                drop(held);
                drop(gone);
                held = lock(shared);
            }
            pieces.extend(out);
        }
        pieces.extend(held.last.drain(..));
        let piece = pieces.pop_front();
        held.given = piece.is_some().then(Instant::now);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }
}

async fn look_after(shared: Weak<Mutex<Held>>, send_timeout: Duration) {
    loop {
        sleep(send_timeout).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut held = lock(&shared);
        if held.client.is_none() {
            return;
        }
        if held.given.is_some_and(|at| at.elapsed() >= send_timeout)
            && let Some(mut gone) = held.client.take()
        {
            // Should it take something after all, its stream ends in order.
            gone.send_away(&mut held.last);
            drop(held);
            return drop(gone);
        }
    }
}
