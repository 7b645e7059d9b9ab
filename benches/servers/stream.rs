//! A client of a tenant's stream, which looks at nothing but the ids.

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;

/// An open stream, live from the moment it is opened.
pub struct Stream(Lines<BufReader<TcpStream>>);

impl Stream {
    pub async fn open(address: &str, tenant: &str) -> anyhow::Result<Self> {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET /sse?tenantId={tenant} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut stream = Self(BufReader::new(connection).lines());
        // It is live once it has said its first id.
        stream.next_id().await?;
        Ok(stream)
    }

    /// The id of the next event.
    pub async fn next_id(&mut self) -> anyhow::Result<String> {
        loop {
            let line = self.0.next_line().await?.context("the stream ended")?;
            if let Some(id) = line.strip_prefix("id: ") {
                return Ok(id.to_owned());
            }
        }
    }
}
