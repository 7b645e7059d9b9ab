//! A sink with a history in memory, and clients of it without sockets.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::HeaderMap;
use herald_contract::{Broadcast as _, Host};
use herald_routes::{Access, Authority, StreamAccess};
use herald_testkit::{MemoryHistory, event, event_id};
use serde_json::Value;
use tokio::time::timeout;

use crate::raw::Talk as _;
use crate::websocket::decoder::tests::frame;
use crate::websocket::session::Session;
use crate::websocket::{wanted, wire};
use crate::{Config, Sse};

/// Longer than anything a session waits for.
const HANG: Duration = Duration::from_secs(3600);

pub const NIL: &str = "00000000000000000000000000";

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
        let memory: Arc<MemoryHistory> = Arc::default();
        let host = Host {
            history: memory.clone(),
            ..herald_testkit::host("sse", "unused")
        };
        let sse = Sse::new(config, &host);
        Self { sse, memory }
    }

    /// Commits and publishes an event of tenant `a`.
    pub fn emit(&self, seq: i64, kind: &str) {
        self.emit_of(seq, "a", kind);
    }

    pub fn emit_of(&self, seq: i64, tenant: &str, kind: &str) {
        let event = [event(seq, tenant, kind, "{}")];
        self.memory.commit(&event);
        self.sse.publish(&event);
    }

    pub fn connect_as(&self, access: Access, query: &str) -> Peer {
        self.connect_by(None, access, query)
    }

    /// With somebody to judge what takes the place of this access.
    pub fn connect_by(&self, authority: Option<Authority>, access: Access, query: &str) -> Peer {
        let uri = format!("/ws?{query}").parse().expect("a URI");
        let Query(query) = Query::try_from_uri(&uri).expect("a query");
        let wanted = wanted(&access, &query, &HeaderMap::new()).expect("a good query");
        let caller = StreamAccess { access, authority };
        Peer {
            session: Session::new(self.sse.shared.clone(), caller, wanted, None),
            heard: VecDeque::new(),
        }
    }

    pub fn connect(&self, query: &str) -> Peer {
        self.connect_as(Access::unrestricted(), query)
    }

    pub fn clients(&self) -> u64 {
        self.sse.stats().clients
    }
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Text(Value),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
    End,
}

/// A client.
pub struct Peer {
    pub session: Session,
    heard: VecDeque<Heard>,
}

impl Peer {
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        self.session.hear(&frame(first, payload));
    }

    pub fn say(&mut self, message: &Value) {
        self.send(0x81, message.to_string().as_bytes());
    }

    /// One turn of the session's, with all that it says in it.
    pub async fn pull(&mut self) {
        let mut out = Vec::new();
        let turn = poll_fn(|cx| self.session.poll_next(cx, &mut out));
        let goes_on = timeout(HANG, turn)
            .await
            .expect("it says something or ends");
        self.read(&out.concat());
        if !goes_on {
            self.heard.push_back(Heard::End);
        }
    }

    /// Frames from herald are whole.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while let [first, length, rest @ ..] = bytes {
            let (length, rest) = match *length {
                wire::TWO_BYTES => (u16::from_be_bytes([rest[0], rest[1]]).into(), &rest[2..]),
                length => (usize::from(length), rest),
            };
            let (payload, after) = rest.split_at(length);
            bytes = after;
            let text = || String::from_utf8(payload.to_vec()).expect("UTF-8");
            self.heard.push_back(match first {
                0x81 => Heard::Text(serde_json::from_str(&text()).expect("JSON")),
                0x88 => {
                    let code = payload
                        .first_chunk()
                        .map_or(0, |code| u16::from_be_bytes(*code));
                    let reason = payload.get(2..).unwrap_or_default();
                    Heard::Close(code, String::from_utf8(reason.to_vec()).expect("UTF-8"))
                }
                0x89 => Heard::Ping,
                0x8A => Heard::Pong(payload.to_vec()),
                other => panic!("a frame that begins with {other:x}"),
            });
        }
    }

    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            self.pull().await;
        }
    }

    pub async fn text(&mut self) -> Value {
        match self.next().await {
            Heard::Text(text) => text,
            other => panic!("{other:?} instead of a text"),
        }
    }

    /// The next message is this one.
    pub async fn hears(&mut self, expected: Value) {
        assert_eq!(self.text().await, expected);
    }

    /// The next messages are these events.
    pub async fn gets(&mut self, seqs: impl IntoIterator<Item = i64>) {
        for seq in seqs {
            let event = self.text().await;
            assert_eq!(event["eventId"], event_id(seq).to_string(), "{event}");
        }
    }

    /// The next message says what is wrong, there.
    pub async fn is_told(&mut self, detail: &str, field: Value) {
        let error = self.text().await;
        assert_eq!(error["herald"], "error", "{error}");
        assert_eq!(error["field"], field, "{error}");
        let said = error["detail"].as_str().expect("text");
        assert!(said.contains(detail), "{said}");
    }

    /// The connection ends with this code, and with a time to come back.
    pub async fn is_sent_away(&mut self, code: u16) {
        let Heard::Close(closed, reason) = self.next().await else {
            panic!("no close");
        };
        assert_eq!(closed, code, "{reason}");
        let wait = reason
            .strip_prefix("come back in ")
            .and_then(|rest| rest.strip_suffix(" ms"));
        let wait: u64 = wait.expect("a time").parse().expect("a number");
        assert!((2_000..=10_000).contains(&wait), "{wait}");
        assert_eq!(self.next().await, Heard::End);
    }
}
