//! What came of one attempt.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// How a sink classifies one attempt at one delivery. The runner draws the conclusions:
///
/// ```text
///             ┌────────────── Retry, Defer ─────────────┐
///             ▼                                         │
/// (new) ─▶ pending ─▶ attempt ─┬─ Delivered ─▶ delivered
///             ▲                ├─ Skipped ───▶ skipped
///             │                ├─ Gone ──────▶ gone     (the sink forgets the address)
///          replay              └─ Reject, or attempts spent ─▶ dead ─▶ dead-letter stream
///             └──────────────────────────────────────────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The far end accepted it. `response` is what it answered, for the timeline.
    Delivered { response: Option<String> },
    /// There is nothing to do for this recipient, and that is no failure.
    Skipped { reason: String },
    /// It may work later. Spends an attempt. `after` is the far end's own wish (`Retry-After`,
    /// RFC 9110 §10.2.3), which the runner never undercuts.
    Retry {
        after: Option<Duration>,
        scope: Scope,
        cause: String,
    },
    /// Not now, through no fault of the delivery. Spends no attempt.
    Defer { until: DateTime<Utc>, cause: String },
    /// It will never work: a dead letter.
    Reject { cause: String },
    /// The address no longer exists: nothing to retry, and [`Sink::forget`] is called for it.
    ///
    /// [`Sink::forget`]: crate::Sink::forget
    Gone { cause: String },
}

/// For whom else an attempt would fail of the same cause. Where that is more than one recipient,
/// the runner stops trying for a while (a circuit breaker).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This recipient alone: a full mailbox, say.
    Recipient,
    /// Everybody at the same [`Recipient::destination`](crate::Recipient::destination).
    Destination,
    /// Everybody: the sink's own server is away, or refuses it.
    Sink,
}

impl Outcome {
    /// A retry without a wish of the far end's.
    pub fn retry(scope: Scope, cause: impl Into<String>) -> Self {
        Self::Retry {
            after: None,
            scope,
            cause: cause.into(),
        }
    }

    pub fn reject(cause: impl Into<String>) -> Self {
        Self::Reject {
            cause: cause.into(),
        }
    }

    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped {
            reason: reason.into(),
        }
    }
}
