//! What every benchmark stands on: the servers that are measured against, a database and a herald
//! of its own, producers, a client of the streams, and what latencies come to.

mod herald;
mod latencies;
mod producers;
mod stream;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ::herald::store::{Postgres, Store as _};
use anyhow::{Context as _, bail};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

pub use herald::Herald;
pub use latencies::Latencies;
pub use producers::produce;
pub use stream::Stream;

pub struct Servers {
    postgres: String,
    pub redis: String,
}

impl Servers {
    pub fn from_env() -> Option<Self> {
        Some(Self {
            postgres: std::env::var("HERALD_TEST_POSTGRES_URL").ok()?,
            redis: std::env::var("HERALD_TEST_REDIS_URL").ok()?,
        })
    }

    /// A new database with herald's schema: its URL and a pool of connections.
    pub async fn database(&self, name: &str) -> anyhow::Result<(String, PgPool)> {
        let name = format!("bench_{name}_{}", std::process::id());
        let admin = PgPoolOptions::new()
            .max_connections(1)
            .connect(&self.postgres)
            .await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&admin)
            .await?;
        let (base, _) = self
            .postgres
            .rsplit_once('/')
            .context("a database in the URL")?;
        let url = format!("{base}/{name}");
        Postgres::new(&url, 2, Duration::from_secs(60))?
            .migrate()
            .await?;
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(&url)
            .await?;
        Ok((url, pool))
    }

    pub async fn flush_redis(&self) -> anyhow::Result<()> {
        let client = redis::Client::open(self.redis.as_str())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
        Ok(())
    }
}

/// Runs this very program again with servers around it.
pub fn run_within_servers() -> anyhow::Result<()> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
    let status = Command::new(run)
        .arg("--with")
        .arg(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .status()?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

/// Whether a part is named on the command line, or none is.
pub fn wanted(part: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|name| name == part)
}

/// A number that an environment variable sets.
pub fn number(variable: &str, otherwise: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(otherwise),
    }
}
