//! One herald process of the test: its roles, its folder, and what is done to it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::harness::{Config, Home, Process, Turns, seconds, signal};
use crate::proxy::Target;

/// Settings by which everything happens within seconds, and nothing becomes a dead letter.
const SETTINGS: [&str; 17] = [
    "HERALD_STORE__TIMEOUT=2s",
    "HERALD_BROKER__TIMEOUT=1s",
    "HERALD_BROKER__RECLAIM_IDLE=2s",
    "HERALD_RELAY__TRIM_EVERY=1s",
    "HERALD_HTTP__DRAIN=3s",
    "HERALD_RETRY__MAX_ATTEMPTS=100",
    "HERALD_SINKS__SSE__HEARTBEAT=1s",
    "HERALD_SINKS__EMAIL__CONCURRENCY=8",
    "HERALD_SINKS__EMAIL__ATTEMPT_TIMEOUT=3s",
    "HERALD_SINKS__EMAIL__SMTP__TIMEOUT=2s",
    "HERALD_SINKS__EMAIL__BREAKER__OPEN=500ms",
    "HERALD_SINKS__EMAIL__BREAKER__MAX_OPEN=2s",
    "HERALD_SINKS__PUSH__BREAKER__OPEN=500ms",
    "HERALD_SINKS__PUSH__BREAKER__MAX_OPEN=2s",
    "HERALD_SINKS__PUSH__CONCURRENCY=8",
    "HERALD_SINKS__PUSH__ATTEMPT_TIMEOUT=3s",
    "HERALD_SINKS__PUSH__TIMEOUT=2s",
];

/// Attempts of one sink that one process has under way at most, as set above.
pub const CONCURRENCY: usize = 8;

/// What can be done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// `kill -9`, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Stop,
    /// SIGTERM, and started again.
    Restart,
}

/// A member of the cluster.
pub struct Member {
    pub name: String,
    home: Home,
    args: Vec<String>,
    /// Where it answers, if HTTP is its role.
    http: Option<Target>,
    process: Option<Process>,
}

impl Member {
    /// Takes the roles of `--only`, or all. `data` is a folder that all members share. Those with
    /// `http` say there where they listen.
    pub fn start(
        name: &str,
        only: Option<&str>,
        config: &Config,
        data: &Path,
        http: Option<Target>,
    ) -> Self {
        let mut args: Vec<String> = SETTINGS.map(str::to_owned).into();
        // A setting of a sink that is not there would be one too many.
        args.retain(|setting| {
            let has = |sink: &str| config.as_str().contains(&format!("[sinks.{sink}]"));
            (has("push") || !setting.contains("__PUSH__"))
                && (has("email") || !setting.contains("__EMAIL__"))
        });
        args.push(format!("HERALD_DATA_DIR={}", data.display()));
        if let Some(only) = only {
            args.extend(["--only".into(), only.into()]);
        }
        let mut member = Self {
            name: name.to_owned(),
            home: Home::new(config),
            args,
            http,
            process: None,
        };
        member.spawn();
        member
    }

    fn spawn(&mut self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.process = Some(self.home.spawn(&self.name, &args));
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    /// What it has said in all its lives.
    pub fn log(&self) -> String {
        let log = self.home.path().join(format!("{}.log", self.name));
        fs::read_to_string(log).expect("a log")
    }

    /// How often it has said something.
    pub fn said(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    /// Whether it drives sinks with retries.
    pub fn drives_sinks(&self) -> bool {
        !self.args.iter().any(|a| a == "relay" || a == "http")
    }

    /// # Panics
    /// It has ended although nobody ended it.
    pub fn assert_running(&mut self) {
        let name = self.name.clone();
        let process = self.process();
        assert!(process.is_running(), "{name} ended:\n{}", process.said());
    }

    /// Waits until it listens, if HTTP is its role.
    pub async fn listen(&mut self) {
        let Some(http) = self.http.clone() else {
            return;
        };
        let mut turns = Turns::new("herald says where it listens", seconds(60));
        let base = loop {
            turns.next().await;
            if let Some(base) = self.process().listening() {
                break base;
            }
        };
        let (_, port) = base.rsplit_once(':').expect("a port");
        http.set(port.parse().expect("a port"));
    }

    /// Has it suffer for a while, after which it runs.
    pub async fn suffer(&mut self, blow: Blow, lasts: Duration) {
        self.assert_running();
        if blow == Blow::Stop {
            let pid = self.process().pid();
            signal("STOP", pid);
            sleep(lasts).await;
            signal("CONT", pid);
            return;
        }
        match blow {
            Blow::Kill => self.kill().await,
            _ => self.terminate().await,
        }
        sleep(lasts).await;
        self.spawn();
        self.listen().await;
    }

    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// SIGTERM: it drains, within its time, and ends well whatever is broken around it.
    pub async fn terminate(&mut self) {
        if let Some(process) = self.process.take() {
            let said = process.said();
            let status = process.terminate().await;
            assert!(
                status.success(),
                "{} ended with {status}:\n{said}",
                self.name
            );
        }
    }
}
