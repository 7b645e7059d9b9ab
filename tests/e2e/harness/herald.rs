//! A herald process and the folder it lives in.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Api, Config, Sse, eventually, seconds, within};

/// How much of a log a failure shows, in bytes.
const LOG_TAIL: usize = 8_000;

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
    /// `{name}.log`, and waits until it is ready.
    pub async fn start_as(&self, name: &str, args: &[&str]) -> Herald {
        let log = self.path().join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let begin = file.metadata().expect("a log").len();
        let (environment, args): (Vec<&str>, Vec<&str>) = args
            .iter()
            .partition(|a| a.starts_with("HERALD_") && a.contains('='));
        let mut command = self.command(&["run"]);
        command
            .args(args)
            .envs(environment.iter().filter_map(|e| e.split_once('=')))
            .stdout(file.try_clone().expect("a log"))
            .stderr(file);
        let mut child = command.spawn().expect("herald starts");
        let base = listening(&mut child, &log, begin).await;
        let herald = Herald {
            child,
            log,
            api: Api::new(base),
        };
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

/// The address in the line that says where herald listens.
async fn listening(child: &mut Child, log: &Path, begin: u64) -> String {
    eventually("herald says where it listens", seconds(30), async || {
        let text = fs::read(log).expect("a log");
        let text = String::from_utf8_lossy(&text[begin as usize..]).into_owned();
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("herald ended with {status}:\n{text}");
        }
        let (_, rest) = text.split_once("listening on http://")?;
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]".contains(c)))?;
        Some(format!("http://{}", rest[..end].trim_end_matches('.')))
    })
    .await
}

/// A running `herald run`.
pub struct Herald {
    child: Child,
    log: PathBuf,
    pub api: Api,
}

impl Herald {
    pub fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// `kill -9`: the process has no chance to do anything.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("can be killed");
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(mut self) -> ExitStatus {
        let kill = format!("kill -TERM {}", self.pid());
        let sent = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        assert!(sent.expect("a shell").success(), "{kill}");
        within("herald drains and ends", seconds(40), self.child.wait())
            .await
            .expect("a child")
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = File::open(&self.log)
                .and_then(std::io::read_to_string)
                .unwrap_or_default();
            let mut begin = text.len().saturating_sub(LOG_TAIL);
            while !text.is_char_boundary(begin) {
                begin += 1;
            }
            eprintln!("---- {} ends:\n{}", self.log.display(), &text[begin..]);
        }
    }
}
