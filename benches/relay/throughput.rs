//! Outbox to stream, beside bare SQL and bare XADD, in turns.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use herald::broker::{Broker, Redis, RedisOptions};
use herald::metrics::Metrics;
use herald::relay::{Relay, Settings};
use herald::store::{Postgres, SEQUENCE, Store};
use sqlx::Row as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::fill::{PAYLOAD, fill};
use crate::servers::Servers;

const EVENTS: i64 = 200_000;
const ROUNDS: usize = 3;
const BATCH: i64 = 1000;

/// A claim and nothing else: rows go, but into no order. herald claims and sequences in one
/// statement, [`SEQUENCE`].
const DELETE: &str = "
DELETE FROM herald.outbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM herald.outbox WHERE aggregate_id > $1
    ORDER BY aggregate_id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING aggregate_id AS id";

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    println!("outbox to stream: {EVENTS} events of {PAYLOAD} bytes, {ROUNDS} rounds in turns");
    let mut rates = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        rates[0].push(bare_sql(servers, DELETE, &format!("delete{round}")).await?);
        rates[1].push(bare_sql(servers, SEQUENCE, &format!("sequence{round}")).await?);
        rates[2].push(bare_append(servers)?);
        servers.flush_redis().await?;
        rates[3].push(herald(servers, round).await?);
        servers.flush_redis().await?;
    }
    let [delete, sequence, append, herald] = rates.map(median);
    println!(
        "  bare DELETE  {delete:>9.0} events/s  (claims only: DELETE ... RETURNING in a loop)"
    );
    println!("  bare SQL     {sequence:>9.0} events/s  (herald's claim statement in a loop)");
    println!("  bare append  {append:>9.0} events/s  (redis-benchmark, pipelined XADD)");
    println!("  herald       {herald:>9.0} events/s  (outbox to stream)");
    println!(
        "  ratio to the slower of bare SQL and bare append: {:.2}",
        herald / sequence.min(append)
    );
    println!("  ratio to bare DELETE: {:.2}", herald / delete);
    Ok(())
}

async fn bare_sql(servers: &Servers, statement: &'static str, name: &str) -> anyhow::Result<f64> {
    let (_, pool) = servers.database(name).await?;
    fill(&pool, EVENTS).await?;
    let mut connection = pool.acquire().await?;
    sqlx::query("SET ROLE herald_service")
        .execute(&mut *connection)
        .await?;
    let began = Instant::now();
    let mut claimed = 0;
    let mut hint = 0_i64;
    loop {
        let rows = sqlx::query(statement)
            .bind(hint)
            .bind(BATCH)
            .bind(Vec::<i64>::new()) // no gaps
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            hint = hint.max(row.try_get("id")?);
        }
        if rows.is_empty() {
            break;
        }
        claimed += rows.len();
    }
    anyhow::ensure!(claimed as i64 == EVENTS, "{claimed} rows were claimed");
    Ok(claimed as f64 / began.elapsed().as_secs_f64())
}

fn bare_append(servers: &Servers) -> anyhow::Result<f64> {
    let entry = "x".repeat(PAYLOAD + 170); // the envelope around a payload
    let output = Command::new("redis-benchmark")
        .args(["-u", &servers.redis, "-n", &EVENTS.to_string()])
        .args(["-c", "1", "-P", &BATCH.to_string(), "-q", "--csv"])
        .args(["XADD", "bench:bare", "*", "e", &entry])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().context("redis-benchmark's answer")?;
    let rate = last.split("\",\"").nth(1).context("a rate")?;
    Ok(rate.trim_matches('"').parse()?)
}

async fn herald(servers: &Servers, round: usize) -> anyhow::Result<f64> {
    let (url, pool) = servers.database(&format!("herald{round}")).await?;
    fill(&pool, EVENTS).await?;
    let store: Arc<dyn Store> = Arc::new(Postgres::new(&url, 8, Duration::from_secs(30))?);
    let epoch = store.feed_head().await?.epoch;
    let options = RedisOptions {
        url: servers.redis.clone(),
        max_len: 1_000_000,
        reclaim_idle: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        consumer: "bench".into(),
    };
    let broker: Arc<dyn Broker> = Arc::new(Redis::new(options, store.clone(), &epoch)?);
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::new()?);
    let relay = Relay {
        store,
        broker: broker.clone(),
        metrics: metrics.clone(),
        settings: Settings {
            batch: 1000,
            poll_min: Duration::from_millis(1),
            poll_max: Duration::from_millis(50),
            trim_every: Duration::from_secs(10),
            refill_max: 1_000_000,
        },
        emitted: Arc::new(Notify::new()),
        leading: watch::Sender::new(false),
        stop: stop.clone(),
    };
    let began = Instant::now();
    let relay = tokio::spawn(relay.run(None));
    while metrics.stream_seq.get() < EVENTS {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = began.elapsed();
    // The broker itself has the last word.
    assert_eq!(broker.head().await?, Some(EVENTS));
    stop.cancel();
    relay.await??;
    Ok(EVENTS as f64 / took.as_secs_f64())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
