//! A response whose route would rather write to the connection itself than be asked for a body.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Bytes;
use tokio::net::TcpStream;

/// Writes the head of the response, then all that follows, and ends with the connection.
pub type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// In a response's extensions, for a host that can give the connection away: it is asked once, with
/// the connection and the bytes of the response's head, instead of the response's body. A host
/// that cannot (HTTP/2, TLS) polls the body.
#[derive(Clone)]
pub struct Takeover(Arc<dyn Fn(TcpStream, Bytes) -> Option<Writing> + Send + Sync>);

impl Takeover {
    pub fn new(
        begin: impl Fn(TcpStream, Bytes) -> Option<Writing> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(begin))
    }

    /// `None` when there is nothing to write any more.
    pub fn begin(&self, connection: TcpStream, head: Bytes) -> Option<Writing> {
        (self.0)(connection, head)
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Takeover")
    }
}
