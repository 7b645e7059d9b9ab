//! A client's stream as a body that an HTTP server polls: for HTTP/2, and for whoever cannot be
//! given the connection itself. Each chunk goes out as the shared buffer that it is.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::Frame;

use crate::client::Client;

/// A stream that either its body or whoever takes over the connection writes.
pub type Shared = Arc<Mutex<Option<Client>>>;

pub fn take(shared: &Shared) -> Option<Client> {
    shared.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Takes the client when it is polled for the first time.
pub struct EventStream {
    shared: Option<Shared>,
    client: Option<Client>,
    /// What was handed out and not asked for yet.
    pieces: VecDeque<Bytes>,
}

impl EventStream {
    pub fn body(shared: Shared) -> Body {
        Body::new(Self {
            shared: Some(shared),
            client: None,
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
        if let Some(shared) = self.shared.take() {
            self.client = take(&shared);
        }
        let Self { client, pieces, .. } = &mut *self;
        while pieces.is_empty()
            && let Some(talks) = client
        {
            let mut out = Vec::new();
            if !ready!(talks.poll_next(cx, &mut out)) {
                *client = None;
            }
            pieces.extend(out);
        }
        Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}
