//! A mail server that says what its script tells it to.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the server does instead of what is usual.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    Say(&'static str),
    Close,
    /// Never answers.
    Hang,
}

/// Where a conversation stands.
pub struct State {
    /// 1 for the server's first connection.
    pub connection: usize,
    /// Mails taken on this connection.
    pub mails: usize,
}

type Script = dyn Fn(&State, &str) -> Option<Reply> + Send + Sync;

#[derive(Default)]
struct Record {
    connections: usize,
    mails: Vec<String>,
}

pub struct Server {
    port: u16,
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Server {
    /// The script sees every command line, and "." at the end of a message.
    pub async fn start(
        script: impl Fn(&State, &str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let record = Arc::new(Mutex::new(Record::default()));
        let (script, shared): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&record));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = {
                    let mut record = shared.lock().expect("no panic");
                    record.connections += 1;
                    record.connections
                };
                let state = State {
                    connection,
                    mails: 0,
                };
                let (script, record) = (Arc::clone(&script), Arc::clone(&shared));
                tokio::spawn(async move {
                    let _ = converse(stream, state, &*script, &record).await;
                });
            }
        });
        Self { port, record, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn connections(&self) -> usize {
        self.record.lock().expect("no panic").connections
    }

    /// The mails taken, as they were before transport.
    pub fn mails(&self) -> Vec<String> {
        self.record.lock().expect("no panic").mails.clone()
    }

    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn converse(
    stream: TcpStream,
    mut state: State,
    script: &Script,
    record: &Mutex<Record>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await?;
    let mut message: Option<String> = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if let Some(text) = &mut message
            && line != ".\r\n"
        {
            // RFC 5321 §4.5.2.
            text.push_str(line.strip_prefix('.').unwrap_or(&line));
            continue;
        }
        let command = line.trim_end();
        let usual = match command.split(' ').next() {
            Some("EHLO") => "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN",
            Some("DATA") => "354 go on",
            Some("QUIT") => "221 bye",
            Some(".") => "250 fine",
            _ => "250 ok",
        };
        let answer = match script(&state, command) {
            None => usual,
            Some(Reply::Say(answer)) => answer,
            Some(Reply::Close) => return Ok(()),
            Some(Reply::Hang) => std::future::pending().await,
        };
        if let Some(text) = message.take()
            && answer.starts_with('2')
        {
            state.mails += 1;
            record.lock().expect("no panic").mails.push(text);
        }
        if answer.starts_with("354") {
            message = Some(String::new());
        }
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        if answer.starts_with("421") || command == "QUIT" {
            return Ok(());
        }
    }
}

/// Undoes the quoted-printable (RFC 2045 §6.7) of a mail of one part.
pub fn decode(mail: &str, body: &str) -> String {
    assert!(
        mail.contains("Content-Transfer-Encoding: quoted-printable"),
        "{mail}"
    );
    let joined = body.replace("=\r\n", "");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'=' {
            let hex = std::str::from_utf8(&tail[..2]).expect("ASCII");
            bytes.push(u8::from_str_radix(hex, 16).expect("hex digits"));
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
