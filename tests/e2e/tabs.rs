//! A browser with tabs (frames of one page) that follow herald by its own client, through a proxy that
//! cuts their connections, lets them hang, and counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::browser::Browser;
use crate::harness::{Api, eventually, seconds, seed, within};
use crate::proxy::{content_length, read_head};

const PAGE: &str = include_str!("tabs.html");
const TAB: &str = "<!doctype html><meta charset=utf-8><title>tab</title><body>";

/// What becomes of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Each is cut, after some bytes.
    Cut,
    /// Event streams hang, as behind a proxy that keeps them back; WebSockets do not.
    SseHangs,
    /// Nothing comes through any more.
    Hangs,
}

#[derive(Debug)]
struct Counts {
    way: watch::Sender<Way>,
    streams: AtomicUsize,
    cuts: AtomicUsize,
    /// What `/token` answers, and how often it has.
    token: watch::Sender<String>,
    tokens: AtomicUsize,
}

pub struct Tabs {
    counts: Arc<Counts>,
    commands: mpsc::Sender<Value>,
    results: mpsc::Receiver<Value>,
    task: JoinHandle<()>,
    _browser: Browser,
    _profile: TempDir,
}

/// What a tab has.
#[derive(Debug)]
pub struct Tab {
    pub events: Vec<String>,
    pub resets: Vec<String>,
    pub states: Vec<String>,
}

impl Tabs {
    /// `launch` starts a browser with a profile at an address.
    pub async fn start(api: &Api, launch: impl FnOnce(&TempDir, &str) -> Browser) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let counts = Arc::new(Counts {
            way: watch::Sender::new(Way::Open),
            streams: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            token: watch::Sender::default(),
            tokens: AtomicUsize::new(0),
        });
        let (commands, taken) = mpsc::channel(1);
        let (give, results) = mpsc::channel(1);
        let taken = Arc::new(Mutex::new(taken));
        let upstream = api.base.trim_start_matches("http://").to_owned();
        let mut random = StdRng::seed_from_u64(seed());
        let task = tokio::spawn({
            let counts = counts.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let proxy = Proxy {
                        upstream: upstream.clone(),
                        counts: counts.clone(),
                        commands: taken.clone(),
                        results: give.clone(),
                        limit: random.random_range(300..20_000),
                    };
                    tokio::spawn(async move {
                        // A connection that fails is one that the browser closed.
                        let _ = proxy.serve(client).await;
                    });
                }
            }
        });
        let profile = TempDir::new().expect("a temporary folder");
        let browser = launch(&profile, &format!("http://{address}/test-page"));
        Self {
            counts,
            commands,
            results,
            task,
            _browser: browser,
            _profile: profile,
        }
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.counts.streams.load(Ordering::SeqCst)
    }

    pub async fn has_streams(&self, count: usize) {
        let what = format!("{count} streams are open");
        eventually(&what, seconds(30), async || {
            (self.streams() == count).then_some(())
        })
        .await;
    }

    pub fn cuts(&self) -> usize {
        self.counts.cuts.load(Ordering::SeqCst)
    }

    /// Tabs get this token from now on.
    pub fn give(&self, token: String) {
        self.counts.token.send_replace(token);
    }

    /// Tokens that tabs have asked for.
    pub fn tokens(&self) -> usize {
        self.counts.tokens.load(Ordering::SeqCst)
    }

    pub fn go(&self, way: Way) {
        self.counts.way.send_replace(way);
    }

    /// Has the page do something, and waits for its answer.
    pub async fn tell(&mut self, command: Value) -> Value {
        let told = async {
            self.commands.send(command.clone()).await.expect("it runs");
            self.results.recv().await.expect("it runs")
        };
        let answer = within(&format!("{command}"), seconds(60), told).await;
        assert_eq!(answer.get("error"), None, "{command}: {answer}");
        answer
    }

    pub async fn open(&mut self, name: &str, options: Value, without: &[&str]) {
        let command = json!({"does": "open", "name": name, "options": options, "without": without});
        self.tell(command).await;
    }

    pub async fn look(&mut self, name: &str) -> Tab {
        let all = self.tell(json!({"does": "look"})).await;
        let all = all.as_array().expect("a list");
        let tab = all.iter().find(|tab| tab["name"] == name).expect("a tab");
        let texts = |field: &str| {
            let texts = tab[field].as_array().expect("a list").iter();
            texts
                .map(|text| text.as_str().expect("text").to_owned())
                .collect()
        };
        Tab {
            events: texts("events"),
            resets: texts("resets"),
            states: texts("states"),
        }
    }

    /// Waits until the tab is as it should be.
    pub async fn until(&mut self, name: &str, what: &str, holds: impl Fn(&Tab) -> bool) -> Tab {
        let what = format!("{name}: {what}");
        let tabs = Mutex::new(self);
        eventually(&what, seconds(60), async || {
            let tab = tabs.lock().await.look(name).await;
            holds(&tab).then_some(tab)
        })
        .await
    }
}

