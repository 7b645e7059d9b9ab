//! A mail server that is fast enough to measure against. It knows the little of RFC 5321 that a
//! well-behaved client needs, and writes down whom it was sent mail for, in the order of its
//! answers. Recipients are `NUMBER@…`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A server on loopback, for as long as the runtime lives.
pub struct Smtp {
    pub port: u16,
    books: Arc<Books>,
}

#[derive(Default)]
struct Books {
    refusing: AtomicBool,
    refused: AtomicU64,
    /// The numbers of those whose mail was accepted.
    accepted: Mutex<Vec<u32>>,
}

impl Smtp {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let books = Arc::<Books>::default();
        let shared = books.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let books = shared.clone();
                tokio::spawn(async move { converse(connection, &books).await });
            }
        });
        Ok(Self { port, books })
    }

    /// Whether every recipient is answered with 451 from now on.
    pub fn refuse(&self, refusing: bool) {
        self.books.refusing.store(refusing, Ordering::SeqCst);
    }

    pub fn refused(&self) -> u64 {
        self.books.refused.load(Ordering::SeqCst)
    }

    pub fn accepted(&self) -> usize {
        self.books.list().len()
    }

    /// The recipients' numbers in the order in which their mail was accepted.
    pub fn order(&self) -> Vec<u32> {
        self.books.list().clone()
    }
}

impl Books {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn converse(connection: TcpStream, books: &Books) -> anyhow::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    connection.write_all(b"220 bench\r\n").await?;
    let mut line = Vec::new();
    let mut recipient = 0;
    while read_line(&mut connection, &mut line).await? {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_slice() {
            b"EHLO" => b"250-bench\r\n250 8BITMIME\r\n",
            b"RCPT" if books.refusing.load(Ordering::SeqCst) => {
                books.refused.fetch_add(1, Ordering::SeqCst);
                b"451 4.3.0 try again later\r\n"
            }
            b"RCPT" => {
                recipient = number(&line)?;
                b"250 2.1.5 ok\r\n"
            }
            b"DATA" => {
                connection.write_all(b"354 go on\r\n").await?;
                while line != b".\r\n" {
                    anyhow::ensure!(read_line(&mut connection, &mut line).await?, "cut off");
                }
                // Before the answer: what the client believes delivered is written down.
                books.list().push(recipient);
                b"250 2.0.0 accepted\r\n"
            }
            b"QUIT" => return Ok(()),
            _ => b"250 2.0.0 ok\r\n",
        };
        connection.write_all(answer).await?;
    }
    Ok(())
}

/// `false` at the end.
async fn read_line(
    connection: &mut BufReader<TcpStream>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    line.clear();
    Ok(connection.read_until(b'\n', line).await? > 0)
}

/// The number in `RCPT TO:<NUMBER@…>`.
fn number(line: &[u8]) -> anyhow::Result<u32> {
    let text = std::str::from_utf8(line)?;
    let (_, address) = text.split_once('<').context("an address")?;
    let (local, _) = address.split_once('@').context("an address")?;
    Ok(local.parse()?)
}
