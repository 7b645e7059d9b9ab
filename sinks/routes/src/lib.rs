//! What the host's routes and those of sinks share: answers for bad input, who may do what, and
//! query parameters whose errors name the field.

mod access;
mod address;
mod params;
mod problem;
mod takeover;

pub use access::{Access, Scope};
pub use address::ClientAddress;
pub use params::{Body, Params, Segment};
pub use problem::Problem;
pub use takeover::{Connection, Socket, Takeover, Wrapped, Writing};
