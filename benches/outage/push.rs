//! A push service that is fast enough to measure against. It decrypts nothing (that push messages
//! are right is shown by the tests), and tells when a message with which topic came.

use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A browser's keys: those of the example in RFC 8291, section 5.
pub const P256DH: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
pub const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

/// The messages that come, by their topic.
pub type Arrivals = mpsc::UnboundedReceiver<(String, Instant)>;

/// A push service on loopback, for as long as the runtime lives: an endpoint, and what comes there.
pub async fn start() -> anyhow::Result<(String, Arrivals)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}/push/1", listener.local_addr()?);
    let (arrived, arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let arrived = arrived.clone();
            tokio::spawn(async move { serve(connection, arrived).await });
        }
    });
    Ok((endpoint, arrivals))
}

async fn serve(
    connection: TcpStream,
    arrived: mpsc::UnboundedSender<(String, Instant)>,
) -> anyhow::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        let (mut length, mut topic) = (0, String::new());
        while line != "\r\n" {
            let (name, value) = line.split_once(':').unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse()?,
                "topic" => topic = value.trim().to_owned(),
                _ => {}
            }
            line.clear();
            anyhow::ensure!(connection.read_line(&mut line).await? > 0, "cut off");
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await?;
        let _ = arrived.send((topic, Instant::now()));
        connection
            .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            .await?;
        line.clear();
    }
    Ok(())
}
