//! Server-sent events as bytes (WHATWG HTML §9.2.6).
//!
//! A [`Frame`] is one event, written once and shared by every client that gets it. Its bytes are
//!
//! ```text
//! event: order.created      ← only clients with `named=true` get this line
//! id: 01JD5Z…
//! data: {"eventId":…}
//! (blank)
//! ```
//! The order of the fields means nothing to a client, so the name stands first and the unnamed
//! form is a slice of the named one: one buffer serves both.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use herald_contract::Event;
use ulid::Ulid;

/// A comment, which clients ignore and proxies do not.
pub const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// A heartbeat for a client that must see it, such as a watchdog in a page: browsers keep comments
/// to themselves. It has no id, so it leaves the client's last event id as it is.
pub const PING: Bytes = Bytes::from_static(b"event: herald.ping\ndata: {}\n\n");

/// Tells a client that its cursor no longer resolves. It carries `data`, without which a browser
/// would not fire it.
pub const RESET: &[u8] = b"event: herald.reset\ndata: {\"reason\":\"unknown cursor\"}\n\n";

/// Tells a client in the middle of its replay that events which were to come next have expired.
pub const EXPIRED: Bytes =
    Bytes::from_static(b"event: herald.reset\ndata: {\"reason\":\"events expired\"}\n\n");

/// What a client asked to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Sse,
    /// With `event:` lines.
    Named,
}

/// One event as it goes to clients.
#[derive(Debug)]
pub struct Frame {
    named: Bytes,
    /// Where the unnamed form begins in `named`.
    unnamed_at: usize,
}

impl Frame {
    pub fn new(event: &Event) -> Self {
        let json = event.to_json();
        let mut out = BytesMut::with_capacity(json.len() + event.kind.len() + 64);
        // A type with a line break is refused at ingest; one that came in by other ways must not
        // break the frame apart.
        if !event.kind.contains(['\r', '\n']) {
            field(&mut out, "event", &event.kind);
        }
        let unnamed_at = out.len();
        field(&mut out, "id", &event.event_id.to_string());
        data(&mut out, &json);
        out.put_u8(b'\n');
        Self {
            named: out.freeze(),
            unnamed_at,
        }
    }

    /// Shares the buffer.
    pub fn bytes(&self, format: Format) -> Bytes {
        match format {
            Format::Named => self.named.clone(),
            Format::Sse => self.named.slice(self.unnamed_at..),
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

/// The last words to a client that is to come back, 2 to 10 s from now: spread, so that those who
/// were sent away together do not return together.
pub fn farewell() -> Bytes {
    let mut out = BytesMut::new();
    put_retry(
        &mut out,
        Duration::from_millis(rand::random_range(2_000..=10_000)),
    );
    out.freeze()
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
    fn an_id_and_a_retry_are_blocks_without_data() {
        let mut out = BytesMut::new();
        put_retry(&mut out, Duration::from_millis(1500));
        put_id(&mut out, Ulid::nil());
        assert_eq!(
            &out[..],
            b"retry: 1500\n\nid: 00000000000000000000000000\n\n"
        );
    }
}
