//! What is measured, whatever it is.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clients::Wanted;
use crate::message::{Message, Tenants};
use crate::process::Process;

#[allow(async_fn_in_trait, reason = "one thread runs it all")]
pub trait Server {
    const NAME: &str;

    fn address(&self) -> anyhow::Result<SocketAddr>;

    /// More lines of the requests.
    fn headers(&self) -> &'static str {
        ""
    }

    /// The path of a tenant's stream.
    fn path(&self, tenant: &str) -> String;

    /// Emits events, in this order.
    async fn emit(&mut self, messages: &[Message]) -> anyhow::Result<()>;

    /// The process that writes to the clients.
    fn process(&self) -> Process;

    /// CPU time of what writes to the clients, so far.
    fn cpu(&self) -> anyhow::Result<Duration> {
        self.process().cpu()
    }

    /// Clients for what the tenants get from now on, spread evenly.
    fn clients(&self, count: usize, tenants: &Tenants) -> Vec<Wanted> {
        (0..count)
            .map(|client| Wanted {
                request: request(&self.path(tenants.name(client))) + self.headers(),
                after: tenants.last(client),
            })
            .collect()
    }
}

/// The request for a stream, without the empty line at its end.
pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n")
}