impl Drop for Tabs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Proxy {
    upstream: String,
    counts: Arc<Counts>,
    commands: Arc<Mutex<mpsc::Receiver<Value>>>,
    results: mpsc::Sender<Value>,
    /// Bytes after which a stream is cut.
    limit: usize,
}

impl Proxy {
    async fn serve(self, mut client: TcpStream) -> std::io::Result<()> {
        let (head, mut body) = read_head(&mut client).await?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let page = |text: &str| ok("text/html", text);
        let answer = match path {
            "/test-page" => page(PAGE),
            "/test-page-tab" => page(TAB),
            "/token" => {
                self.counts.tokens.fetch_add(1, Ordering::SeqCst);
                ok("text/plain", &self.counts.token.borrow().clone())
            }
            "/command" => match self.commands.lock().await.recv().await {
                Some(command) => ok("application/json", &command.to_string()),
                None => return Ok(()),
            },
            "/result" => {
                let length = content_length(&head);
                while body.len() < length && client.read_buf(&mut body).await? > 0 {}
                let result = serde_json::from_slice(&body)?;
                // Nobody listens any more when the story has ended.
                let _ = self.results.send(result).await;
                ok("text/plain", "")
            }
            _ if path.starts_with("/sse?") || path.starts_with("/ws?") => {
                self.counts.streams.fetch_add(1, Ordering::SeqCst);
                let passed = self.stream(client, &head).await;
                self.counts.streams.fetch_sub(1, Ordering::SeqCst);
                return passed;
            }
            _ => {
                let mut server = TcpStream::connect(&self.upstream).await?;
                server.write_all(last(&head).as_bytes()).await?;
                server.write_all(&body).await?;
                copy_bidirectional(&mut client, &mut server).await?;
                return Ok(());
            }
        };
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await
    }

    /// Passes a stream on until either side ends it, or what is to become of streams ends it.
    async fn stream(&self, mut client: TcpStream, head: &str) -> std::io::Result<()> {
        let by_sse = head.contains(" /sse?");
        let mut way = self.counts.way.subscribe();
        let mut server = TcpStream::connect(&self.upstream).await?;
        let head = if by_sse { last(head) } else { head.to_owned() };
        server.write_all(head.as_bytes()).await?;
        let (mut from, mut to) = (vec![0; 4096], vec![0; 4096]);
        let mut passed = 0;
        loop {
            let now = *way.borrow_and_update();
            let hangs = now == Way::Hangs || (now == Way::SseHangs && by_sse);
            tokio::select! {
                read = server.read(&mut from), if !hangs => {
                    let read = read?;
                    let left = match now {
                        Way::Cut => self.limit.saturating_sub(passed),
                        _ => usize::MAX,
                    };
                    client.write_all(&from[..read.min(left)]).await?;
                    passed += read;
                    if read >= left {
                        self.counts.cuts.fetch_add(1, Ordering::SeqCst);
                    }
                    // A handshake that fails leaves a connection for other requests.
                    let refused = !by_sse && passed == read && !from.starts_with(b"HTTP/1.1 101");
                    if read == 0 || read >= left || refused {
                        return Ok(());
                    }
                }
                read = client.read(&mut to) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    server.write_all(&to[..read]).await?;
                }
                changed = way.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

/// The request as the last one of its connection, so that the next one comes by here too.
fn last(head: &str) -> String {
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    head.replace("Connection: keep-alive\r\n", "")
}

fn ok(kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
