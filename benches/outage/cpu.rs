//! How much of a core processes use, as /proc has it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::PgPool;

/// Clock ticks a second in /proc (`USER_HZ`, 100 on every Linux).
const TICKS: f64 = 100.0;

/// herald and the database beside it.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    pub herald: u32,
    /// The database server's first process.
    pub postmaster: u32,
}

/// In percent of one core.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub herald: f64,
    pub database: f64,
}

impl Watched {
    pub async fn new(herald: u32, pool: &PgPool) -> anyhow::Result<Self> {
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(pool)
            .await?;
        Ok(Self {
            herald,
            postmaster: Process::read(u32::try_from(backend)?)?.parent,
        })
    }

    /// Over so long.
    pub async fn usage(&self, over: Duration) -> anyhow::Result<Usage> {
        let (began, before) = (Instant::now(), self.ticks()?);
        tokio::time::sleep(over).await;
        let (after, seconds) = (self.ticks()?, began.elapsed().as_secs_f64());
        let percent = |ticks: u64| ticks as f64 / TICKS / seconds * 100.0;
        Ok(Usage {
            herald: percent(after.0 - before.0),
            database: percent(after.1.saturating_sub(before.1)),
        })
    }

    fn ticks(&self) -> anyhow::Result<(u64, u64)> {
        let server = Process::read(self.postmaster)?;
        // Whoever ended is in its parent's figures.
        let mut database = server.own + server.ended_children;
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One that ends in this moment has no figures any more.
            if let Ok(process) = Process::read(pid)
                && process.parent == self.postmaster
            {
                database += process.own;
            }
        }
        Ok((Process::read(self.herald)?.own, database))
    }
}

/// What `/proc/PID/stat` says; see proc_pid_stat(5).
struct Process {
    parent: u32,
    own: u64,
    ended_children: u64,
}

impl Process {
    fn read(pid: u32) -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is a name in parentheses, with whatever in it.
        let (_, rest) = stat.rsplit_once(')').context("a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).context("a field");
        let ticks = |number| anyhow::Ok(field(number)?.parse::<u64>()?);
        Ok(Self {
            parent: field(4)?.parse()?,
            own: ticks(14)? + ticks(15)?,
            ended_children: ticks(16)? + ticks(17)?,
        })
    }
}
