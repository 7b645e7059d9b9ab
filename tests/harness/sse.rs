//! A client of the event stream that keeps to the rules of WHATWG HTML §9.2.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::interval;

use super::Api;

/// The type of the event that ends a story: the last of its tenant.
pub const END: &str = "story.end";

/// A dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The last event id at its dispatch.
    pub id: String,
    /// `message` unless the event is named.
    pub name: String,
    pub data: String,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {:?}", self.data))
    }

    /// Whether this is the [`END`].
    pub fn ends(&self) -> bool {
        self.data.contains(r#""type":"story.end""#)
    }
}

/// An open stream; dropping it cuts the connection.
#[derive(Debug)]
pub struct Sse {
    body: Incoming,
    buffer: BytesMut,
    /// What a browser would send as `Last-Event-ID` if it were cut now.
    pub last_id: String,
    /// The last `retry:`, in milliseconds.
    pub retry: Option<u64>,
    /// Comment lines seen.
    pub comments: usize,
    id: String,
    name: String,
    data: Option<String>,
}

impl Sse {
    /// Opens `GET /sse?{query}`.
    ///
    /// # Errors
    /// The server cannot be reached, or its answer is no event stream.
    pub async fn open(api: &Api, query: &str, last_id: Option<&str>) -> Result<Self, String> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_id.map(|id| ("last-event-id", id)));
        let response = api
            .send("GET", &format!("/sse?{query}"), &headers, "")
            .await?;
        if response.status() != 200 {
            return Err(format!("GET /sse?{query}: {}", response.status()));
        }
        let kind = response.headers().get("content-type");
        if !kind.is_some_and(|k| k.as_bytes().starts_with(b"text/event-stream")) {
            return Err(format!("not an event stream: {kind:?}"));
        }
        Ok(Self::of(response, last_id))
    }

    /// Reads the stream of a response; `last_id` is what it was asked to follow.
    pub fn of(response: Response<Incoming>, last_id: Option<&str>) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            last_id: last_id.unwrap_or_default().to_owned(),
            retry: None,
            comments: 0,
            id: last_id.unwrap_or_default().to_owned(),
            name: String::new(),
            data: None,
        }
    }

    /// The next event that has data; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.buffered() {
                return Some(message);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Reads more; `false` at the stream's end.
    async fn read(&mut self) -> bool {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    /// The next event of what has been read.
    fn buffered(&mut self) -> Option<Message> {
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            let line = std::str::from_utf8(&line).expect("the stream is UTF-8");
            let line = line.strip_suffix('\r').unwrap_or(line);
            if let Some(message) = self.line(line) {
                return Some(message);
            }
        }
        None
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "retry" => self.retry = value.parse().ok().or(self.retry),
            _ => {}
        }
        None
    }

    /// The end of an event: its id counts even when it has no data.
    fn dispatch(&mut self) -> Option<Message> {
        self.last_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.name);
        let data = self.data.take()?;
        Some(Message {
            id: self.last_id.clone(),
            name: if name.is_empty() {
                "message".into()
            } else {
                name
            },
            data,
        })
    }

    /// Reads on until there is an id to resume from; `false` when the stream ends before that.
    pub async fn greeting(&mut self) -> bool {
        while self.last_id.is_empty() {
            if !self.read().await {
                return false;
            }
            assert!(self.buffered().is_none(), "an event before the greeting");
        }
        true
    }

    /// Reads on until `count` events have come.
    pub async fn take(&mut self, count: usize) -> Vec<Message> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            match self.next().await {
                Some(message) => all.push(message),
                None => panic!("the stream ended after {} of {count} events", all.len()),
            }
        }
        all
    }
}

/// Follows a tenant's events from the first to the one of type [`END`], which is left out, and
/// returns their ids. Comes back with its old URL and `Last-Event-ID`, as a browser does,
/// whenever it is cut; each time to the next of `servers`. How long that may take is the caller's to
/// say.
pub async fn follow(servers: Vec<Api>, tenant: String) -> Vec<String> {
    let query = format!("tenantId={tenant}&after=0");
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    let mut pause = interval(Duration::from_millis(50));
    for turn in 0.. {
        let server = &servers[turn % servers.len()];
        // Not at once again: a browser waits too, and a server that is away costs no spinning.
        pause.tick().await;
        let Ok(mut stream) = Sse::open(server, &query, last.as_deref()).await else {
            continue;
        };
        while let Some(message) = stream.next().await {
            assert_eq!(message.name, "message", "{}", message.data);
            assert!(message.data.contains(&message.id), "{message:?}");
            if message.ends() {
                return seen;
            }
            seen.push(message.id);
        }
        last = (!stream.last_id.is_empty()).then_some(stream.last_id);
    }
    unreachable!("the turns do not end")
}
