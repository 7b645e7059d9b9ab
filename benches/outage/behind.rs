//! A sink that is dead while a million events pass, and a Redis that could not hold them.
//!
//! herald's relay and its sinks are two processes here. The one with the mail sink is killed, and
//! comes back when the events have passed. With several attempts at once, mails overtake each other
//! by a little; that they are read in order is shown with one at a time.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::PgPool;

use crate::mail::{self, emit, wait};
use crate::memory::Memory;
use crate::servers::{Herald, Latencies, Servers, number, produce};
use crate::smtp::Smtp;

/// Redis's own limit, in bytes; without eviction.
const MAX_MEMORY: u64 = 64 << 20;
/// Transactions a second whose time is measured beside the many.
const PRODUCE_RATE: u32 = 100;
/// Seconds of them without a dead sink, for comparison.
const SECONDS: usize = 20;
/// Domains that the mail goes to.
const DOMAINS: usize = 1_000;

pub struct Scenario {
    pub name: &'static str,
    /// Events, as a part of those asked for.
    part: usize,
    /// Events a second that pass.
    rate: usize,
    /// Entries that the stream holds at most.
    max_len: usize,
    /// Attempts under way at once.
    concurrency: usize,
}

pub const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "behind-at-once",
        part: 1,
        rate: 10_000,
        max_len: 100_000,
        concurrency: 32,
    },
    Scenario {
        name: "behind-in-order",
        part: 20,
        rate: 2_500,
        max_len: 5_000,
        concurrency: 1,
    },
];

impl Scenario {
    pub async fn measure(&self, servers: &Servers) -> anyhow::Result<()> {
        let count = number("HERALD_BENCH_EVENTS", 1_000_000)? / self.part;
        println!(
            "a sink that is dead while {count} events pass, {} a second; {} attempts at once",
            self.rate, self.concurrency
        );
        println!("  broker.max_len = {}", self.max_len);
        servers.flush_redis().await?;
        let (url, pool) = servers.database(&self.name.replace('-', "_")).await?;
        let memory = Memory::watch(&servers.redis, MAX_MEMORY).await?;
        let smtp = Smtp::start().await?;
        let settings = format!("concurrency = {}", self.concurrency);
        let config = format!(
            "broker.max_len = {}\n{}",
            self.max_len,
            mail::config(&smtp, &settings)
        );
        let _relay = Herald::start(&url, &servers.redis, "relay,http", &config)?;

        // Before there is a sink: it begins with what comes after it.
        let without = self.pass(&pool, self.rate * SECONDS).await?;
        wait_for(&pool, "the relay", "SELECT count(*) = 0 FROM herald.outbox").await?;
        let sinks = Herald::start(&url, &servers.redis, "sinks", &config)?;
        wait_for(
            &pool,
            "the sink's beginning",
            "SELECT count(*) = 1 FROM herald.checkpoints WHERE sink = 'email'",
        )
        .await?;
        drop(sinks); // Killed.
        memory.report("before")?;

        let dead = self.pass(&pool, count).await?;
        println!("  commits without the sink  {without}");
        println!("  commits while it is dead  {dead}");
        println!(
            "  ratio: p50 {:.2}, p99 {:.2}",
            dead.at(0.5) / without.at(0.5),
            dead.at(0.99) / without.at(0.99)
        );
        memory.report("while it is dead")?;

        let began = Instant::now();
        let _sinks = Herald::start(&url, &servers.redis, "sinks", &config)?;
        let patience = Duration::from_secs(60) + Duration::from_millis(2) * u32::try_from(count)?;
        wait("all mails arrive", patience, async || {
            Ok(smtp.accepted() >= count)
        })
        .await?;
        let took = began.elapsed().as_secs_f64();
        println!(
            "  when it is back: {count} deliveries in {took:.1} s, {:.0} a second",
            count as f64 / took
        );
        memory.report("until it has caught up")?;
        memory.end(&servers.redis).await?;
        self.check(&smtp.order(), count)
    }

    /// Emits mail, and measures the commits of others in that time.
    async fn pass(&self, pool: &PgPool, count: usize) -> anyhow::Result<Latencies> {
        let seconds = u32::try_from(count.div_ceil(self.rate))?;
        let (emitted, produced) = tokio::join!(
            emit(pool, count, DOMAINS, self.rate),
            produce(pool, "bench", PRODUCE_RATE, seconds)
        );
        emitted?;
        Ok(produced?
            .into_iter()
            .map(|emitted| emitted.committed - emitted.began)
            .collect())
    }

    /// Each once; and how far from their places.
    fn check(&self, order: &[u32], count: usize) -> anyhow::Result<()> {
        let mut once = order.to_vec();
        once.sort_unstable();
        ensure!(
            once.iter().copied().eq(1..=u32::try_from(count)?),
            "each arrives once: {} mails for {count}",
            order.len()
        );
        let far = (1..).zip(order).map(|(place, n)| n.abs_diff(place)).max();
        let far = far.unwrap_or_default();
        println!("  each arrives once, at most {far} places from its own");
        ensure!(self.concurrency > 1 || far == 0, "in order");
        Ok(())
    }
}

async fn wait_for(pool: &PgPool, what: &str, question: &'static str) -> anyhow::Result<()> {
    wait(what, Duration::from_secs(60), async || {
        Ok(sqlx::query_scalar(question).fetch_one(pool).await?)
    })
    .await
}
