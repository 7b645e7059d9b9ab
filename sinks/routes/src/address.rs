//! Where a caller is.

use std::net::IpAddr;

/// The caller's address, which the host puts into the request where it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);
