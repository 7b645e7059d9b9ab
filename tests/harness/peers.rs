//! The far ends that herald delivers to; `tests/peers` says what each does.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Api, seconds, within};

/// A peer's process. It ends with its standard input, so with this value.
struct Peer {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    out: PathBuf,
    counted: Mutex<Counted>,
}

/// How far a peer's file has been read.
#[derive(Default)]
struct Counted {
    bytes: u64,
    lines: usize,
}

impl Peer {
    fn start(python: &str, script: &str, out: PathBuf, args: &[String]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/peers")
            .join(script);
        let mut child = Command::new(python)
            .arg(script)
            .arg("--out")
            .arg(&out)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the peer starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self {
            _child: child,
            input,
            output,
            out,
            counted: Mutex::default(),
        }
    }

    async fn line(&mut self) -> String {
        within("a line from the peer", seconds(20), self.output.next_line())
            .await
            .expect("the peer can be read")
            .expect("the peer runs")
    }

    /// Gives a command and returns how many messages have been refused so far.
    async fn command(&mut self, command: &str) -> usize {
        let line = format!("{command}\n");
        self.input
            .write_all(line.as_bytes())
            .await
            .expect("the peer listens");
        let answer = self.line().await;
        answer
            .strip_prefix("done refused=")
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("the peer said {answer:?}"))
    }

    /// Whole lines written so far. Reads only what is new since it was asked last.
    fn count(&self) -> usize {
        let mut counted = self.counted.lock().expect("not poisoned");
        let Ok(mut file) = File::open(&self.out) else {
            return 0;
        };
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(counted.bytes)).expect("a file");
        file.read_to_end(&mut text).expect("a file");
        counted.bytes += text.len() as u64;
        counted.lines += text.iter().filter(|b| **b == b'\n').count();
        counted.lines
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("whole lines of JSON"))
            .collect()
    }
}

/// A mail server that writes down what it accepts.
pub struct Smtp {
    peer: Peer,
    pub port: u16,
}

impl Smtp {
    pub async fn start(python: &str, dir: &Path) -> Self {
        Self::start_at(python, dir, 0).await
    }

    /// On this port; 0 is any.
    pub async fn start_at(python: &str, dir: &Path, port: u16) -> Self {
        let args = ["--port".into(), port.to_string()];
        let mut peer = Peer::start(python, "smtp_server.py", dir.join("mail.ndjson"), &args);
        let port = peer.line().await.parse().expect("a port");
        Self { peer, port }
    }

    /// How many accepted (message, recipient) pairs there are.
    pub fn count(&self) -> usize {
        self.peer.count()
    }

    /// They themselves: `rcpt`, `messageId`, `eventId`, `subject`, `body`.
    pub fn mails(&self) -> Vec<Value> {
        self.peer.records()
    }

    /// Refuses all recipients from now on.
    pub async fn fail(&mut self, answer: &str) {
        self.peer.command(&format!("fail {answer}")).await;
    }

    /// Refuses the next recipients.
    pub async fn fail_next(&mut self, count: usize, answer: &str) {
        self.peer
            .command(&format!("fail-next {count} {answer}"))
            .await;
    }

    /// Refuses the next recipients whose address ends like this.
    pub async fn fail_at(&mut self, count: usize, end: &str, answer: &str) {
        let command = format!("fail-at {count} {end} {answer}");
        self.peer.command(&command).await;
    }

    /// Answers to messages so late, after it has written them down.
    pub async fn delay(&mut self, delay: Duration) {
        let command = format!("delay {}", delay.as_millis());
        self.peer.command(&command).await;
    }

    /// Accepts again, at once.
    pub async fn heal(&mut self) {
        self.peer.command("ok").await;
    }

    /// How many recipients have been refused.
    pub async fn refused(&mut self) -> usize {
        self.peer.command("count").await
    }
}

/// A push service and the browsers behind it.
pub struct Push {
    peer: Peer,
    pub port: u16,
    /// As browsers hand them out: `{endpoint, keys: {p256dh, auth}}`.
    pub subscriptions: Vec<Value>,
}

impl Push {
    pub async fn start(python: &str, dir: &Path, subscriptions: usize) -> Self {
        Self::start_with(python, dir, subscriptions, &[]).await
    }

    /// Behind a proxy that is reached at `origin`, `http://ADDRESS:PORT`.
    pub async fn start_behind(
        origin: &str,
        python: &str,
        dir: &Path,
        subscriptions: usize,
    ) -> Self {
        let args = ["--origin".into(), origin.into()];
        Self::start_with(python, dir, subscriptions, &args).await
    }

    async fn start_with(python: &str, dir: &Path, subscriptions: usize, more: &[String]) -> Self {
        let mut args = vec!["--subscriptions".into(), subscriptions.to_string()];
        args.extend_from_slice(more);
        let out = dir.join("push.ndjson");
        let mut peer = Peer::start(python, "push_receiver.py", out, &args);
        let port = peer.line().await.parse().expect("a port");
        let subscriptions = serde_json::from_str(&peer.line().await).expect("a JSON array");
        Self {
            peer,
            port,
            subscriptions,
        }
    }

    /// Hands every subscription to herald, as the browsers' pages would.
    pub async fn subscribe_all(&self, api: &Api, tenant: &str) {
        for number in 0..self.subscriptions.len() {
            self.subscribe_one(api, tenant, number).await;
        }
    }

    pub async fn subscribe_one(&self, api: &Api, tenant: &str, number: usize) {
        let body = json!({"tenantId": tenant, "subscription": self.subscriptions[number]});
        let reply = api.post("/push/subscriptions", &body).await;
        let body = String::from_utf8_lossy(&reply.body);
        assert!(
            (200..300).contains(&reply.status),
            "{}: {body}",
            reply.status
        );
    }

    pub fn count(&self) -> usize {
        self.peer.count()
    }

    /// What was received, verified and decrypted: `subscription`, `eventId`, `payload`.
    pub fn messages(&self) -> Vec<Value> {
        self.peer.records()
    }

    /// How many messages were refused.
    pub async fn refused(&mut self) -> usize {
        self.peer.command("count").await
    }

    /// Refuses the next messages, with `Retry-After: 1`.
    pub async fn fail_next(&mut self, count: usize, status: u16) {
        self.peer
            .command(&format!("fail-next {count} {status}"))
            .await;
    }

    /// Accepts again.
    pub async fn heal(&mut self) {
        self.peer.command("ok").await;
    }

    /// The browser behind this subscription is gone.
    pub async fn unsubscribe(&mut self, number: usize) {
        self.peer.command(&format!("gone {number}")).await;
    }
}
