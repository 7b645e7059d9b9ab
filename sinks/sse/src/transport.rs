//! What carries a connection's bytes: a bare socket, or a layer over one, such as TLS.
//!
//! Both are used by reference, since a wave writes to a bare socket while its client's task waits to
//! read from it. A layer has no waves: one task has it, and its lock is always free.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use herald_routes::Wrapped;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// Pieces that one system call writes at most.
const PIECES: usize = 64;

/// Bytes that one system call reads at most.
const READ: usize = 1024;

pub trait Transport: Send + Sync {
    /// Writes as much as it takes now of what is not empty.
    ///
    /// # Errors
    /// `WouldBlock` when that is nothing.
    fn try_write(&self, pieces: &[Bytes]) -> io::Result<usize>;

    /// Passes on what was taken and is still here.
    ///
    /// # Errors
    /// `WouldBlock` when some of it stays.
    fn try_flush(&self) -> io::Result<()>;

    /// Ready when it is worth trying again after a `WouldBlock`.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads once; `false` when the other end has closed the connection.
    fn poll_read(&self, cx: &mut Context<'_>, hear: impl FnOnce(&[u8])) -> Poll<bool>;

    /// Says that nothing more will be written.
    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Transport for TcpStream {
    fn try_write(&self, pieces: &[Bytes]) -> io::Result<usize> {
        if let [only] = pieces {
            return TcpStream::try_write(self, only);
        }
        vectored(pieces, |slices| self.try_write_vectored(slices))
    }

    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What is wrong with it, the next try tells.
        self.poll_write_ready(cx).map(|_| ())
    }

    fn poll_read(&self, cx: &mut Context<'_>, hear: impl FnOnce(&[u8])) -> Poll<bool> {
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() {
                return Poll::Ready(false);
            }
            let mut buffer = [0; READ];
            match self.try_read(&mut buffer) {
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

    fn poll_shutdown(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self).shutdown(Shutdown::Write))
    }
}

/// A layer over a socket. What it has taken may still be with it.
pub struct Layered(Mutex<Box<dyn Wrapped>>);

impl Layered {
    pub fn new(wrapped: Box<dyn Wrapped>) -> Self {
        Self(Mutex::new(wrapped))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Wrapped>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Layered {
    fn try_write(&self, pieces: &[Bytes]) -> io::Result<usize> {
        at_once(|cx| {
            vectored(pieces, |slices| {
                Pin::new(&mut *self.lock()).poll_write_vectored(cx, slices)
            })
        })
    }

    fn try_flush(&self) -> io::Result<()> {
        at_once(|cx| Pin::new(&mut *self.lock()).poll_flush(cx))
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Pending as long as it takes nothing: see `Wrapped`.
        Pin::new(&mut *self.lock()).poll_flush(cx).map(|_| ())
    }

    fn poll_read(&self, cx: &mut Context<'_>, hear: impl FnOnce(&[u8])) -> Poll<bool> {
        let mut buffer = [0; READ];
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = ready!(Pin::new(&mut *self.lock()).poll_read(cx, &mut buffer));
        let goes_on = read.is_ok() && !buffer.filled().is_empty();
        if goes_on {
            hear(buffer.filled());
        }
        Poll::Ready(goes_on)
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

/// Polls once. Whoever is told `WouldBlock` waits with [`Transport::poll_room`].
fn at_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>) -> io::Result<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
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
