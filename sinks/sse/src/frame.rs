//! What clients get, as bytes: server-sent events (WHATWG HTML §9.2.6), or WebSocket messages.
//!
//! A [`Frame`] is one event, written once for each form that is asked for, and shared by every client
//! that gets it. As a server-sent event it is
//!
//! ```text
//! event: order.created      ← only clients with `named=true` get this line
//! id: 01JD5Z…
//! data: {"eventId":…}
//! (blank)
//! ```
//! The order of the fields means nothing to a client, so the name stands first and the unnamed
//! form is a slice of the named one: one buffer serves both. As a WebSocket message it is the same
//! JSON, with the id in it.

use std::cell::OnceCell;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use herald_contract::Event;
use ulid::Ulid;

use crate::hub::Hub;
use crate::websocket::{close, message, wire};

/// A comment, which clients ignore and proxies do not.
const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// A heartbeat for a client that must see it, such as a watchdog in a page: browsers keep comments
/// to themselves. It has no id, so it leaves the client's last event id as it is.
const PING: Bytes = Bytes::from_static(b"event: herald.ping\ndata: {}\n\n");

/// Tells a client that its cursor no longer resolves. It carries `data`, without which a browser
/// would not fire it.
pub const RESET: &[u8] = b"event: herald.reset\ndata: {\"reason\":\"unknown cursor\"}\n\n";

/// Tells a client in the middle of its replay that events which were to come next have expired.
const EXPIRED: Bytes =
    Bytes::from_static(b"event: herald.reset\ndata: {\"reason\":\"events expired\"}\n\n");

/// The last words to a client whose token has expired.
const TOKEN_EXPIRED: Bytes =
    Bytes::from_static(b"event: herald.expired\ndata: {\"reason\":\"token expired\"}\n\n");

/// What a client asked to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Sse,
    /// With `event:` lines.
    Named,
    WebSocket,
}

/// Why a client is to come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// herald stops.
    Stops,
    /// Too many clients, not started yet, or the database is away.
    Busy,
}

impl Cause {
    /// Of a stream that cannot begin or go on.
    pub fn now(hub: &Hub) -> Self {
        match hub.is_closed() {
            true => Self::Stops,
            false => Self::Busy,
        }
    }
}

/// What is said beside the events.
impl Format {
    /// A sign of life; `seen` where the client's program is to see it.
    pub fn heartbeat(self, seen: bool) -> Bytes {
        match (self, seen) {
            (Self::Sse | Self::Named, false) => HEARTBEAT,
            (Self::Sse | Self::Named, true) => PING,
            (Self::WebSocket, false) => wire::PING,
            (Self::WebSocket, true) => message::Said::Ping.frame(),
        }
    }

    /// Events which were to come next have expired.
    pub fn expired(self) -> Bytes {
        match self {
            Self::Sse | Self::Named => EXPIRED,
            Self::WebSocket => message::Said::EXPIRED.frame(),
        }
    }

    /// The last words to a client whose token has expired: it comes back with another, and goes on.
    pub fn token_expired(self) -> Bytes {
        match self {
            Self::Sse | Self::Named => TOKEN_EXPIRED,
            Self::WebSocket => message::token_expired(),
        }
    }

    /// The last words to a client that is to come back, 2 to 10 s from now: spread, so that those
    /// who were sent away together do not return together.
    pub fn farewell(self, cause: Cause) -> Bytes {
        let wait = Duration::from_millis(rand::random_range(2_000..=10_000));
        match self {
            Self::Sse | Self::Named => {
                let mut out = BytesMut::new();
                put_retry(&mut out, wait);
                out.freeze()
            }
            Self::WebSocket => close::come_back(cause, wait),
        }
    }
}

/// One event as it goes to clients.
#[derive(Debug)]
pub struct Frame<'a> {
    event: &'a Event,
    json: String,
    sse: OnceCell<ServerSent>,
    websocket: OnceCell<Bytes>,
}

/// One event as an event stream has it.
#[derive(Debug)]
struct ServerSent {
    named: Bytes,
    /// Where the unnamed form begins in `named`.
    unnamed_at: usize,
}

impl<'a> Frame<'a> {
    pub fn new(event: &'a Event) -> Self {
        Self {
            event,
            json: event.to_json(),
            sse: OnceCell::new(),
            websocket: OnceCell::new(),
        }
    }

