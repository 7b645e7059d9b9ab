//! Many clients on one thread, which does as little as it can for each event: it reads what there
//! is and checks the number.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::machine;
use crate::servers::Latencies;
use crate::wire::{Event, Wire};

/// Connections that are not yet live, unless all come at once.
const OPENING: usize = 200;
/// Bytes of one read.
const BUFFER: usize = 256 * 1024;
/// The longest that nothing may come while something is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often one client may come back.
const RETURNS: usize = 100;

/// A client that is to be.
pub struct Wanted {
    /// The request without the empty line at its end.
    pub request: String,
    /// The number of the last event that it does not get.
    pub after: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Whether all connect without waiting for each other.
    pub at_once: bool,
    /// Whether the time that each event took is kept.
    pub latencies: bool,
    /// With this number a client has caught up.
    pub goal: u64,
}

/// What the clients got.
#[derive(Default)]
pub struct Received {
    /// For each client.
    pub books: Vec<Books>,
    pub events: u64,
    /// When each event was emitted, and how much later a client had it.
    pub arrivals: Vec<(Duration, Duration)>,
    pub last: Duration,
    /// CPU time of the clients themselves.
    pub cpu: Duration,
    /// When the last client caught up.
    pub caught_up: Duration,
    /// Connections that a server closed and a client opened again, with its cursor.
    pub returns: usize,
    /// The shortest and the longest event.
    pub bytes: Option<(usize, usize)>,
}

/// What one client got.
#[derive(Debug, Clone, Copy, Default)]
pub struct Books {
    pub last: u64,
    pub lost: u64,
    /// Events that came again or too late.
    pub astray: u64,
}

impl Books {
    pub fn enter(&mut self, number: u64) {
        if number <= self.last {
            self.astray += 1;
            return;
        }
        self.lost += number - self.last - 1;
        self.last = number;
    }

    /// Exactly the events up to this number.
    pub fn check(&self, last: u64) -> anyhow::Result<()> {
        let exact = self.last == last && self.lost == 0 && self.astray == 0;
        ensure!(exact, "everything up to {last}, once, in order: {self:?}");
        Ok(())
    }
}

impl Received {
    /// Latencies of what was emitted between these times.
    pub fn latencies(&self, from: Duration, to: Duration) -> Latencies {
        let within = |(emitted, _): &&(Duration, Duration)| (from..to).contains(emitted);
        self.arrivals.iter().filter(within).map(|a| a.1).collect()
    }

    /// Every client has exactly what its tenant got.
    pub fn check(&self, last: impl Fn(usize) -> u64) -> anyhow::Result<()> {
        let mut books = self.books.iter().enumerate();
        books.try_for_each(|(client, books)| {
            books
                .check(last(client))
                .with_context(|| format!("client {client}"))
        })
    }
}

#[derive(Default)]
struct Progress {
    live: AtomicUsize,
    events: AtomicU64,
    caught_up: AtomicUsize,
    stop: AtomicBool,
}

/// Clients at work.
pub struct Clients {
    count: usize,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<anyhow::Result<Received>>>,
}

impl Clients {
    pub fn start(address: SocketAddr, wanted: Vec<Wanted>, manner: Manner) -> anyhow::Result<Self> {
        let progress = Arc::<Progress>::default();
        let count = wanted.len();
        let crowd = Crowd {
            address,
            manner,
            poll: Poll::new()?,
            buffer: vec![0; BUFFER],
            clients: Vec::with_capacity(count),
            received: Received::default(),
            progress: progress.clone(),
            events: 0,
            live: 0,
            caught_up: 0,
        };
        let thread = std::thread::spawn(move || crowd.run(wanted));
        Ok(Self {
            count,
            progress,
            thread: Some(thread),
        })
    }

