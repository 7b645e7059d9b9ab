//! How fast the relay is, beside the limits of what it stands on, in one run on one machine:
//!
//! 1. bare SQL: the statement that claims outbox rows, alone in a loop;
//! 2. bare append: pipelined XADD by redis-benchmark;
//! 3. herald: from the outbox to the Redis stream, and its ratio to the slower of the two;
//! 4. commit to SSE client: latency at 1,000 events a second;
//! 5. memory while a backlog of 1,000,000 is drained.
//!
//! `cargo bench --bench relay` brings up private servers by `tests/run`. `-- throughput`,
//! `-- latency` or `-- memory` measures that alone; `HERALD_BENCH_BACKLOG` sets another backlog.

mod fill;
mod latency;
mod memory;
#[path = "../servers/mod.rs"]
mod servers;
mod throughput;

use servers::wanted;

fn main() -> anyhow::Result<()> {
    let Some(servers) = servers::Servers::from_env() else {
        return servers::run_within_servers();
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        if wanted("throughput") {
            throughput::measure(&servers).await?;
        }
        if wanted("latency") {
            latency::measure(&servers).await?;
        }
        if wanted("memory") {
            memory::measure(&servers).await?;
        }
        Ok(())
    })
}
