//! A process with its log, which a failure shows.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::ExitStatus;

use tokio::process::{Child, Command};

use super::{seconds, within};

/// How much of a log a failure shows, in bytes.
const LOG_TAIL: usize = 8_000;

/// A running process. It is killed when this value is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where its own part of the log begins.
    begin: usize,
}

impl Process {
    /// Starts the command; what it says is added to the log.
    pub fn spawn(mut command: Command, log: PathBuf) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let begin = file.metadata().expect("a log").len() as usize;
        command
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .kill_on_drop(true);
        let child = command.spawn().expect("the process starts");
        Self { child, log, begin }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).expect("a log");
        String::from_utf8_lossy(&text[self.begin..]).into_owned()
    }

    /// The address in the line that says where herald listens.
    ///
    /// # Panics
    /// It has ended.
    pub fn listening(&mut self) -> Option<String> {
        let said = self.said();
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("herald ended with {status}:\n{said}");
        }
        let (_, rest) = said.split_once("listening on http://")?;
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]".contains(c)))?;
        Some(format!("http://{}", rest[..end].trim_end_matches('.')))
    }

    /// `kill -9`: the process has no chance to do anything.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("can be killed");
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(mut self) -> ExitStatus {
        signal("TERM", self.pid());
        within("the process ends by itself", seconds(40), self.ended()).await
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.expect("a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = fs::read(&self.log).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(LOG_TAIL)..];
            let text = String::from_utf8_lossy(tail);
            eprintln!("---- {} ends:\n{text}", self.log.display());
        }
    }
}

/// Sends a signal, such as `TERM`, to a process that the test has started.
pub fn signal(name: &str, pid: u32) {
    assert!(try_signal(name, pid), "no process {pid} for {name}");
}

/// The same for one that may have ended by itself; whether it was there.
pub fn try_signal(name: &str, pid: u32) -> bool {
    let kill = format!("kill -{name} {pid} 2>/dev/null");
    let sent = std::process::Command::new("sh")
        .args(["-c", &kill])
        .status();
    sent.expect("a shell").success()
}
