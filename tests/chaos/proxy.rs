//! A TCP proxy that breaks on demand: one for each link between two parties, so that any of them
//! can lose any other.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// What a link does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Passes everything on.
    Fair,
    /// Closes new connections at once.
    Refusing,
    /// Accepts connections and passes nothing on, on old ones neither.
    Hanging,
    /// Holds back whatever it passes on for this long.
    Slow(Duration),
}

/// The port a server listens on now; it may move when the server is restarted.
#[derive(Debug, Clone, Default)]
pub struct Target(Arc<AtomicU16>);

impl Target {
    pub fn new(port: u16) -> Self {
        let target = Self::default();
        target.set(port);
        target
    }

    pub fn set(&self, port: u16) {
        self.0.store(port, Ordering::SeqCst);
    }

    pub fn port(&self) -> u16 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Clone, Copy)]
struct Sky {
    weather: Weather,
    /// A connection lives until this is counted up.
    cuts: u64,
}

/// A listening proxy. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    sky: watch::Sender<Sky>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: &Target) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let sky = watch::Sender::new(Sky {
            weather: Weather::Fair,
            cuts: 0,
        });
        let task = tokio::spawn(listen(listener, target.clone(), sky.subscribe()));
        Self { port, sky, task }
    }

    /// `http://127.0.0.1:PORT`
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, weather: Weather) {
        self.sky.send_modify(|sky| sky.weather = weather);
    }

    /// Closes every connection there is now, with whatever is on its way.
    pub fn cut(&self) {
        self.sky.send_modify(|sky| sky.cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, target: Target, sky: watch::Receiver<Sky>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let now = *sky.borrow();
        if now.weather == Weather::Refusing {
            continue;
        }
        let (target, sky, mut cut) = (target.clone(), sky.clone(), sky.clone());
        connections.spawn(async move {
            tokio::select! {
                _ = cut.wait_for(|sky| sky.cuts != now.cuts) => {}
                () = connect(client, target, sky) => {}
            }
        });
    }
}

/// Passes on in both directions until one of them ends.
async fn connect(client: TcpStream, target: Target, mut sky: watch::Receiver<Sky>) {
    if sky.wait_for(passes).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target.port())).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // An error is the end of one side, which is then the end of the other.
    let _ = tokio::select! {
        ended = pass(from_client, to_server, sky.clone()) => ended,
        ended = pass(from_server, to_client, sky) => ended,
    };
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut sky: watch::Receiver<Sky>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        let weather = match sky.wait_for(passes).await {
            Ok(sky) => sky.weather,
            Err(_) => return Ok(()),
        };
        if let Weather::Slow(delay) = weather {
            sleep(delay).await;
        }
        to.write_all(&chunk[..read]).await?;
    }
}

fn passes(sky: &Sky) -> bool {
    sky.weather != Weather::Hanging
}
