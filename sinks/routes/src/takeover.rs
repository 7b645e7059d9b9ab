//! A response whose route would rather write to the connection itself than be asked for a body.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Writes the head of the response, then all that follows, and ends with the connection.
pub type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that its host has given away.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    /// What has been read from it since the request.
    pub read: Bytes,
    /// The head of the response, which is still to be written.
    pub head: Bytes,
    /// Whether the head says that the response comes in chunks (RFC 9112 §7.1). Else it ends with
    /// the connection.
    pub chunked: bool,
}

/// What carries a connection's bytes.
#[derive(Debug)]
pub enum Socket {
    /// Nothing is between the bytes and the kernel.
    Bare(TcpStream),
    /// Something is, such as TLS.
    Wrapped(Box<dyn Wrapped>),
}

/// A stream of bytes over a socket. As long as it takes nothing, there is something to flush, so
/// that whoever waits until it takes more can wait for that.
pub trait Wrapped: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Wrapped for T {}

/// In a response's extensions, for a host that can give the connection away: it is asked once,
/// instead of the response's body. A host that cannot (HTTP/2) polls the body.
///
/// The connection ends with the response, unless its route says what the connection becomes: a 101
/// has a `connection` header of its own.
#[derive(Clone)]
pub struct Takeover(Arc<dyn Fn(Connection) -> Option<Writing> + Send + Sync>);

impl Takeover {
    pub fn new(begin: impl Fn(Connection) -> Option<Writing> + Send + Sync + 'static) -> Self {
        Self(Arc::new(begin))
    }

    /// `None` when there is nothing to write any more.
    pub fn begin(&self, connection: Connection) -> Option<Writing> {
        (self.0)(connection)
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Takeover")
    }
}
