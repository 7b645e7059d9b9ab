//! Another tenant, whose events go on at a steady rate, and how long they take to get to a client
//! of its stream and to a browser of its own.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::push::{self, Arrivals};
use crate::servers::{Herald, Latencies, Stream, produce};

const TENANT: &str = "neighbour";

/// Events a second.
pub const RATE: u32 = 100;

/// An event that has not arrived by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sinks that it is measured by.
pub const CONFIG: &str = r#"
[sinks.sse]
kind = "sse"
[sinks.push]
kind = "web_push"
types = ["bench.*"]
private_endpoints = "loopback"
[[sinks.push.templates]]
title = "{{ type }}"
topic = "{{ eventId }}"
"#;

pub struct Neighbour {
    pool: PgPool,
    streamed: Arrivals,
    pushed: Arrivals,
}

/// From the commit to the client.
pub struct Latency {
    pub stream: Latencies,
    pub push: Latencies,
}

impl Neighbour {
    pub async fn start(herald: &Herald, pool: &PgPool) -> anyhow::Result<Self> {
        let (endpoint, pushed) = push::start().await?;
        sqlx::query(
            "INSERT INTO herald.push_subscriptions (id, tenant_id, endpoint, p256dh, auth)
             VALUES (herald.ulid(), $1, $2, $3, $4)",
        )
        .bind(TENANT)
        .bind(endpoint)
        .bind(push::P256DH)
        .bind(push::AUTH)
        .execute(pool)
        .await?;
        let mut stream = Stream::open(&herald.address, TENANT).await?;
        let (arrived, streamed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(id) = stream.next_id().await {
                let _ = arrived.send((id, Instant::now()));
            }
        });
        Ok(Self {
            pool: pool.clone(),
            streamed,
            pushed,
        })
    }

    /// Goes on for so many seconds.
    pub async fn measure(&mut self, seconds: u32) -> anyhow::Result<Latency> {
        let emitted = produce(&self.pool, TENANT, RATE, seconds).await?;
        let committed: HashMap<String, Instant> = emitted
            .into_iter()
            .map(|emitted| (emitted.event_id, emitted.committed))
            .collect();
        Ok(Latency {
            stream: latencies(&committed, &mut self.streamed)
                .await
                .context("events on the stream")?,
            push: latencies(&committed, &mut self.pushed)
                .await
                .context("push messages")?,
        })
    }
}

async fn latencies(
    committed: &HashMap<String, Instant>,
    arrivals: &mut Arrivals,
) -> anyhow::Result<Latencies> {
    let mut latencies = Vec::with_capacity(committed.len());
    while latencies.len() < committed.len() {
        let arrival = timeout(PATIENCE, arrivals.recv()).await;
        let (id, at) = arrival
            .with_context(|| format!("{} of {} came", latencies.len(), committed.len()))?
            .context("the client is gone")?;
        if let Some(since) = committed.get(&id) {
            latencies.push(at.saturating_duration_since(*since));
        }
    }
    Ok(latencies.into_iter().collect())
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stream p50 {:.2} p99 {:.2} ms   push p50 {:.2} p99 {:.2} ms",
            self.stream.at(0.5),
            self.stream.at(0.99),
            self.push.at(0.5),
            self.push.at(0.99)
        )
    }
}
