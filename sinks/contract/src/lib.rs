//! What a sink and its host agree on, and nothing more: the [`Event`], the [`Recipient`], the
//! [`Outcome`] of an attempt, the [`Sink`] and [`Broadcast`] traits, and what a sink may ask of
//! its [`Host`]. It knows nothing of databases, brokers or HTTP servers.
//!
//! Sinks classify what happened; the host's runner owns attempts, backoff and limits.

mod config;
pub mod duration;
mod event;
mod host;
mod outcome;
mod sink;
mod types;

pub use config::{Fault, SinkConfig};
pub use event::{Event, MalformedEvent};
pub use host::{Cursor, History, Host, Place, Subscription, Subscriptions, Unavailable};
pub use outcome::{Outcome, Scope};
pub use sink::{Broadcast, Delivery, Recipient, Recipients, Sink, StreamStats};
pub use types::{InvalidName, TypeFilter, check_tenant, check_type, parse_event_id};
