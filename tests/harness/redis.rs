//! A Redis of a story's own, to be killed and lost.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{eventually, seconds};

/// A Redis that keeps nothing when it ends.
pub struct OwnRedis {
    pub url: String,
    port: u16,
    dir: std::path::PathBuf,
    child: Option<Child>,
}

impl OwnRedis {
    pub async fn start(dir: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut redis = Self {
            url: format!("redis://127.0.0.1:{port}"),
            port,
            dir: dir.to_owned(),
            child: None,
        };
        redis.restart().await;
        redis
    }

    /// `kill -9`: whatever it held is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("can be killed");
        }
    }

    /// Comes back at the same address, empty.
    pub async fn restart(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server starts");
        self.child = Some(child);
        let address = ("127.0.0.1", self.port);
        eventually("Redis listens", seconds(20), async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
    }
}
