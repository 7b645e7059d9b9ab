//! A proxy between a browser and herald: serves the test's page, cuts event streams after a random
//! number of bytes (in the middle of a frame, most often), and takes the page's result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What the head of a compressed stream has.
const COMPRESSED: &str = "\r\ncontent-encoding: gzip\r\n";

#[derive(Debug, Default)]
struct Counts {
    streams: AtomicUsize,
    compressed: AtomicUsize,
    cuts: AtomicUsize,
    gentle: AtomicBool,
}

pub struct Proxy {
    /// `http://127.0.0.1:PORT`
    pub base: String,
    counts: Arc<Counts>,
    results: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// `upstream` is `http://ADDRESS:PORT`.
    pub async fn start(upstream: &str, page: &'static str, mut random: StdRng) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let counts = Arc::new(Counts::default());
        let (send, results) = mpsc::channel(8);
        let task = tokio::spawn({
            let counts = counts.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (upstream, counts, send) = (upstream.clone(), counts.clone(), send.clone());
                    let limit = random.random_range(300..20_000);
                    tokio::spawn(async move {
                        // A connection that fails is one that the browser closed.
                        let _ = serve(client, &upstream, page, limit, &counts, send).await;
                    });
                }
            }
        });
        Self {
            base: format!("http://{address}"),
            counts,
            results,
            task,
        }
    }

    /// Event streams opened so far.
    pub fn streams(&self) -> usize {
        self.counts.streams.load(Ordering::SeqCst)
    }

    /// Event streams so far that were compressed.
    pub fn compressed(&self) -> usize {
        self.counts.compressed.load(Ordering::SeqCst)
    }

    /// Event streams cut so far.
    pub fn cuts(&self) -> usize {
        self.counts.cuts.load(Ordering::SeqCst)
    }

    /// Cuts no more.
    pub fn leave_alone(&self) {
        self.counts.gentle.store(true, Ordering::SeqCst);
    }

    /// What the page posts.
    pub async fn result(&mut self) -> String {
        self.results.recv().await.expect("the proxy runs")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: &str,
    page: &str,
    limit: usize,
    counts: &Counts,
    results: mpsc::Sender<String>,
) -> std::io::Result<()> {
    let (head, mut body) = read_head(&mut client).await?;
    if head.starts_with("GET /sse?") {
        counts.streams.fetch_add(1, Ordering::SeqCst);
        let mut server = TcpStream::connect(upstream).await?;
        server.write_all(head.as_bytes()).await?;
        return pass_on(server, client, limit, counts).await;
    }
    let answer = if head.starts_with("GET /test-page?") {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{page}",
            page.len()
        )
    } else if head.starts_with("POST /result ") {
        let length = content_length(&head);
        while body.len() < length && client.read_buf(&mut body).await? > 0 {}
        let result = String::from_utf8_lossy(&body).into_owned();
        results.send(result).await.expect("the test listens");
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned()
    } else {
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
    };
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Passes a stream on until either side ends it, or it has had its `limit` of bytes.
async fn pass_on(
    mut server: TcpStream,
    mut client: TcpStream,
    limit: usize,
    counts: &Counts,
) -> std::io::Result<()> {
    let mut chunk = vec![0; 4096];
    let mut passed = 0;
    loop {
        let read = server.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        // herald writes the head of a response at once.
        if passed == 0 && String::from_utf8_lossy(&chunk[..read]).contains(COMPRESSED) {
            counts.compressed.fetch_add(1, Ordering::SeqCst);
        }
        let left = if counts.gentle.load(Ordering::SeqCst) {
            usize::MAX
        } else {
            limit.saturating_sub(passed)
        };
        client.write_all(&chunk[..read.min(left)]).await?;
        passed += read;
        if read >= left {
            counts.cuts.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
    }
}

/// The request's head with its blank line, and what came behind it.
pub async fn read_head(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

pub fn content_length(head: &str) -> usize {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}
