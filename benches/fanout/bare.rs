//! The limit: a thread that writes the same bytes to one connection after the other, and nothing
//! else. It is a part of this process, but its CPU time is its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;

use crate::clock;
use crate::machine;
use crate::message::{FRAME, Message, Stamp};
use crate::process::Process;
use crate::server::Server;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n";
const AROUND: &str = "id: \ndata: \n\n";

pub struct Bare {
    address: SocketAddr,
    /// The thread's folder in /proc.
    thread: PathBuf,
    frames: mpsc::Sender<String>,
}

impl Bare {
    /// For so many clients; it writes when all are there.
    pub fn start(clients: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (frames, next) = mpsc::channel();
        let (began, thread) = mpsc::channel();
        std::thread::spawn(move || {
            began.send(PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self")?))?;
            serve(&listener, clients, &next)
        });
        Ok(Self {
            address,
            thread: thread.recv().context("a thread")?,
            frames,
        })
    }
}

fn serve(
    listener: &TcpListener,
    clients: usize,
    frames: &mpsc::Receiver<String>,
) -> anyhow::Result<()> {
    let mut connections: Vec<TcpStream> = Vec::with_capacity(clients);
    while connections.len() < clients {
        let (mut connection, _) = listener.accept()?;
        // The request comes in one piece.
        let _ = connection.read(&mut [0; 1024])?;
        connection.write_all(ANSWER)?;
        connection.set_nodelay(true)?;
        connections.push(connection);
    }
    for frame in frames {
        for connection in &mut connections {
            connection.write_all(frame.as_bytes())?;
        }
    }
    Ok(())
}

impl Server for Bare {
    const NAME: &str = "bare";

    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.address)
    }

    fn path(&self, _: &str) -> String {
        "/".into()
    }

    async fn emit(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for Message { number, .. } in messages {
            let id = number.to_string();
            let stamp = Stamp {
                number: *number,
                emitted: clock::now(),
            };
            let payload = stamp.payload(FRAME - AROUND.len() - id.len());
            self.frames.send(format!("id: {id}\ndata: {payload}\n\n"))?;
        }
        Ok(())
    }

    fn process(&self) -> Process {
        Process(std::process::id())
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        machine::cpu_of_thread(&self.thread)
    }
}
