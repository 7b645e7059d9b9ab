//! A sink over a history in memory, and an EventSource that reads streams, compressed ones too, as
//! a browser does.
//!
//! The tests run on a paused clock: whoever waits for nothing that can come is found at once.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::VecDeque;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{Request, StatusCode, header::HeaderMap};
use flate2::write::GzDecoder;
use herald_contract::{Broadcast as _, Event, Host};
use herald_routes::Access;
use herald_sse::{Config, Sse};
use herald_testkit::{MemoryHistory, event};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use ulid::Ulid;

/// Longer than anything the crate waits for, so only a hang reaches it.
const HANG: Duration = Duration::from_secs(3600);

/// A sink with its history.
pub struct Server {
    pub sse: Sse,
    pub memory: Arc<MemoryHistory>,
}

impl Server {
    /// Started at 0.
    pub fn new(config: Config) -> Self {
        let server = Self::not_started(config);
        server.sse.start(0);
        server
    }

    pub fn not_started(config: Config) -> Self {
        Self::over(Arc::default(), config)
    }

    /// One of several over the same history; not started.
    pub fn over(memory: Arc<MemoryHistory>, config: Config) -> Self {
        let host = Host {
            history: memory.clone(),
            ..herald_testkit::host("sse", "unused")
        };
        Self {
            sse: Sse::new(config, &host),
            memory,
        }
    }

    /// Commits and publishes.
    pub fn emit(&self, events: &[Arc<Event>]) {
        self.memory.commit(events);
        self.sse.publish(events);
    }

    /// Events `from ..= to` of the tenant `a`, of type `k`.
    pub fn emit_range(&self, from: i64, to: i64) {
        let events: Vec<_> = (from..=to).map(|seq| event(seq, "a", "k", "{}")).collect();
        self.emit(&events);
    }

    /// Whoever asks may do everything, unless the request has an access of its own.
    pub async fn request(&self, mut request: Request<Body>) -> axum::response::Response {
        let access = request.extensions_mut();
        access.get_or_insert_with(Access::unrestricted);
        self.sse
            .routes()
            .oneshot(request)
            .await
            .expect("infallible")
    }

    /// Connects with a query string and, if not empty, a `Last-Event-ID` header.
    pub async fn connect_with(&self, query: &str, last_event_id: &str) -> EventSource {
        let mut source = self.open(query, last_event_id).await;
        source.pull().await;
        source
    }

    /// The same, with nothing read yet.
    pub async fn open(&self, query: &str, last_event_id: &str) -> EventSource {
        self.open_in(query, last_event_id, "identity").await
    }

