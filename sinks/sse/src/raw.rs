//! A connection that the server has handed over, written to and read from directly: one small task
//! a client, no buffer of its own, and, to a bare socket, one system call for all that is at hand.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use herald_routes::{Connection, Socket, Writing};
use tokio::time::{Instant, timeout};

use crate::budget::Budget;
use crate::client::Client;
use crate::history::Reader;
use crate::transport::{Layered, Transport};

/// A client that reads nothing for so long is looked at again.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to close its side after the farewell.
const LINGER: Duration = Duration::from_secs(1);

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

/// A stream over a connection that is no bare socket: a wave has only those.
impl Talk for Client {
    fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>) -> Poll<bool> {
        Client::poll_next(self, cx, out)
    }

    fn queue(&self) -> Option<Arc<Reader>> {
        Client::queue(self)
    }

    /// Only whether it is there.
    fn hears(&self) -> bool {
        true
    }

    fn hear(&mut self, _said: &[u8]) {}
}

enum Next {
    Write,
    End,
    Gone,
}

/// Writes the head, then what is said, until the client leaves, takes nothing for `send_timeout`,
/// or all is said.
pub fn write(
    connection: Connection,
    mut talk: impl Talk + Send + 'static,
    budget: Arc<Budget>,
    send_timeout: Duration,
) -> Writing {
    let Connection {
        socket, read, head, ..
    } = connection;
    talk.hear(&read);
    match socket {
        Socket::Bare(socket) => Box::pin(converse(socket, head, talk, budget, send_timeout)),
        Socket::Wrapped(socket) => {
            let socket = Layered::new(socket);
            Box::pin(converse(socket, head, talk, budget, send_timeout))
        }
    }
}

async fn converse(
    socket: impl Transport,
    head: Bytes,
    mut talk: impl Talk,
    budget: Arc<Budget>,
    send_timeout: Duration,
) {
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
pub async fn close(socket: &impl Transport) {
    let closing = async {
        if poll_fn(|cx| socket.poll_shutdown(cx)).await.is_ok() {
            poll_fn(|cx| poll_gone(cx, socket)).await;
        }
    };
    let _ = timeout(LINGER, closing).await;
}

/// Listens, then asks for what is to be written: neither keeps the other waiting.
fn poll_turn(
    cx: &mut Context<'_>,
    socket: &impl Transport,
    talk: &mut impl Talk,
    pieces: &mut Vec<Bytes>,
) -> Poll<Next> {
    loop {
        let listened = talk.hears();
        let heard = match listened {
            true => socket.poll_read(cx, |said| talk.hear(said)),
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
pub fn poll_gone(cx: &mut Context<'_>, socket: &impl Transport) -> Poll<()> {
    while ready!(socket.poll_read(cx, |_| {})) {}
    Poll::Ready(())
}

/// `false` when the client is gone or takes nothing.
pub async fn write_all(
    socket: &impl Transport,
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
    loop {
        let taken = match pieces.is_empty() {
            true => socket.try_flush().map(|()| None),
            false => socket.try_write(pieces).map(Some),
        };
        match taken {
            Ok(None) => return true,
            Ok(Some(count)) => {
                advance(pieces, count);
                since = None;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                drop(turn.take());
                let since = *since.get_or_insert_with(Instant::now);
                let room = poll_fn(|cx| socket.poll_room(cx));
                if timeout(LOOK, room).await.is_err() {
                    // What it does not take is memory that others need.
                    if since.elapsed() >= send_timeout || budget.is_exceeded() {
                        return false;
                    }
                }
            }
            Err(_) => return false,
        }
    }
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
    use tokio::net::{TcpListener, TcpStream};

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
