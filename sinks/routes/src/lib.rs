//! What the host's routes and those of sinks share: answers for bad input, who may do what, and
//! query parameters whose errors name the field.

mod access;
mod address;
mod authority;
mod params;
mod problem;
mod takeover;

pub use access::{Access, Scope, StreamAccess};
pub use address::ClientAddress;
pub use authority::{Authority, Refusal};
pub use params::{Body, Params, Segment};
pub use problem::Problem;
pub use takeover::{Connection, Socket, Takeover, Wrapped, Writing};
