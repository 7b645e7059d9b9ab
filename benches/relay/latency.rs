//! From a commit to an SSE client, at a steady rate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::servers::{Herald, Latencies, Servers, Stream, produce};

const RATE: u32 = 1000;
const SECONDS: u32 = 15;
/// At the beginning, not counted.
const WARM_UP: usize = 2 * RATE as usize;

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    servers.flush_redis().await?;
    let (url, pool) = servers.database("latency").await?;
    let sse = "sinks.sse.kind = \"sse\"";
    let herald = Herald::start(&url, &servers.redis, "relay,http", sse)?;
    let mut stream = Stream::open(&herald.address, "bench").await?;

    let producers = tokio::spawn(async move { produce(&pool, "bench", RATE, SECONDS).await });
    let expected = (SECONDS * RATE) as usize;
    let mut arrivals = Vec::with_capacity(expected);
    while arrivals.len() < expected {
        let id = timeout(Duration::from_secs(30), stream.next_id()).await??;
        arrivals.push((id, Instant::now()));
    }
    let emitted = producers.await??;
    let commits: Latencies = emitted.iter().map(|e| e.committed - e.began).collect();
    let committed: HashMap<String, Instant> = emitted
        .into_iter()
        .map(|emitted| (emitted.event_id, emitted.committed))
        .collect();
    let latencies: Latencies = arrivals[WARM_UP..]
        .iter()
        .filter_map(|(id, at)| Some(at.saturating_duration_since(*committed.get(id)?)))
        .collect();
    println!("commit to SSE client: {RATE} events/s for {SECONDS} s, PostgreSQL + Redis");
    println!("  {latencies}");
    println!("  the commits themselves: {commits}");
    Ok(())
}
