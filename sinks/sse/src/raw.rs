//! A connection that the server has handed over, written to and read from directly: one small task
//! a client, no buffer of its own, and one system call for all that is at hand.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use herald_routes::Connection;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::budget::Budget;
use crate::history::Reader;

/// A client that reads nothing for so long is looked at again.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to close its side after the farewell.
const LINGER: Duration = Duration::from_secs(1);

/// Pieces that one system call writes at most.
const PIECES: usize = 64;

/// Bytes that one system call reads at most.
const READ: usize = 1024;

/// What is said over a connection.
pub trait Talk {
    /// Adds what is at hand to `out`; `false` at the end. Waits when there is nothing.
    fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>) -> Poll<bool>;

    /// Where to wait for a turn to be written what was added last; `None` where that is live.
    fn queue(&self) -> Option<Arc<Reader>>;

    /// Whether it wants to hear what the client says now. Meanwhile it is not noticed either that
    /// the client has gone.
    fn hears(&self) -> bool;

    fn hear(&mut self, said: &[u8]);
}

enum Next {
    Write,
    End,
    Gone,
}

/// Writes the head, then what is said, until the client leaves, takes nothing for `send_timeout`,
/// or all is said.
pub async fn write(
    connection: Connection,
    mut talk: impl Talk,
    budget: Arc<Budget>,
    send_timeout: Duration,
) {
    let Connection {
        socket, read, head, ..
    } = connection;
    talk.hear(&read);
    drop(read);
    let mut pieces = vec![head];
    let mut queue = None;
    let ended = loop {
        if !write_all(&socket, &mut pieces, queue, &budget, send_timeout).await {
            break false;
        }
        // A client that takes everything at once does not keep others from their turn.
        tokio::task::consume_budget().await;
        match poll_fn(|cx| poll_turn(cx, &socket, &mut talk, &mut pieces)).await {
            Next::Write => queue = talk.queue(),
            Next::End => break true,
            Next::Gone => break false,
        }
    };
    drop(talk);
    if ended {
        close(&socket).await;
    }
}

/// Ends the connection in order. What the client may still send must not make the kernel throw
/// away what it has not read.
pub async fn close(socket: &TcpStream) {
    if SockRef::from(socket).shutdown(Shutdown::Write).is_ok() {
        let _ = timeout(LINGER, poll_fn(|cx| poll_gone(cx, socket))).await;
    }
}

/// Listens, then asks for what is to be written: neither keeps the other waiting.
fn poll_turn(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    talk: &mut impl Talk,
    pieces: &mut Vec<Bytes>,
) -> Poll<Next> {
    loop {
        let listened = talk.hears();
        let heard = match listened {
            true => poll_read(cx, socket, |said| talk.hear(said)),
            false => Poll::Pending,
        };
        if heard == Poll::Ready(false) {
            return Poll::Ready(Next::Gone);
        }
        match talk.poll_next(cx, pieces) {
            Poll::Ready(true) => return Poll::Ready(Next::Write),
            Poll::Ready(false) => return Poll::Ready(Next::End),
            Poll::Pending if heard.is_pending() && talk.hears() == listened => {
                return Poll::Pending;
            }
            Poll::Pending => {}
        }
    }
}

/// Throws away what the client sends; ready when it has closed the connection.
pub fn poll_gone(cx: &mut Context<'_>, socket: &TcpStream) -> Poll<()> {
    while ready!(poll_read(cx, socket, |_| {})) {}
    Poll::Ready(())
}

/// Reads once; `false` when the client has closed the connection.
fn poll_read(cx: &mut Context<'_>, socket: &TcpStream, hear: impl FnOnce(&[u8])) -> Poll<bool> {
    loop {
        if ready!(socket.poll_read_ready(cx)).is_err() {
            return Poll::Ready(false);
        }
        let mut buffer = [0; READ];
        match socket.try_read(&mut buffer) {
            Ok(0) => return Poll::Ready(false),
            Ok(count) => {
                hear(&buffer[..count]);
                return Poll::Ready(true);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(false),
        }
    }
}

/// `false` when the client is gone or takes nothing.
pub async fn write_all(
    socket: &TcpStream,
    pieces: &mut Vec<Bytes>,
    queue: Option<Arc<Reader>>,
    budget: &Budget,
    send_timeout: Duration,
) -> bool {
    let mut turn = match queue {
        Some(queue) => queue.turn().await,
        None => None,
    };
    let mut since = None;
    while !pieces.is_empty() {
        match write_some(socket, pieces) {
            Ok(count) => {
                advance(pieces, count);
                since = None;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                drop(turn.take());
                let since = *since.get_or_insert_with(Instant::now);
                if timeout(LOOK, socket.writable()).await.is_err() {
                    // What it does not take is memory that others need.
                    if since.elapsed() >= send_timeout || budget.is_exceeded() {
                        return false;
                    }
                }
            }
            Err(_) => return false,
        }
    }
    true
}

fn write_some(socket: &TcpStream, pieces: &[Bytes]) -> io::Result<usize> {
    if let [only] = pieces {
        return socket.try_write(only);
    }
    vectored(pieces, |slices| socket.try_write_vectored(slices))
}

/// As many pieces as one system call takes.
pub fn vectored<T>(pieces: &[Bytes], write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
    let mut slices = [IoSlice::new(&[]); PIECES];
    let count = pieces.len().min(PIECES);
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
    }
    write(&slices[..count])
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// How long it takes until a client that never reads is left.
    async fn patience(budget: &Budget, send_timeout: Duration) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("an address");
        let (mute, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_mute, (socket, _)) = (mute.expect("connects"), accepted.expect("accepts"));
        // More than a kernel takes for a client.
        let mut pieces = vec![Bytes::from(vec![0; 64 << 20])];
        let began = Instant::now();
        assert!(!write_all(&socket, &mut pieces, None, budget, send_timeout).await);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_left_in_time_and_at_once_where_memory_is_short() {
        let budget = Arc::new(Budget::new(1));
        let waited = patience(&budget, LOOK * 5).await;
        assert!((LOOK * 5..LOOK * 7).contains(&waited), "{waited:?}");
        let _too_much = budget.charge(Bytes::from_static(b"ab"));
        let waited = patience(&budget, LOOK * 3600).await;
        assert!(waited < LOOK * 2, "{waited:?}");
    }
}