    /// The same, in one of the codings that the client accepts.
    pub async fn open_in(&self, query: &str, last_event_id: &str, accepts: &str) -> EventSource {
        let mut request = Request::get(format!("/sse?{query}")).header("Accept-Encoding", accepts);
        if !last_event_id.is_empty() {
            request = request.header("Last-Event-ID", last_event_id);
        }
        let request = request.body(Body::empty()).expect("valid request");
        let response = self.request(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (parts, body) = response.into_parts();
        EventSource::new(parts.headers, body)
    }

    pub async fn connect(&self, query: &str) -> EventSource {
        self.connect_with(query, "").await
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub name: String,
    pub data: String,
    pub id: String,
}

impl Message {
    pub fn seq(&self) -> i64 {
        let id = Ulid::from_string(&self.id).expect("a ULID");
        i64::try_from(id.random()).expect("a test's id")
    }
}

/// Reads an event stream by the rules of WHATWG HTML §9.2.6.
pub struct EventSource {
    pub headers: HeaderMap,
    body: Body,
    /// Where the stream is compressed.
    decoder: Option<GzDecoder<Vec<u8>>>,
    /// All that was read, decoded.
    pub text: Vec<u8>,
    rest: Vec<u8>,
    /// Becomes the last event's id with the blank line that ends its block.
    id: String,
    data: Option<String>,
    name: String,
    messages: VecDeque<Message>,
    pub last_event_id: String,
    /// Milliseconds.
    pub retry: u64,
    pub comments: usize,
    pub ended: bool,
    pub largest_chunk: usize,
}

impl EventSource {
    fn new(headers: HeaderMap, body: Body) -> Self {
        let coding = headers.get("content-encoding");
        let decoder = coding.map(|coding| {
            assert_eq!(coding, "gzip");
            GzDecoder::new(Vec::new())
        });
        Self {
            headers,
            body,
            decoder,
            text: Vec::new(),
            rest: Vec::new(),
            id: String::new(),
            data: None,
            name: String::new(),
            messages: VecDeque::new(),
            last_event_id: String::new(),
            retry: 0,
            comments: 0,
            ended: false,
            largest_chunk: 0,
        }
    }

    /// One chunk as it is; `None` at the end.
    pub async fn raw(&mut self) -> Option<bytes::Bytes> {
        let frame = tokio::time::timeout(HANG, self.body.frame())
            .await
            .expect("the stream neither says anything nor ends")?;
        Some(frame.expect("no error").into_data().expect("data"))
    }

    /// Reads one chunk.
    pub async fn pull(&mut self) {
        match self.raw().await {
            Some(chunk) => self.feed(&chunk, chunk.len()),
            None => self.end(),
        }
    }

    /// Reads one chunk if it is there, of that at most `limit` bytes; otherwise the sink has been
    /// given a turn to prepare it.
    pub fn poll(&mut self, limit: usize) {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.body).poll_frame(&mut context) {
            Poll::Ready(Some(frame)) => {
                let chunk = frame.expect("no error").into_data().expect("data");
                self.feed(&chunk, limit);
            }
            Poll::Ready(None) => self.end(),
            Poll::Pending => {}
        }
    }

    fn feed(&mut self, chunk: &[u8], limit: usize) {
        self.largest_chunk = self.largest_chunk.max(chunk.len());
        let read = &chunk[..limit.min(chunk.len())];
        match &mut self.decoder {
            None => self.take(read),
            Some(decoder) => {
                decoder.write_all(read).expect("gzip");
                decoder.flush().expect("gzip");
                let text = std::mem::take(decoder.get_mut());
                self.take(&text);
            }
        }
    }

    /// The stream is at its end, which a compressed one says, with a sum of it all.
    fn end(&mut self) {
        self.ended = true;
        if let Some(decoder) = self.decoder.take() {
            let rest = decoder.finish().expect("a whole stream");
            assert!(rest.is_empty(), "it is decoded as it comes");
        }
    }

    fn take(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.rest.extend_from_slice(text);
        let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
        while let Some(end) = self.rest.iter().position(is_break) {
            let width = if self.rest[end..].starts_with(b"\r\n") {
                2
            } else {
                1
            };
            let line = self.rest.drain(..end + width).take(end).collect();
            self.line(&String::from_utf8(line).expect("UTF-8"));
        }
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            self.last_event_id.clone_from(&self.id);
            let name = std::mem::take(&mut self.name);
            if let Some(data) = self.data.take() {
                self.messages.push_back(Message {
                    name,
                    data,
                    id: self.last_event_id.clone(),
                });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.name),
            "retry" => self.retry = value.parse().expect("digits"),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            other => panic!("an unknown field: {other}"),
        }
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            if self.ended {
                return None;
            }
            self.pull().await;
        }
    }

    /// A message that has been read already.
    pub fn buffered(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// The `seq`s of the next `count` messages.
    pub async fn seqs(&mut self, count: usize) -> Vec<i64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            seqs.push(self.next().await.expect("more messages").seq());
        }
        seqs
    }

    /// The `seq`s of everything up to the end.
    pub async fn rest(&mut self) -> Vec<i64> {
        let mut seqs = Vec::new();
        while let Some(message) = self.next().await {
            seqs.push(message.seq());
        }
        seqs
    }
}
