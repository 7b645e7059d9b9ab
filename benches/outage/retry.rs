//! Mail that is deferred with 451 and retried, and what another tenant notices of it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::PgPool;

use crate::cpu::{Usage, Watched};
use crate::mail::{self, emit, wait};
use crate::neighbour::{CONFIG, Latency, Neighbour, RATE};
use crate::servers::{Herald, Servers, number};
use crate::smtp::Smtp;

/// Seconds that the other tenant is measured for in each phase.
const SECONDS: u32 = 20;
/// How long the CPU is watched while nothing but the waiting goes on.
const WATCH: Duration = Duration::from_secs(30);
/// Events a second while the outage's mail is emitted.
const EMIT_RATE: usize = 5_000;
/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Scenario {
    pub name: &'static str,
    what: &'static str,
    domains: usize,
    /// Keys of the email sink.
    settings: &'static str,
    /// Whether every delivery is attempted during the outage.
    all_attempted: bool,
}

pub const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "retry-one-domain",
        what: "one domain, the breaker as it is by default",
        domains: 1,
        settings: "",
        all_attempted: false,
    },
    Scenario {
        name: "retry-many-domains",
        what: "1,000 domains, the breaker as it is by default",
        domains: 1_000,
        settings: "",
        all_attempted: false,
    },
    Scenario {
        name: "retry-without-breaker",
        what: "one domain, breaker.failures = 0 and retry.max_delay = \"1m\"",
        domains: 1,
        settings: "breaker.failures = 0\nretry.max_delay = \"1m\"",
        all_attempted: true,
    },
];

impl Scenario {
    pub async fn measure(&self, servers: &Servers) -> anyhow::Result<()> {
        let count = number("HERALD_BENCH_DELIVERIES", 100_000)?;
        println!("{count} deliveries answered 451: {}", self.what);
        println!(
            "  beside {RATE} events/s of another tenant; retry.base = \"1s\", max_delay = \"15m\" \
             unless said otherwise, max_attempts = 100"
        );
        servers.flush_redis().await?;
        let (url, pool) = servers.database(&self.name.replace('-', "_")).await?;
        let smtp = Smtp::start().await?;
        smtp.refuse(true);
        let herald = Herald::start(
            &url,
            &servers.redis,
            "relay,sinks,http",
            &self.config(&smtp),
        )?;
        let mut neighbour = Neighbour::start(&herald, &pool).await?;
        let watched = Watched::new(herald.pid(), &pool).await?;

        neighbour.measure(5).await?; // Pools and caches have their size after that.
        let quiet = neighbour.measure(SECONDS).await?;
        report(
            "before the outage",
            &watched.usage(WATCH / 3).await?,
            &quiet,
        );

        let began = Instant::now();
        emit(&pool, count, self.domains, EMIT_RATE).await?;
        self.wait_until_all_wait(&pool, count).await?;
        println!(
            "  all are in the ledger after {:.0} s, {} attempts made",
            began.elapsed().as_secs_f64(),
            smtp.refused()
        );
        let during = neighbour.measure(SECONDS).await?;
        let attempts = smtp.refused();
        let waiting = watched.usage(WATCH).await?;
        report("while they wait", &waiting, &during);
        println!(
            "  attempts while they wait: {:.0} a second",
            (smtp.refused() - attempts) as f64 / WATCH.as_secs_f64()
        );
        ensure!(
            pending(&pool, false).await? == count,
            "all {count} wait still"
        );

        smtp.refuse(false);
        let recovered = Instant::now();
        wait("all mails arrive", PATIENCE, async || {
            Ok(smtp.accepted() >= count && pending(&pool, false).await? == 0)
        })
        .await?;
        println!(
            "  after the recovery all arrive within {:.1} s",
            recovered.elapsed().as_secs_f64()
        );
        let mut once = smtp.order();
        once.sort_unstable();
        ensure!(
            once.iter().copied().eq(1..=u32::try_from(count)?),
            "each arrives once: {} mails for {count}",
            once.len()
        );
        let delivered: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM herald.deliveries WHERE sink = 'email' AND state = 'delivered'",
        )
        .fetch_one(&pool)
        .await?;
        ensure!(delivered as usize == count, "{delivered} are delivered");

        let after = neighbour.measure(SECONDS).await?;
        report("after the outage", &watched.usage(WATCH / 3).await?, &after);
        for (name, part) in PARTS {
            let [quiet, during, after] = [&quiet, &during, &after].map(part);
            println!(
                "  {name}: p99 during the outage is {:.2} times that before, {:.2} times that after",
                during / quiet,
                during / after
            );
        }
        println!("  CPU while they wait: {:.1} % of a core", waiting.herald);
        Ok(())
    }

    fn config(&self, smtp: &Smtp) -> String {
        let settings = format!("retry.max_attempts = 100\n{}", self.settings);
        format!("{CONFIG}{}", mail::config(smtp, &settings))
    }

    async fn wait_until_all_wait(&self, pool: &PgPool, count: usize) -> anyhow::Result<()> {
        wait("all deliveries wait in the ledger", PATIENCE, async || {
            Ok(pending(pool, self.all_attempted).await? == count)
        })
        .await
    }
}

type Part = fn(&Latency) -> f64;
const PARTS: [(&str, Part); 2] = [
    ("commit to stream", |latency| latency.stream.at(0.99)),
    ("commit to push", |latency| latency.push.at(0.99)),
];

fn report(when: &str, usage: &Usage, latency: &Latency) {
    println!(
        "  {when:<17} {latency}   CPU alone: herald {:.1} %, PostgreSQL {:.1} % of a core",
        usage.herald, usage.database
    );
}

/// Mails that wait in the ledger: all of them, or those that an attempt was made at.
async fn pending(pool: &PgPool, attempted: bool) -> anyhow::Result<usize> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM herald.deliveries
         WHERE sink = 'email' AND state = 'pending' AND attempts >= $1",
    )
    .bind(i64::from(attempted))
    .fetch_one(pool)
    .await?;
    Ok(usize::try_from(count)?)
}
