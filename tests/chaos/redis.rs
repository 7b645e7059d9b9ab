//! A Redis of the test's own, to be flushed, killed, and brought back empty or with what it held a
//! while ago.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Process, Turns, seconds};
use crate::postgres::free_port;
use crate::proxy::Target;

/// The server, its folder and the dumps it has made.
pub struct Redis {
    pub target: Target,
    dir: PathBuf,
    /// From the oldest to the newest.
    dumps: Vec<PathBuf>,
    process: Option<Process>,
}

impl Redis {
    pub async fn start(dir: &Path) -> Self {
        let own = dir.join("redis");
        fs::create_dir(&own).expect("a folder");
        let mut redis = Self {
            target: Target::default(),
            dir: own,
            dumps: Vec::new(),
            process: None,
        };
        redis.restart(None).await;
        redis
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Comes back with what a dump holds, or empty.
    pub async fn restart(&mut self, dump: Option<&Path>) {
        let place = self.dir.join("dump.rdb");
        match dump {
            Some(dump) => drop(fs::copy(dump, place).expect("the dump is there")),
            None => drop(fs::remove_file(place)), // There may be none.
        }
        let log = self.dir.with_file_name("redis.log");
        let mut turns = Turns::new("Redis answers", seconds(30));
        loop {
            turns.next().await;
            if !self.process.as_mut().is_some_and(Process::is_running) {
                self.target.set(free_port());
                let mut command = Command::new("redis-server");
                command
                    .args(["--port", &self.target.port().to_string()])
                    .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                    .arg("--dir")
                    .arg(&self.dir)
                    .stdin(Stdio::null());
                self.process = Some(Process::spawn(command, log.clone()));
            }
            if self.ask("PING").await.as_deref() == Some("+PONG") {
                return;
            }
        }
    }

    /// Loses everything.
    pub async fn flush(&self) {
        assert_eq!(self.ask("FLUSHALL").await.as_deref(), Some("+OK"));
    }

    /// Keeps what it holds now for later.
    pub async fn save(&mut self) {
        assert_eq!(self.ask("SAVE").await.as_deref(), Some("+OK"));
        let kept = self.dir.join(format!("{}.rdb", self.dumps.len()));
        fs::copy(self.dir.join("dump.rdb"), &kept).expect("the dump is there");
        self.dumps.push(kept);
    }

    /// The dumps made so far, the oldest first.
    pub fn dumps(&self) -> &[PathBuf] {
        &self.dumps
    }

    /// One line of an answer.
    async fn ask(&self, command: &str) -> Option<String> {
        let asked = async {
            let address = (Ipv4Addr::LOCALHOST, self.target.port());
            let mut stream = TcpStream::connect(address).await.ok()?;
            let line = format!("{command}\r\n");
            stream.write_all(line.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n") {
                if stream.read_buf(&mut answer).await.ok()? == 0 {
                    return None;
                }
            }
            Some(String::from_utf8_lossy(&answer).trim_end().to_owned())
        };
        timeout(seconds(10), asked).await.ok()?
    }
}
