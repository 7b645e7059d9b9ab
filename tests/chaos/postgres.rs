//! A PostgreSQL of the test's own, to be shut down, killed and brought back. It keeps its data, and
//! `fsync` stays on: the test is about what survives.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;
use tokio::time::timeout;
use ulid::Ulid;

use crate::harness::{Process, Turns, seconds, signal, try_signal, within};
use crate::proxy::Target;

/// A port that nothing listens on now.
pub fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    free.local_addr().expect("an address").port()
}

/// The server and its folder.
pub struct Postgres {
    pub target: Target,
    /// The folder of the server's programs.
    bin: PathBuf,
    dir: PathBuf,
    secret: String,
    /// Whether the test runs as root, which PostgreSQL refuses to do.
    root: bool,
    process: Option<Process>,
}

impl Postgres {
    /// `dir` must be there, and be reachable for the user `postgres` if the test runs as root.
    pub async fn start(bin: &Path, dir: &Path) -> Self {
        let own = dir.join("postgres");
        fs::create_dir(&own).expect("a folder");
        let mut postgres = Self {
            target: Target::default(),
            bin: bin.to_owned(),
            secret: Ulid::generate().to_string(),
            root: fs::metadata(&own).expect("a folder").uid() == 0,
            dir: own,
            process: None,
        };
        postgres.init().await;
        postgres.restart().await;
        postgres
    }

    async fn init(&self) {
        let secret = self.dir.join("secret");
        fs::write(&secret, &self.secret).expect("writes");
        let only_mine = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&secret, only_mine).expect("a file of ours");
        if self.root {
            let mut chown = Command::new("chown");
            succeed(chown.args(["-R", "postgres:"]).arg(&self.dir)).await;
        }
        let mut initdb = self.command("initdb");
        initdb
            .arg("--pgdata")
            .arg(self.dir.join("data"))
            .arg("--pwfile")
            .arg(&secret)
            .args(["--username=herald", "--auth=scram-sha-256"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        succeed(&mut initdb).await;
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if self.root {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// How to log in through a port that leads here.
    pub fn url(&self, port: u16) -> String {
        let secret = &self.secret;
        format!("postgres://herald:{secret}@127.0.0.1:{port}/postgres")
    }

    /// A connection that no proxy is on.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let url = self.url(self.target.port());
        match timeout(seconds(5), PgConnection::connect(&url)).await {
            Ok(connected) => connected,
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Ends the server by a signal: `INT` is a fast shutdown, `QUIT` an immediate one, after which
    /// it must recover, `KILL` leaves its processes to notice.
    pub async fn shut(&mut self, by: &str) {
        if let Some(mut process) = self.process.take() {
            signal(by, process.pid());
            within("PostgreSQL ends", seconds(30), process.ended()).await;
        }
    }

    /// Comes back with its data, perhaps at another port, and answers.
    pub async fn restart(&mut self) {
        let log = self.dir.with_file_name("postgres.log");
        // Processes of a killed one may have the shared memory yet: it refuses to start then.
        let mut turns = Turns::new("PostgreSQL answers", seconds(60));
        loop {
            turns.next().await;
            if !self.process.as_mut().is_some_and(Process::is_running) {
                self.target.set(free_port());
                let mut command = self.command("postgres");
                command
                    .arg("-D")
                    .arg(self.dir.join("data"))
                    .args(["-p", &self.target.port().to_string()])
                    .args(["-c", "listen_addresses=127.0.0.1"])
                    .args(["-c", "max_connections=300", "-c"])
                    .arg(format!("unix_socket_directories={}", self.dir.display()));
                self.process = Some(Process::spawn(command, log.clone()));
            }
            if let Ok(connection) = self.connect().await
                && connection.close().await.is_ok()
            {
                return;
            }
        }
    }

    /// The processes that serve a client.
    pub async fn backends(&self) -> Vec<u32> {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let Ok(mut connection) = self.connect().await else {
            return Vec::new();
        };
        let pids: Vec<i32> = sqlx::query_scalar(sql)
            .fetch_all(&mut connection)
            .await
            .unwrap_or_default();
        pids.into_iter().map(|pid| pid as u32).collect()
    }

    /// Sends a signal to a process of this server, if it is still there.
    pub fn signal_backend(&self, by: &str, pid: u32) {
        let parent = self.process.as_ref().map(Process::pid);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let its = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if its.and_then(|its| its.trim().parse().ok()) == parent && parent.is_some() {
            try_signal(by, pid); // Between the look and the signal it may have ended.
        }
    }
}

impl Drop for Postgres {
    /// An immediate shutdown, so that no process of it stays behind.
    fn drop(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        if process.is_running() {
            signal("QUIT", process.pid());
            for _ in 0..100 {
                if !process.is_running() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

async fn succeed(command: &mut Command) {
    let output = within("the command ends", seconds(60), command.output()).await;
    let output = output.expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
