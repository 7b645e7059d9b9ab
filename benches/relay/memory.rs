//! Memory of the relay's process while a long backlog is drained.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::PgPool;

use crate::fill::fill;
use crate::servers::{Herald, Servers, number};

/// A drain that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(300);

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    let backlog = i64::try_from(number("HERALD_BENCH_BACKLOG", 1_000_000)?)?;
    servers.flush_redis().await?;
    let (url, pool) = servers.database("memory").await?;
    fill(&pool, backlog).await?;
    let herald = Herald::start(&url, &servers.redis, "relay", "")?;
    let began = Instant::now();
    // From a twentieth on: pools and buffers have their size by then.
    let (mut lowest, mut highest) = (u64::MAX, 0);
    loop {
        let drained = feed_seq(&pool).await?;
        if drained > backlog / 20 {
            let now = resident(herald.pid())?;
            (lowest, highest) = (lowest.min(now), highest.max(now));
        }
        if drained >= backlog {
            break;
        }
        if began.elapsed() > PATIENCE {
            bail!("{drained} of {backlog} after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = backlog as f64 / began.elapsed().as_secs_f64();
    println!("memory while a backlog of {backlog} is drained ({rate:.0} events/s)");
    println!(
        "  resident: {:.1} to {:.1} MB, {:.1} MB apart",
        lowest as f64 / 1e6,
        highest as f64 / 1e6,
        (highest.saturating_sub(lowest)) as f64 / 1e6
    );
    Ok(())
}

async fn feed_seq(pool: &PgPool) -> anyhow::Result<i64> {
    let (seq,) = sqlx::query_as("SELECT seq FROM herald.feed_state")
        .fetch_one(pool)
        .await?;
    Ok(seq)
}

/// Resident memory in bytes, as /proc has it.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .context("VmRSS")?;
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .context("a number")?
        .parse()?;
    Ok(kilobytes * 1024)
}