    /// Shares the buffer.
    pub fn bytes(&self, format: Format) -> Bytes {
        let sse = || self.sse.get_or_init(|| self.server_sent());
        match format {
            Format::Named => sse().named.clone(),
            Format::Sse => sse().named.slice(sse().unnamed_at..),
            Format::WebSocket => {
                let bytes = self.websocket.get_or_init(|| wire::text(&self.json));
                bytes.clone()
            }
        }
    }

    fn server_sent(&self) -> ServerSent {
        let Self { event, json, .. } = self;
        let mut out = BytesMut::with_capacity(json.len() + event.kind.len() + 64);
        // A type with a line break is refused at ingest; one that came in by other ways must not
        // break the frame apart. And nobody else says what herald does.
        let ours = matches!(
            &*event.kind,
            "herald.reset" | "herald.expired" | "herald.ping"
        );
        if !ours && !event.kind.contains(['\r', '\n']) {
            field(&mut out, "event", &event.kind);
        }
        let unnamed_at = out.len();
        field(&mut out, "id", &event.event_id.to_string());
        data(&mut out, json);
        out.put_u8(b'\n');
        ServerSent {
            named: out.freeze(),
            unnamed_at,
        }
    }
}

/// An `id:` of its own. Without data nothing is dispatched, yet the client's last event id is set.
pub fn put_id(out: &mut BytesMut, id: Ulid) {
    field(out, "id", &id.to_string());
    out.put_u8(b'\n');
}

/// Tells the client how long to wait before it connects again; whole milliseconds.
pub fn put_retry(out: &mut BytesMut, wait: Duration) {
    field(out, "retry", &wait.as_millis().to_string());
    out.put_u8(b'\n');
}

fn field(out: &mut BytesMut, name: &str, value: &str) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_u8(b'\n');
}

/// Each line a `data:` field of its own. CR, LF and CRLF all end a line in an event stream, so a
/// payload that holds any of them between its tokens must be cut there.
fn data(out: &mut BytesMut, mut text: &str) {
    while let Some(end) = text.find(['\r', '\n']) {
        field(out, "data", &text[..end]);
        let width = if text[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        text = &text[end + width..];
    }
    field(out, "data", text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> String {
        let mut out = BytesMut::new();
        data(&mut out, text);
        String::from_utf8(out.to_vec()).expect("UTF-8")
    }

    #[test]
    fn data_is_cut_at_every_kind_of_line_break() {
        assert_eq!(cut("one"), "data: one\n");
        assert_eq!(cut("a\rb\nc\r\nd"), "data: a\ndata: b\ndata: c\ndata: d\n");
        assert_eq!(cut("a\n\rb\r\n"), "data: a\ndata: \ndata: b\ndata: \n");
    }

    #[test]
    fn no_event_has_the_name_of_what_herald_says_itself() {
        for (kind, named) in [
            ("herald.expired", false),
            ("herald.reset", false),
            ("herald.ping", false),
            ("herald.dead_letter", true),
        ] {
            let event = herald_testkit::event(1, "a", kind, "{}");
            let bytes = Frame::new(&event).bytes(Format::Named);
            assert_eq!(bytes.starts_with(b"event: "), named, "{kind}");
        }
    }

    #[test]
    fn an_id_and_a_retry_are_blocks_without_data() {
        let mut out = BytesMut::new();
        put_retry(&mut out, Duration::from_millis(1500));
        put_id(&mut out, Ulid::nil());
        assert_eq!(
            &out[..],
            b"retry: 1500\n\nid: 00000000000000000000000000\n\n"
        );
    }

    #[test]
    fn an_event_is_written_once_for_each_form_that_is_asked_for() {
        let event = herald_testkit::event(1, "a", "k", "{}");
        let frame = Frame::new(&event);
        for format in [Format::Sse, Format::Named, Format::WebSocket] {
            let (one, two) = (frame.bytes(format), frame.bytes(format));
            assert_eq!(one.as_ptr(), two.as_ptr(), "{format:?}");
        }
        let json = event.to_json();
        assert_eq!(&frame.bytes(Format::WebSocket)[4..], json.as_bytes());
    }
}
