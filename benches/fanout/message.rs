//! What is sent: an event that says its number among those of its tenant and when it was emitted,
//! padded so that it is a frame of the same size with every server.

use std::time::Duration;

use anyhow::Context as _;
use memchr::memmem;

/// Bytes of an event as a client gets it, from `id:` to the empty line.
pub const FRAME: usize = 977;

/// An event to be emitted.
#[derive(Debug, Clone)]
pub struct Message {
    pub tenant: String,
    /// 1, 2, 3 … for each tenant.
    pub number: u64,
}

/// What an event says about itself.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub number: u64,
    pub emitted: Duration,
}

impl Stamp {
    /// The event's JSON, in so many bytes.
    pub fn payload(&self, bytes: usize) -> String {
        let mut json = format!(
            r#"{{"n":{},"at":{},"fill":""#,
            self.number,
            self.emitted.as_nanos()
        );
        let fill = bytes.saturating_sub(json.len() + 2);
        json.extend(std::iter::repeat_n('x', fill));
        json.push_str("\"}");
        json
    }

    /// Reads the payload, with whatever stands around it.
    pub fn read(data: &[u8]) -> anyhow::Result<Self> {
        let read = || {
            let (number, rest) = digits(after(data, b"\"n\":")?)?;
            let (nanoseconds, _) = digits(rest.strip_prefix(b",\"at\":")?)?;
            Some(Self {
                number,
                emitted: Duration::from_nanos(nanoseconds),
            })
        };
        read().with_context(|| format!("not sent by this: {}", String::from_utf8_lossy(data)))
    }
}

fn after<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    text.get(memmem::find(text, what)? + what.len()..)
}

fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let length = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

/// Tenants that get events in turns.
pub struct Tenants {
    names: Vec<String>,
    emitted: u64,
}

impl Tenants {
    pub fn new(count: usize) -> Self {
        Self {
            names: (0..count).map(|n| format!("tenant-{n:03}")).collect(),
            emitted: 0,
        }
    }

    pub fn name(&self, client: usize) -> &str {
        &self.names[client % self.names.len()]
    }

    /// The next events.
    pub fn next(&mut self, count: usize) -> Vec<Message> {
        let tenants = self.names.len() as u64;
        let first = self.emitted;
        self.emitted += count as u64;
        (first..self.emitted)
            .map(|n| Message {
                tenant: self.names[(n % tenants) as usize].clone(),
                number: n / tenants + 1,
            })
            .collect()
    }

    /// The number of the last event that this client's tenant got.
    pub fn last(&self, client: usize) -> u64 {
        let tenants = self.names.len() as u64;
        (self.emitted + tenants - 1 - client as u64 % tenants) / tenants
    }

    /// How many deliveries everything so far makes, to so many clients.
    pub fn deliveries(&self, clients: usize) -> u64 {
        (0..clients).map(|client| self.last(client)).sum()
    }
}
