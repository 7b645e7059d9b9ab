//! From a commit to an SSE client, at a steady rate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::servers::{Herald, Servers};

const RATE: u32 = 1000;
const PRODUCERS: u32 = 4;
const SECONDS: u32 = 15;
/// At the beginning, not counted.
const WARM_UP: usize = 2 * RATE as usize;

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    servers.flush_redis().await?;
    let (url, pool) = servers.database("latency").await?;
    let herald = Herald::start(&url, &servers.redis, "relay,http")?;
    let mut stream = TcpStream::connect(&herald.address).await?;
    let request = format!(
        "GET /sse?tenantId=bench HTTP/1.1\r\nHost: {}\r\n\r\n",
        herald.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    // The stream is live once it has said its first id.
    while !lines
        .next_line()
        .await?
        .context("a stream")?
        .starts_with("id: ")
    {}

    let (sent, mut commits) = mpsc::unbounded_channel();
    for _ in 0..PRODUCERS {
        let (pool, sent) = (pool.clone(), sent.clone());
        tokio::spawn(async move {
            let mut connection = pool.acquire().await?;
            let mut tick = interval(Duration::from_secs(1) * PRODUCERS / RATE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for _ in 0..SECONDS * RATE / PRODUCERS {
                tick.tick().await;
                let (id,): (String,) =
                    sqlx::query_as("SELECT herald.emit('bench', 'bench.event', '{\"a\": 1}')")
                        .fetch_one(&mut *connection)
                        .await?;
                let _ = sent.send((id, Instant::now()));
            }
            anyhow::Ok(())
        });
    }
    drop(sent);

    let expected = (SECONDS * RATE) as usize;
    let mut arrivals = Vec::with_capacity(expected);
    while arrivals.len() < expected {
        let line = timeout(Duration::from_secs(30), lines.next_line()).await??;
        if let Some(id) = line.context("the stream goes on")?.strip_prefix("id: ") {
            arrivals.push((id.to_owned(), Instant::now()));
        }
    }
    let mut committed = HashMap::new();
    while let Some((id, at)) = commits.recv().await {
        committed.insert(id, at);
    }
    let mut latencies: Vec<Duration> = arrivals[WARM_UP..]
        .iter()
        .filter_map(|(id, at)| Some(at.saturating_duration_since(*committed.get(id)?)))
        .collect();
    latencies.sort();
    let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!("commit to SSE client: {RATE} events/s for {SECONDS} s, PostgreSQL + Redis");
    println!(
        "  p50 {:.2} ms   p90 {:.2} ms   p99 {:.2} ms   max {:.2} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    Ok(())
}
