//! What housekeeping asks of a database: to delete what has had its time, and figures that tell
//! of trouble before it is felt.
//!
//! The feed loses its rows in the order of `seq`, so that it stays dense above its beginning. An
//! event goes with its feed row and its ledger rows when its time is up, every known sink's
//! checkpoint has passed it, nothing of it is pending, and no dead letter holds it. One that must
//! stay holds all that follow it.

use std::fmt;
use std::time::Duration;

use ulid::Ulid;

/// How long what has happened is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// From the event's `created_at` on.
    pub events: Duration,
    /// How long a dead letter holds its event, from its death on; without end if `None`.
    pub dead: Option<Duration>,
}

/// How much one transaction deletes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    pub events: usize,
    /// An event may have many recipients: its ledger rows may take several transactions.
    pub deliveries: usize,
}

/// What one transaction deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub events: u64,
    /// Rows of the ledger.
    pub deliveries: u64,
    /// Whether there is probably more to delete at once.
    pub more: bool,
}

/// The oldest event that is kept, where its time is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    pub event_id: Ulid,
    /// For how long its time has been up.
    pub by: Duration,
    /// `None` when nothing does: it goes with the next deletion.
    pub held_by: Option<HeldBy>,
}

/// What keeps an event whose time is up; each names the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldBy {
    /// Its checkpoint has not passed the event.
    Checkpoint(String),
    /// A delivery that is still tried.
    Pending(String),
    /// A dead letter.
    Dead(String),
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(sink) => write!(
                f,
                "sink {sink:?} has not come to it (if that sink is gone for good: herald sinks \
                 forget {sink})"
            ),
            Self::Pending(sink) => write!(f, "a delivery by sink {sink:?} is still tried"),
            Self::Dead(sink) => write!(
                f,
                "a dead letter of sink {sink:?}: replay it, drop it, or set retention.dead"
            ),
        }
    }
}

/// Figures that tell of trouble before it is felt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vitals {
    /// For each sink with pending deliveries, since when the oldest of them waits.
    pub oldest_pending: Vec<(String, Duration)>,
    /// How many transactions ago the oldest one began that keeps vacuum from removing dead rows;
    /// 0 where the database has no such thing.
    pub oldest_xmin_age: i64,
}
