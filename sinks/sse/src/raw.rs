//! A client's stream written to its connection itself, once the server has handed that over: one
//! small task a client, no buffer of its own, and one system call for all that is at hand.
//!
//! The response has no length and no chunks: it ends with the connection (RFC 9112 §6.3).

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::client::Client;
use crate::wave::{self, Seat};

/// A client that reads nothing for so long is looked at again.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to close its side after the farewell.
const LINGER: Duration = Duration::from_secs(1);

/// Pieces that one system call writes at most.
const PIECES: usize = 64;

enum Next {
    Write,
    Park,
    End,
    Gone,
}

/// Writes `head`, then the stream, until the client leaves, takes nothing for `send_timeout`, or
/// has been told to come back later.
pub async fn write(connection: TcpStream, head: Bytes, mut client: Client, send_timeout: Duration) {
    let seat = Arc::new(Seat::new(connection));
    let mut pieces = vec![head];
    client.park_when_live();
    let ended = loop {
        match poll_fn(|cx| poll_next(cx, &seat.connection, &mut client, &mut pieces)).await {
            Next::Write => {}
            Next::Park => match wave::park(client, &seat).await {
                Some(back) => (client, pieces) = back,
                None => return,
            },
            Next::End => break true,
            Next::Gone => break false,
        }
        if !write_all(&seat.connection, &mut pieces, &client, send_timeout).await {
            break false;
        }
        // A client that takes everything at once does not keep others from their turn.
        tokio::task::consume_budget().await;
    };
    drop(client);
    let connection = &seat.connection;
    if ended && SockRef::from(connection).shutdown(Shutdown::Write).is_ok() {
        // What it may still send must not make the kernel throw away what it has not read.
        let _ = timeout(LINGER, poll_fn(|cx| poll_gone(cx, connection))).await;
    }
}

fn poll_next(
    cx: &mut Context<'_>,
    connection: &TcpStream,
    client: &mut Client,
    pieces: &mut Vec<Bytes>,
) -> Poll<Next> {
    match client.poll_next(cx, pieces) {
        Poll::Ready(true) => Poll::Ready(Next::Write),
        Poll::Ready(false) => Poll::Ready(Next::End),
        Poll::Pending if client.is_live() => Poll::Ready(Next::Park),
        Poll::Pending => poll_gone(cx, connection).map(|()| Next::Gone),
    }
}

/// Throws away what the client sends; ready when it has closed the connection.
pub fn poll_gone(cx: &mut Context<'_>, connection: &TcpStream) -> Poll<()> {
    let mut nothing = [0; 256];
    loop {
        if ready!(connection.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        match connection.try_read(&mut nothing) {
            Ok(0) => return Poll::Ready(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}

/// `false` when the client is gone or takes nothing.
async fn write_all(
    connection: &TcpStream,
    pieces: &mut Vec<Bytes>,
    client: &Client,
    send_timeout: Duration,
) -> bool {
    let mut turn = client.turn().await;
    let mut since = None;
    while !pieces.is_empty() {
        match write_some(connection, pieces) {
            Ok(count) => {
                advance(pieces, count);
                since = None;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                drop(turn.take());
                let since = *since.get_or_insert_with(Instant::now);
                if timeout(LOOK, connection.writable()).await.is_err() {
                    // What it does not take is memory that others need.
                    if since.elapsed() >= send_timeout || client.hub.budget.is_exceeded() {
                        return false;
                    }
                }
            }
            Err(_) => return false,
        }
    }
    true
}

pub fn write_some(connection: &TcpStream, pieces: &[Bytes]) -> io::Result<usize> {
    if let [only] = pieces {
        return connection.try_write(only);
    }
    let mut slices = [IoSlice::new(&[]); PIECES];
    let count = pieces.len().min(PIECES);
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
    }
    connection.try_write_vectored(&slices[..count])
}

pub fn advance(pieces: &mut Vec<Bytes>, mut count: usize) {
    let mut written = 0;
    for piece in pieces.iter_mut() {
        if count < piece.len() {
            piece.advance(count);
            break;
        }
        count -= piece.len();
        written += 1;
    }
    pieces.drain(..written);
}
