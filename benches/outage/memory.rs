//! What Redis holds, watched every second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use redis::aio::MultiplexedConnection;

/// Redis with a limit, for as long as this value lives.
pub struct Memory {
    limit: u64,
    most: Arc<Most>,
    watch: tokio::task::JoinHandle<anyhow::Result<()>>,
}

#[derive(Default)]
struct Most {
    bytes: AtomicU64,
    entries: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Memory {
    /// Sets Redis's limit in bytes, without eviction, and watches what it holds.
    pub async fn watch(url: &str, limit: u64) -> anyhow::Result<Self> {
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        set(&mut connection, "maxmemory-policy", "noeviction").await?;
        set(&mut connection, "maxmemory", &limit.to_string()).await?;
        let most = Arc::<Most>::default();
        let shared = most.clone();
        let watch = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Err(error) = look(&mut connection, &shared).await {
                    let mut failure = shared
                        .failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    *failure = Some(error.to_string());
                }
            }
        });
        Ok(Self { limit, most, watch })
    }

    /// Prints the most that was seen since the last report.
    pub fn report(&self, when: &str) -> anyhow::Result<()> {
        let failure = self
            .most
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &*failure {
            anyhow::bail!("Redis could not be watched: {failure}");
        }
        let bytes = self.most.bytes.swap(0, Ordering::Relaxed);
        println!(
            "  Redis {when}: at most {:.1} MB of {:.1} MB, {} entries",
            bytes as f64 / 1e6,
            self.limit as f64 / 1e6,
            self.most.entries.swap(0, Ordering::Relaxed)
        );
        ensure!(bytes <= self.limit, "above the limit");
        Ok(())
    }

    /// Takes the limit away again.
    pub async fn end(self, url: &str) -> anyhow::Result<()> {
        self.watch.abort();
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        set(&mut connection, "maxmemory", "0").await
    }
}

async fn set(
    connection: &mut MultiplexedConnection,
    name: &str,
    value: &str,
) -> anyhow::Result<()> {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg(name).arg(value);
    Ok(set.exec_async(connection).await?)
}

async fn look(connection: &mut MultiplexedConnection, most: &Most) -> anyhow::Result<()> {
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("memory").query_async(connection).await?;
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .context("used_memory")?;
    most.bytes
        .fetch_max(used.trim().parse()?, Ordering::Relaxed);
    let mut keys = redis::cmd("KEYS");
    let streams: Vec<String> = keys.arg("herald:*:stream").query_async(connection).await?;
    for stream in streams {
        let length = redis::cmd("XLEN")
            .arg(stream)
            .query_async(connection)
            .await?;
        most.entries.fetch_max(length, Ordering::Relaxed);
    }
    Ok(())
}
