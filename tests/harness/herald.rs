//! herald with its HTTP interface, and the folder it lives in.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};

use tempfile::TempDir;
use tokio::process::Command;

use super::{Api, Config, Process, Sse, eventually, seconds, signal, within};

/// A folder with a `config.toml`: what stays when the process is killed.
pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new(config: &Config) -> Self {
        Self::with(config.as_str())
    }

    /// With this text as its `config.toml`.
    pub fn with(config: &str) -> Self {
        let dir = TempDir::with_prefix("herald-story-").expect("a temporary folder");
        fs::write(dir.path().join("config.toml"), config).expect("writes");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `herald ARGS` in this folder, with nothing of `HERALD_…` in its environment. It is the one
    /// built for these tests, or `HERALD_TEST_BINARY`, such as a release build.
    fn command(&self, args: &[&str]) -> Command {
        let binary = std::env::var_os("HERALD_TEST_BINARY");
        let mut command = Command::new(binary.unwrap_or(env!("CARGO_BIN_EXE_herald").into()));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HERALD_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Output {
        let what = format!("the end of herald {args:?}");
        within(&what, seconds(60), self.command(args).output())
            .await
            .expect("herald starts")
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub async fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "herald {args:?}: {stdout}{stderr}");
        stdout
    }

    /// Starts `herald run` and waits until it is ready.
    pub async fn start(&self) -> Herald {
        self.start_as("herald", &[]).await
    }

    /// Starts `herald run` with more arguments or `NAME=value` for its environment, logging to
    /// `{name}.log`.
    pub fn spawn(&self, name: &str, args: &[&str]) -> Process {
        let (environment, args): (Vec<&str>, Vec<&str>) = args
            .iter()
            .partition(|a| a.starts_with("HERALD_") && a.contains('='));
        let mut command = self.command(&["run"]);
        command
            .args(args)
            .envs(environment.iter().filter_map(|e| e.split_once('=')));
        Process::spawn(command, self.path().join(format!("{name}.log")))
    }

    /// As [`Home::spawn`], and waits until it is ready.
    pub async fn start_as(&self, name: &str, args: &[&str]) -> Herald {
        let mut process = self.spawn(name, args);
        let base = eventually("herald says where it listens", seconds(30), async || {
            process.listening()
        })
        .await;
        let api = Api::new(base);
        let herald = Herald { process, api };
        eventually("/readyz says 200", seconds(30), async || {
            let reply = herald.api.request("GET", "/readyz", &[], "").await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        eventually("streams stay open", seconds(30), async || {
            match Sse::open(&herald.api, "tenantId=nobody", None).await {
                Ok(mut stream) => stream.greeting().await.then_some(()),
                Err(_) => Some(()), // No sink for streams is configured.
            }
        })
        .await;
        herald
    }
}

/// A running `herald run` that answers HTTP.
pub struct Herald {
    process: Process,
    pub api: Api,
}

impl Herald {
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// `kill -9`: the process has no chance to do anything.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        signal(name, self.process.pid());
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(self) -> ExitStatus {
        self.process.terminate().await
    }
}
