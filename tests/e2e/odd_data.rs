//! Payloads that an event stream, a parser of one or a JSON parser may stumble over, and whether
//! they came out as they went in.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

/// The largest payload of the table, and so `http.max_payload_bytes` of whoever is given it.
pub const LARGEST: usize = 1_000_000;

/// The tenant that all of it belongs to.
pub const TENANT: &str = "acme";

/// One row: the event's type, and its payload to the letter.
#[derive(Debug, Clone)]
pub struct Odd {
    pub kind: &'static str,
    pub payload: String,
}

impl Odd {
    /// The event as `POST /events` takes it.
    pub fn request(&self) -> String {
        let Self { kind, payload } = self;
        format!(r#"{{"tenantId":"{TENANT}","type":"{kind}","payload":{payload}}}"#)
    }
}

/// Rows of a few hundred bytes at most.
pub fn small() -> Vec<Odd> {
    let rows = [
        ("empty.object", "{}"),
        ("empty.string", r#""""#),
        ("empty.key", r#"{"":""}"#),
        ("null", "null"),
        ("spaces", r#""  leading and trailing  ""#),
        ("byte_order_mark.alone", "\"\u{feff}\""),
        (
            "byte_order_mark.inside",
            "{\"\u{feff}key\u{feff}\":\"\u{feff}value\u{feff}\"}",
        ),
        // Line ends between tokens end lines of the stream too.
        ("lines.lf", "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}"),
        ("lines.crlf", "{\r\n\t\"a\": 1,\r\n\t\"b\": 2\r\n}"),
        ("lines.cr", "{\r\"a\": 1,\r\"b\": 2\r}"),
        ("lines.mixed", "[1,\n\r2,\r\r\n3,\r\n\n4]"),
        // An empty line would end the event.
        ("lines.empty", "[\n\n\n1,\r\r2,\r\n\r\n3]"),
        ("lines.spaces", "[\n 1,\n  2,\n   3\n ]"),
        ("escaped.lines", r#""one\ntwo\r\nthree\rfour\n\n""#),
        ("escaped.nul", r#"{"nul\u0000":"\u0000"}"#),
        ("escaped.lone_surrogate", r#""\ud83d and \ude00""#),
        ("escaped.needlessly", r#""\u0061\/\u00e9\ud83d\ude00""#),
        ("escaped.quotes", r#""\"\\\"\\\\\"""#),
        // Python's splitlines, and old JavaScript, take these for line ends.
        (
            "separators",
            "\"\u{2028}line\u{2029}paragraph\u{85}next\u{7f}\"",
        ),
        (
            "separators.escaped",
            r#""\u2028\u2029\u0085\u000b\u000c\u001c\u001d\u001e""#,
        ),
        (
            "like_a_stream",
            r#"{"data: x":"id: 7\n\nevent: x\ndata:\nretry: 1\n:","id":""}"#,
        ),
        ("numbers", "[12345678901234567890123, 1.0, 1e400, -0]"),
        ("twice", r#"{"a":1,"a":2}"#),
        (
            "emoji",
            "\"👩\u{200d}👩\u{200d}👧 🏳\u{fe0f}\u{200d}🌈 𝄞 é e\u{301} \u{10ffff}\"",
        ),
    ];
    let mut rows: Vec<_> = rows
        .map(|(kind, payload)| Odd {
            kind,
            payload: payload.to_owned(),
        })
        .into();
    rows.push(Odd {
        kind: "deep",
        payload: format!("{}{}", "[".repeat(100), "]".repeat(100)),
    });
    rows
}

/// Rows of 900 KB: letters in an order that no compression makes much smaller, one letter, and
/// characters of four bytes, which chunks and buffers of any usual size cut in the middle.
pub fn large() -> Vec<Odd> {
    let mut random = StdRng::seed_from_u64(1);
    let letters = (0..900_000).map(|_| char::from(random.random_range(b'a'..=b'z')));
    vec![
        Odd {
            kind: "large.random",
            payload: format!("\"{}\"", letters.collect::<String>()),
        },
        Odd {
            kind: "large.letters",
            payload: format!("{{\"text\":\"{}\"}}", "x".repeat(900_000)),
        },
        Odd {
            kind: "large.emoji",
            payload: format!("\"abc{}\"", "😀".repeat(225_000)),
        },
    ]
}

/// What a client got.
#[derive(Debug, Clone)]
pub struct Got {
    /// The last event id.
    pub id: String,
    pub data: String,
    /// From `data`, read as JSON by the client itself.
    pub event_id: String,
}

impl Got {
    /// From `{id, data, eventId}`, which the clients of other languages write.
    pub fn read(line: &Value) -> Self {
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        Self {
            id: text("id"),
            data: text("data"),
            event_id: text("eventId"),
        }
    }
}

/// Compares what a client got with what was emitted: each event once, in order, to the letter.
pub fn compare(emitted: &[(String, Odd)], got: &[Got]) {
    for (place, ((id, odd), got)) in emitted.iter().zip(got).enumerate() {
        let Odd { kind, payload } = odd;
        let is = (got.id.as_str(), got.event_id.as_str());
        assert_eq!(is, (id.as_str(), id.as_str()), "{kind}, event {place}");
        // In an event stream every line end becomes LF.
        let lines = payload.replace("\r\n", "\n").replace('\r', "\n");
        let middle =
            format!(r#","tenantId":"{TENANT}","type":"{kind}","payload":{lines},"createdAt":""#);
        let data = &got.data;
        let begin = format!(r#"{{"eventId":"{id}","aggregateId":"#);
        let whole = data.starts_with(&begin) && data.contains(&middle) && data.ends_with("\"}");
        let differs = data.find(r#","tenantId"#).map(|at| {
            let pairs = data[at..].chars().zip(middle.chars());
            pairs.take_while(|(a, b)| a == b).count()
        });
        let some: String = data.chars().take(500).collect();
        assert!(
            whole,
            "{kind}, event {place}, of {} bytes, differs after {differs:?} characters: {some:?}",
            data.len(),
        );
    }
    assert_eq!(got.len(), emitted.len(), "as many as were emitted");
}
