//! The servers that are measured against, and a database and a herald of our own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use herald::store::{Postgres, Store as _};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

/// Bytes of each event's payload.
pub const PAYLOAD: usize = 200;

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

/// Fills the outbox with `count` events of [`PAYLOAD`] bytes.
pub async fn fill(pool: &PgPool, count: i64) -> anyhow::Result<()> {
    sqlx::query(
        "WITH e AS (
            INSERT INTO herald.events (tenant_id, type, payload)
            SELECT 'tenant-' || n % 10, 'bench.event',
                   json_build_object('n', n, 'fill', repeat('x', $2 - 25))
            FROM generate_series(1, $1) AS n RETURNING id, event_id)
         INSERT INTO herald.outbox (aggregate_id, event_id) SELECT id, event_id FROM e",
    )
    .bind(count)
    .bind(i32::try_from(PAYLOAD)?)
    .execute(pool)
    .await?;
    sqlx::query("VACUUM ANALYZE herald.events")
        .execute(pool)
        .await?;
    sqlx::query("VACUUM ANALYZE herald.outbox")
        .execute(pool)
        .await?;
    Ok(())
}

/// A herald of its own.
pub struct Herald {
    child: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Herald {
    pub fn start(database: &str, redis: &str, only: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("config.toml");
        std::fs::File::create(&config)?.write_all(
            format!(
                "data_dir = \"{}\"\n[store]\nurl = \"{database}\"\n[broker]\nurl = \"{redis}\"\n\
                 [http]\nlisten = \"127.0.0.1:0\"\n[sinks.sse]\nkind = \"sse\"\n",
                folder.path().display()
            )
            .as_bytes(),
        )?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_herald"))
            .args(["run", "--only", only, "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut address = String::new();
        if only.contains("http") {
            let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
            let first = lines.next().context("herald says where it listens")??;
            address = first
                .rsplit_once("http://")
                .context("an address")?
                .1
                .to_owned();
            std::thread::spawn(move || lines.for_each(drop));
        }
        Ok(Self {
            child,
            address,
            _folder: folder,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
