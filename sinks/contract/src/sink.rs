//! The two ways of being a sink: handed deliveries one by one, or shown every event.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Event, Outcome, Unavailable};

/// Somebody who is to learn of an event through one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Names the recipient in the ledger for good: a mail address, a subscription's id, a URL.
    /// Unique within one event and sink; 1 to 512 bytes without control characters.
    pub key: String,
    /// What the sink wants back with the first attempt so that it need not look it up again.
    /// Opaque to the runner and not stored: `None` on every later attempt.
    pub hint: Option<Arc<str>>,
    /// The far end that it shares with others, such as a mail domain or a push service's host.
    /// Limits and breakers hold for each. At most 255 bytes.
    pub destination: Option<Arc<str>>,
}

impl Recipient {
    /// One that shares its far end with nobody that is worth knowing, and needs no hint.
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            hint: None,
            destination: None,
        }
    }
}

/// The recipients of one event, or why it can have none: a cause that makes a dead letter.
pub type Recipients = Result<Vec<Recipient>, String>;

/// One event for one recipient.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub event: Arc<Event>,
    pub recipient: Recipient,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// A sink of the competing kind: of all processes, one handles each event. The host finds the
/// recipients, makes one delivery of each, and keeps the ledger, the retries and the limits.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// How many deliveries one call of [`Sink::deliver`] takes at most.
    fn batch(&self) -> usize {
        1
    }

    /// For how long after its creation an event is of use to its recipients; the host does not
    /// deliver it later. `None`: for ever.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// Who is to learn of each event, in the order of `events`. An event without recipients is
    /// settled at once.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be known now; the host asks again later.
    async fn recipients(&self, events: &[Arc<Event>]) -> Result<Vec<Recipients>, Unavailable>;

    /// Makes one attempt at each delivery and says what came of it, in the same order. It bounds
    /// its own time; the host cuts it off after the sink's `attempt_timeout` and counts a retry.
    async fn deliver(&self, deliveries: &[Delivery]) -> Vec<Outcome>;

    /// Forgets an address that is [`Outcome::Gone`].
    async fn forget(&self, _recipient: &str) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Whether the far end can be reached, asked by `herald check --live` and `/readyz`.
    ///
    /// # Errors
    /// What is wrong, in words for an operator.
    async fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// Lets go of connections at the end; no delivery is under way.
    async fn drain(&self, _deadline: Duration) {}
}

/// A sink of the broadcast kind: every process sees every event, in the feed's order, and passes
/// it to whoever is connected.
#[async_trait]
pub trait Broadcast: Send + Sync + 'static {
    /// Called once, before the first [`Broadcast::publish`]: live events begin after `seq`.
    fn start(&self, seq: i64);

    /// The next events, dense in `seq`. Must not block.
    fn publish(&self, events: &[Arc<Event>]);

    /// Ends every stream in order, so that clients come back to another process.
    fn close(&self);

    fn stats(&self) -> StreamStats;
}

/// What a broadcast sink counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Clients connected now.
    pub clients: u64,
    /// Events handed to clients since the start, one for each client.
    pub events: u64,
}
