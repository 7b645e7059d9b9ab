//! A WebSocket over a connection of this machine's: what a host does with a route that takes it over,
//! and a client that knows as much of RFC 6455 as it needs.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use herald_routes::{Connection, Socket as Carrier, Takeover};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Server;

/// Longer than anything a test waits for.
const HANG: Duration = Duration::from_secs(60);

const HEAD: &[u8] = b"the head of the response\r\n\r\n";

pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8A;

/// The headers of a request that becomes a WebSocket.
pub const HANDSHAKE: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "keep-alive, Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A request for a WebSocket, with these headers.
pub fn request<'a>(
    query: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Request<Body> {
    let mut request = Request::get(format!("/ws?{query}"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Body::empty()).expect("a request")
}

/// A client, and herald's end of its connection.
pub struct Socket {
    pub client: TcpStream,
    pub task: JoinHandle<()>,
    rest: Vec<u8>,
    frames: VecDeque<(u8, Vec<u8>)>,
}

impl Socket {
    /// Connects; the host has read this already after the request.
    pub async fn connect(server: &Server, query: &str, read: &[u8]) -> Self {
        let response = server.request(request(query, HANDSHAKE)).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let takeover = response.extensions().get::<Takeover>();
        Self::take_over(takeover.expect("a takeover").clone(), read).await
    }

    async fn take_over(takeover: Takeover, read: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connects");
        let (socket, _) = listener.accept().await.expect("accepts");
        let connection = Connection {
            socket: Carrier::Bare(socket),
            read: Bytes::copy_from_slice(read),
            head: Bytes::from_static(HEAD),
            chunked: false,
        };
        let mut socket = Self {
            client,
            task: tokio::spawn(takeover.begin(connection).expect("something to write")),
            rest: Vec::new(),
            frames: VecDeque::new(),
        };
        let mut head = [0; HEAD.len()];
        let read = socket.client.read_exact(&mut head);
        within("the head", read).await.expect("bytes");
        assert_eq!(head, HEAD, "the head comes first");
        socket
    }

    pub async fn send(&mut self, first: u8, payload: &[u8]) {
        let frame = frame(first, payload);
        self.client.write_all(&frame).await.expect("writes");
    }

    /// The next frame's first byte and payload; `None` when herald has closed the connection.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            let mut buffer = vec![0; 64 * 1024];
            let read = within("more", self.client.read(&mut buffer)).await;
            match read.expect("no reset") {
                0 => {
                    assert!(self.rest.is_empty(), "the end of a frame is missing");
                    return None;
                }
                count => self.rest.extend_from_slice(&buffer[..count]),
            }
            self.split();
        }
    }

    fn split(&mut self) {
        loop {
            let (length, begin) = match self.rest[..] {
                [_, 126, a, b, ..] => (u16::from_be_bytes([a, b]).into(), 4),
                [_, 127, a, b, c, d, e, f, g, h, ..] => {
                    let length = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                    (usize::try_from(length).expect("it fits"), 10)
                }
                [_, length, ..] if length < 126 => (usize::from(length), 2),
                _ => return,
            };
            if self.rest.len() < begin + length {
                return;
            }
            let frame: Vec<u8> = self.rest.drain(..begin + length).collect();
            self.frames.push_back((frame[0], frame[begin..].to_vec()));
        }
    }

    /// The next text, as JSON.
    pub async fn text(&mut self) -> serde_json::Value {
        let (first, payload) = self.next().await.expect("a text");
        assert_eq!(first, TEXT, "{payload:?}");
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// The code of the close frame that comes next, and that it is the last.
    pub async fn closed(&mut self) -> u16 {
        let (first, payload) = self.next().await.expect("a close frame");
        assert_eq!(first, CLOSE, "{payload:?}");
        let code = payload.first_chunk().expect("a code");
        assert_eq!(self.next().await, None);
        u16::from_be_bytes(*code)
    }

    /// Waits until herald's end is done.
    pub async fn done(self) {
        let Self { client, task, .. } = self;
        within("the end", task).await.expect("no panic");
        drop(client);
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(HANG, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match u16::try_from(payload.len()).expect("clients say little") {
        length @ 0..126 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    out
}
