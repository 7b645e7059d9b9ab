//! Nchan, a module of nginx: a process with one worker and a configuration of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::clock;
use crate::message::{FRAME, Message, Stamp};
use crate::process::Process;
use crate::server::Server;

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
/// Requests under way at once on the publisher's connection.
const UNDER_WAY: usize = 32;
/// An event as a client gets it, without the payload; later ones of a second have a longer id.
const AROUND: &str = "id: 1767225600:0\ndata: \n\n";

pub struct Nchan {
    worker: Process,
    address: SocketAddr,
    publisher: BufReader<TcpStream>,
    _nginx: Nginx,
}

struct Nginx {
    process: Child,
    folder: tempfile::TempDir,
}

impl Nchan {
    pub fn installed() -> bool {
        Path::new(MODULE).exists()
    }

    /// Whether it is there; installs it if that can be done without asking.
    pub fn install() -> anyhow::Result<bool> {
        if !Self::installed() {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/fanout/install-nchan");
            Command::new(script).stdin(Stdio::null()).status()?;
        }
        Ok(Self::installed())
    }

    /// `None` where it is not installed. `heartbeat` is in seconds.
    pub async fn start(heartbeat: u32) -> anyhow::Result<Option<Self>> {
        if !Self::installed() {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config(folder.path(), address, heartbeat))?;
        let nginx = Nginx {
            process: nginx(folder.path()).spawn()?,
            folder,
        };
        let began = Instant::now();
        let worker = loop {
            match Process(nginx.process.id()).child() {
                Ok(worker) => break worker,
                Err(error) if began.elapsed() > Duration::from_secs(10) => Err(error)?,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        // There is a worker only after nginx listens.
        let publisher = TcpStream::connect(address).await?;
        publisher.set_nodelay(true)?;
        Ok(Some(Self {
            worker,
            address,
            publisher: BufReader::new(publisher),
            _nginx: nginx,
        }))
    }

    /// Reads an answer, of which only the status matters.
    async fn answer(&mut self) -> anyhow::Result<()> {
        let (mut line, mut length) = (String::new(), 0);
        self.publisher.read_line(&mut line).await?;
        ensure!(line.starts_with("HTTP/1.1 20"), "Nchan answers {line:?}");
        while line != "\r\n" {
            line.clear();
            ensure!(self.publisher.read_line(&mut line).await? > 0, "cut off");
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse()?;
            }
        }
        self.publisher.read_exact(&mut vec![0; length]).await?;
        Ok(())
    }
}

fn nginx(folder: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).args(["-c", "nginx.conf"]);
    command
}

fn config(folder: &Path, address: SocketAddr, heartbeat: u32) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", folder.display()))
        .concat();
    format!(
        "load_module {MODULE};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_buffer_size 16k;
    {temporary}
    nchan_shared_memory_size 1G;
    nchan_message_buffer_length 100000;
    nchan_message_timeout 1h;
    server {{
        listen {address} backlog=4096;
        location /subscribe {{
            nchan_subscriber eventsource;
            nchan_channel_id $arg_channel;
            nchan_subscriber_first_message newest;
            nchan_subscriber_timeout 0;
            nchan_eventsource_ping_interval {heartbeat};
            nchan_eventsource_ping_event \"\";
            nchan_eventsource_ping_comment \" \";
        }}
        location /publish {{
            nchan_publisher;
            nchan_channel_id $arg_channel;
        }}
    }}
}}
",
        folder = folder.display()
    )
}

impl Server for Nchan {
    const NAME: &str = "Nchan";

    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.address)
    }

    fn path(&self, tenant: &str) -> String {
        format!("/subscribe?channel={tenant}")
    }

    async fn emit(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for together in messages.chunks(UNDER_WAY) {
            let emitted = clock::now();
            let mut requests = String::new();
            for Message { tenant, number } in together {
                let number = *number;
                let payload = Stamp { number, emitted }.payload(FRAME - AROUND.len());
                requests.push_str(&format!(
                    "POST /publish?channel={tenant} HTTP/1.1\r\nHost: localhost\r\n\
                     Content-Length: {}\r\n\r\n{payload}",
                    payload.len()
                ));
            }
            self.publisher.write_all(requests.as_bytes()).await?;
            for _ in together {
                let answer = tokio::time::timeout(Duration::from_secs(20), self.answer()).await;
                answer.context("Nchan's answer")??;
            }
        }
        Ok(())
    }

    fn process(&self) -> Process {
        self.worker
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killed, it would leave its worker behind.
        let mut stop = nginx(self.folder.path());
        let _ = stop.args(["-s", "stop"]).stderr(Stdio::null()).status();
        let began = Instant::now();
        while let Ok(None) = self.process.try_wait()
            && began.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
