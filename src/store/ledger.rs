//! The ledger's rows: one a (sink, event, recipient).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use herald_contract::{Event, parse_event_id};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use ulid::Ulid;

/// Where a delivery stands. `Pending` alone is not final; `Dead` becomes pending by replay.
///
/// ```text
/// pending ─▶ delivered | skipped | gone | dead        dead ─replay─▶ pending
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Delivered,
    Skipped,
    Gone,
    Dead,
}

impl State {
    /// As the ledger's `state` column has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Skipped => "skipped",
            Self::Gone => "gone",
            Self::Dead => "dead",
        }
    }

    /// Reads the `state` column, whose CHECK allows no other text.
    pub fn from_column(text: &str) -> Self {
        match text {
            "delivered" => Self::Delivered,
            "skipped" => Self::Skipped,
            "gone" => Self::Gone,
            "dead" => Self::Dead,
            _ => Self::Pending,
        }
    }
}

/// One failed attempt, as the timeline shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub at: DateTime<Utc>,
    pub cause: String,
}

/// What a pending delivery waits for, beside its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its destination lets nobody through now; [`Store::ledger_hasten`] makes it due.
    ///
    /// [`Store::ledger_hasten`]: super::Store::ledger_hasten
    Destination,
    /// The pending ones before it in its lane; [`Store::ledger_release`] makes it due.
    ///
    /// [`Store::ledger_release`]: super::Store::ledger_release
    Order,
}

impl WaitsFor {
    /// As the ledger's `waits_for` column has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Order => "order",
        }
    }
}

/// Deliveries that one recipient gets one after the other: those of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    pub recipient: String,
    pub key: String,
}

/// What came of an attempt, to be recorded.
#[derive(Debug, Clone)]
pub struct LedgerWrite {
    pub event_id: Ulid,
    pub tenant_id: Box<str>,
    pub recipient: String,
    pub state: State,
    /// Attempts spent so far.
    pub attempts: u32,
    /// For `Pending`: how long until the next attempt, by the database's clock.
    pub retry_in: Duration,
    /// What failed, for states other than `Delivered`.
    pub cause: Option<String>,
    /// What the far end answered to a delivery.
    pub response: Option<String>,
    /// The latest failed attempts, oldest first, bounded.
    pub history: Vec<Attempt>,
    /// [`Recipient::destination`](herald_contract::Recipient::destination)
    pub destination: Option<Arc<str>>,
    /// For `Pending`.
    pub waits_for: Option<WaitsFor>,
    /// Whether the delivery came from the stream and not from the ledger. If it is `Pending` and
    /// the ledger has a row for it by now, another process began it too, and owns what comes of it.
    pub first: bool,
    /// The lane's key and the event's `seq`, which is its place in the lane. What was recorded
    /// once stays.
    pub order: Option<(Arc<str>, i64)>,
}

/// A pending delivery whose time has come.
#[derive(Debug, Clone)]
pub struct Due {
    pub event: Arc<Event>,
    pub recipient: String,
    /// Attempts spent so far.
    pub attempts: u32,
    pub history: Vec<Attempt>,
    pub destination: Option<Arc<str>>,
    pub order_key: Option<Arc<str>>,
}

/// A delivery as it is shown.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerRow {
    pub sink: String,
    pub event_id: Ulid,
    pub tenant_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub recipient: String,
    pub state: State,
    pub attempts: u32,
    /// For `pending` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    pub history: Vec<Attempt>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Which dead letters are meant; the empty filter means all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeadFilter {
    pub sink: Option<String>,
    /// An exact type, or a prefix with `*` at its end.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "tenantId")]
    pub tenant: Option<String>,
    /// Died at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Text that the cause contains, whatever its case.
    pub cause: Option<String>,
    #[serde(deserialize_with = "event_id")]
    pub event_id: Option<Ulid>,
    pub recipient: Option<String>,
}

/// An event's id as [`parse_event_id`] has it; serde's own reading drops bits that overflow.
///
/// # Errors
/// It is none.
pub fn event_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ulid>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let id = text.as_deref().map(parse_event_id).transpose();
    id.map_err(|e| D::Error::custom(format!("eventId {e}")))
}

impl DeadFilter {
    /// The type as an exact name or as a prefix.
    pub fn kind_parts(&self) -> (Option<&str>, Option<&str>) {
        match self.kind.as_deref() {
            None => (None, None),
            Some(kind) => match kind.strip_suffix('*') {
                Some(prefix) => (None, Some(prefix)),
                None => (Some(kind), None),
            },
        }
    }
}

/// What the ledger holds for a sink, beside what is settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SinkCounts {
    /// Pending rows.
    pub retrying: i64,
    pub dead: i64,
}
