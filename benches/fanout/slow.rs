//! One client that reads a byte a second, among others that read what there is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::net::TcpSocket;

use crate::clients::{Books, Clients, Manner};
use crate::herald::Separate;
use crate::message::{FRAME, Tenants};
use crate::pace::pace;
use crate::part;
use crate::server::{Server as _, request};
use crate::servers::Servers;
use crate::wire::Wire;

const CLIENTS: usize = 500;
const RATE: usize = 200;
const SECONDS: usize = 20;
/// Bytes that the slow client's kernel takes for it.
const WINDOW: u32 = 4096;
/// The longest that nothing may come once it reads what there is.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    let (count, seconds) = (part(CLIENTS)?, part(SECONDS)?);
    println!(
        "slow: a client that reads a byte a second among {count} others; {RATE} events/s of \
         {FRAME} bytes for {seconds} s"
    );
    let mut herald = Separate::start(servers, "slow", "").await?;
    let mut tenants = Tenants::new(1);
    let manner = Manner {
        latencies: true,
        ..Manner::default()
    };
    let address = herald.address()?;
    let mut clients = Clients::start(address, herald.clients(count, &tenants), manner)?;
    clients.live().await?;
    let enough = |n| n >= RATE * seconds;
    pace(&mut herald, &mut tenants, RATE, |n| n >= RATE).await?; // to warm up
    let alone = pace(&mut herald, &mut tenants, RATE, enough).await?;
    clients.received(tenants.deliveries(count)).await?;

    let slow = Slow::start(address, &herald.path(tenants.name(0)), tenants.last(0)).await?;
    let before = herald.process().memory()?;
    let together = pace(&mut herald, &mut tenants, RATE, enough).await?;
    clients.received(tenants.deliveries(count)).await?;
    let after = herald.process().memory()?;
    let received = clients.end()?;
    let last = tenants.last(0);
    received.check(|_| last)?;
    let without = received.latencies(alone.from, alone.to);
    let with = received.latencies(together.from, together.to);
    println!("  the others without it  {without}\n  the others with it     {with}");
    println!(
        "  with to without: p50 {:.2}, p99 {:.2}; memory {:.1} MB before it, {:.1} MB with it",
        with.at(0.5) / without.at(0.5),
        with.at(0.99) / without.at(0.99),
        before as f64 / 1e6,
        after as f64 / 1e6
    );
    slow.hurry(last)
}

/// The slow client, on a thread of its own.
struct Slow {
    hurry: mpsc::Sender<u64>,
    thread: std::thread::JoinHandle<anyhow::Result<Reader>>,
}

impl Slow {
    async fn start(address: SocketAddr, path: &str, after: u64) -> anyhow::Result<Self> {
        let mut reader = Reader {
            address,
            request: request(path),
            socket: connect(address).await?,
            wire: Wire::default(),
            books: Books {
                last: after,
                ..Books::default()
            },
            returns: 0,
            before: 0,
        };
        reader.ask("")?;
        while !reader.wire.live() {
            reader.read(1)?;
        }
        let (hurry, last) = mpsc::channel();
        let thread = std::thread::spawn(move || reader.run(&last));
        Ok(Self { hurry, thread })
    }

    /// From now on it reads what there is, until it has this event.
    fn hurry(self, last: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        self.hurry.send(last).ok();
        let reader = self.thread.join().ok().context("it panicked")??;
        reader.books.check(last)?;
        println!(
            "  then it reads the {} events that it is behind in {:.2} s, each once, in order; its \
             connection was closed and resumed {} times",
            last - reader.before,
            began.elapsed().as_secs_f64(),
            reader.returns
        );
        Ok(())
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(WINDOW)?;
    let socket = socket.connect(address).await?.into_std()?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

struct Reader {
    address: SocketAddr,
    request: String,
    socket: TcpStream,
    wire: Wire,
    books: Books,
    returns: usize,
    /// The last event that it had while it was slow.
    before: u64,
}

impl Reader {
    fn run(mut self, last: &mpsc::Receiver<u64>) -> anyhow::Result<Self> {
        let last = loop {
            match last.recv_timeout(Duration::from_secs(1)) {
                Ok(last) => break last,
                Err(RecvTimeoutError::Timeout) => self.read(1)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(self),
            }
        };
        self.before = self.books.last;
        while self.books.last < last {
            self.read(64 * 1024)?;
        }
        Ok(self)
    }

    fn ask(&mut self, cursor: &str) -> anyhow::Result<()> {
        let request = format!("{}{cursor}\r\n", self.request);
        Ok(self.socket.write_all(request.as_bytes())?)
    }

    fn read(&mut self, most: usize) -> anyhow::Result<()> {
        let mut buffer = vec![0; most];
        let bytes = self.socket.read(&mut buffer).context("the slow client")?;
        let books = &mut self.books;
        self.wire
            .feed(&buffer[..bytes], &mut |event| books.enter(event.number))?;
        if bytes == 0 {
            self.come_back()?;
        }
        Ok(())
    }

    /// The connection was closed: it goes on from where it was, with an ordinary one.
    fn come_back(&mut self) -> anyhow::Result<()> {
        self.returns += 1;
        ensure!(self.returns < 100, "closed again and again");
        let id = self
            .wire
            .last_id()
            .context("an id to go on from")?
            .to_owned();
        self.socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        self.socket.set_read_timeout(Some(PATIENCE))?;
        self.ask(&format!("Last-Event-ID: {id}\r\n"))?;
        self.wire = Wire::resumed(Some(id));
        Ok(())
    }
}