    /// Until every client has been told that it is live.
    pub async fn live(&mut self) -> anyhow::Result<()> {
        let progress = self.progress.clone();
        let live = || progress.live.load(Relaxed) as u64;
        let all = self.count as u64;
        ensure!(self.until(live, all).await?, "{} of {all} are live", live());
        // A server may greet a client before it listens for it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    /// Until so many events have come to all clients together; `false` when no more come.
    pub async fn received(&mut self, events: u64) -> anyhow::Result<bool> {
        let progress = self.progress.clone();
        self.until(|| progress.events.load(Relaxed), events).await
    }

    pub fn all_caught_up(&self) -> bool {
        self.progress.caught_up.load(Relaxed) == self.count
    }

    pub fn fine(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Disconnects all.
    pub fn end(mut self) -> anyhow::Result<Received> {
        self.join()
    }

    async fn until(&mut self, now: impl Fn() -> u64, goal: u64) -> anyhow::Result<bool> {
        let (mut before, mut since) = (now(), Instant::now());
        while before < goal {
            if !self.fine() {
                self.join()?;
                bail!("the clients have ended");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let events = now();
            if events > before {
                (before, since) = (events, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn join(&mut self) -> anyhow::Result<Received> {
        self.progress.stop.store(true, Relaxed);
        let thread = self.thread.take().context("a thread")?;
        thread.join().ok().context("the clients panicked")?
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

struct Client {
    socket: TcpStream,
    wire: Wire,
    wanted: Wanted,
    books: Books,
    live: bool,
    caught_up: bool,
    returns: usize,
}

/// The thread's own.
struct Crowd {
    address: SocketAddr,
    manner: Manner,
    poll: Poll,
    buffer: Vec<u8>,
    clients: Vec<Client>,
    received: Received,
    progress: Arc<Progress>,
    events: u64,
    live: usize,
    caught_up: usize,
}

impl Crowd {
    fn run(mut self, wanted: Vec<Wanted>) -> anyhow::Result<Received> {
        let mut wanted = wanted.into_iter();
        let mut ready = Events::with_capacity(1024);
        while !self.progress.stop.load(Relaxed) {
            while self.manner.at_once || self.clients.len() < self.live + OPENING {
                let Some(wanted) = wanted.next() else { break };
                self.open(wanted)?;
            }
            match self.poll.poll(&mut ready, Some(Duration::from_millis(20))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &ready {
                let Token(client) = event.token();
                self.read(client, event.is_read_closed())
                    .with_context(|| format!("client {client}"))?;
            }
            self.progress.events.store(self.events, Relaxed);
            self.progress.live.store(self.live, Relaxed);
            self.progress.caught_up.store(self.caught_up, Relaxed);
        }
        self.received.events = self.events;
        self.received.cpu = machine::cpu_of_thread(Path::new("/proc/thread-self"))?;
        self.received.books = self.clients.iter().map(|client| client.books).collect();
        Ok(self.received)
    }

    fn open(&mut self, wanted: Wanted) -> anyhow::Result<()> {
        let books = Books {
            last: wanted.after,
            ..Books::default()
        };
        self.clients.push(Client {
            socket: self.connect(&wanted.request, None, self.clients.len())?,
            wire: Wire::default(),
            wanted,
            books,
            live: false,
            caught_up: false,
            returns: 0,
        });
        Ok(())
    }

    fn connect(&self, request: &str, id: Option<&str>, token: usize) -> anyhow::Result<TcpStream> {
        let mut socket = std::net::TcpStream::connect_timeout(&self.address, PATIENCE)?;
        let cursor = id.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        socket.write_all(format!("{request}{cursor}\r\n").as_bytes())?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        let registry = self.poll.registry();
        registry.register(&mut socket, Token(token), Interest::READABLE)?;
        Ok(socket)
    }

    /// Reads what there is; `closed` when there is an end to be read too.
    fn read(&mut self, index: usize, closed: bool) -> anyhow::Result<()> {
        loop {
            let client = &mut self.clients[index];
            let bytes = match client.socket.read(&mut self.buffer) {
                Ok(0) => return self.come_back(index),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let (books, received, now) = (&mut client.books, &mut self.received, clock::now());
            let mut took = |event: Event| {
                books.enter(event.number);
                self.events += 1;
                if self.manner.latencies {
                    let latency = now.saturating_sub(event.emitted);
                    received.arrivals.push((event.emitted, latency));
                }
                let (least, most) = received.bytes.unwrap_or((usize::MAX, 0));
                received.bytes = Some((least.min(event.bytes), most.max(event.bytes)));
                received.last = now;
            };
            client.wire.feed(&self.buffer[..bytes], &mut took)?;
            if !client.live && client.wire.live() {
                client.live = true;
                self.live += 1;
            }
            if !client.caught_up && client.books.last >= self.manner.goal {
                client.caught_up = true;
                self.caught_up += 1;
                self.received.caught_up = now;
            }
            // After less than there was room for, the next readiness is told.
            if bytes < self.buffer.len() && !closed {
                return Ok(());
            }
        }
    }

    /// A server may close a stream at any time; the client goes on from where it was.
    fn come_back(&mut self, index: usize) -> anyhow::Result<()> {
        let client = &self.clients[index];
        ensure!(client.returns < RETURNS, "closed again and again");
        let id = client.wire.last_id().map(str::to_owned);
        let socket = self.connect(&client.wanted.request, id.as_deref(), index)?;
        let client = &mut self.clients[index];
        client.returns += 1;
        client.socket = socket;
        client.wire = Wire::resumed(id);
        self.received.returns += 1;
        Ok(())
    }
}
