//! A client's stream as a body that an HTTP server polls: for HTTP/2, and for whoever cannot be
//! given the connection itself. What is at hand goes out as one buffer; a lone chunk goes out as
//! the shared buffer that it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
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
}

impl EventStream {
    pub fn body(shared: Shared) -> Body {
        Body::new(Self {
            shared: Some(shared),
            client: None,
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
        let Some(client) = &mut self.client else {
            return Poll::Ready(None);
        };
        let mut pieces = Vec::new();
        if !ready!(client.poll_next(cx, &mut pieces)) {
            self.client = None;
            return Poll::Ready(None);
        }
        let chunk = match <[Bytes; 1]>::try_from(pieces) {
            Ok([only]) => only,
            Err(pieces) => {
                let mut chunk = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                pieces
                    .iter()
                    .for_each(|piece| chunk.extend_from_slice(piece));
                chunk.freeze()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}
