//! herald: the process that serves HTTP, and beside it one with the relay, on PostgreSQL and Redis.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::PgPool;

use crate::clock;
use crate::message::{FRAME, Message, Stamp};
use crate::process::Process;
use crate::server::Server;
use crate::servers::{Herald, Servers};

/// Events in one transaction at most.
const TRANSACTION: usize = 500;

/// An event as a client gets it, without the payload. The `aggregateId` is not in it.
const AROUND: &str = "id: 01JD5ZKQ8Y3M7N9P2R4T6V8W0X\n\
    data: {\"eventId\":\"01JD5ZKQ8Y3M7N9P2R4T6V8W0X\",\"aggregateId\":,\"tenantId\":\"\",\
    \"type\":\"bench.event\",\"payload\":,\"createdAt\":\"2026-01-01T00:00:00.000000Z\"}\n\n";

pub struct Separate {
    http: Herald,
    _relay: Herald,
    pool: PgPool,
    emitted: usize,
    compressed: bool,
}

impl Separate {
    /// `settings` are of the SSE sink.
    pub async fn start(servers: &Servers, name: &str, settings: &str) -> anyhow::Result<Self> {
        servers.flush_redis().await?;
        let (url, pool) = servers.database(name).await?;
        let config = format!("[sinks.sse]\nkind = \"sse\"\n{settings}");
        Ok(Self {
            _relay: Herald::start(&url, &servers.redis, "relay", &config)?,
            http: Herald::start(&url, &servers.redis, "http", &config)?,
            pool,
            emitted: 0,
            compressed: false,
        })
    }

    /// One whose clients ask for compressed streams.
    pub async fn start_compressed(servers: &Servers, name: &str) -> anyhow::Result<Self> {
        let started = Self::start(servers, name, "compression = true").await?;
        Ok(Self {
            compressed: true,
            ..started
        })
    }

    /// Until everything emitted has gone through the relay.
    pub async fn relayed(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let seq: i64 = sqlx::query_scalar("SELECT seq FROM herald.feed_state")
                .fetch_one(&self.pool)
                .await?;
            if seq == i64::try_from(self.emitted)? {
                // The stream and its reader are that much behind at most.
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Ok(());
            }
            ensure!(
                began.elapsed() < Duration::from_secs(60),
                "the relay: {seq}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The id and the `aggregateId` of a tenant's first event.
    pub async fn first(&self, tenant: &str) -> anyhow::Result<(String, i64)> {
        Ok(sqlx::query_as(
            "SELECT event_id, id FROM herald.events WHERE tenant_id = $1 ORDER BY id LIMIT 1",
        )
        .bind(tenant)
        .fetch_one(&self.pool)
        .await?)
    }

    /// In a new database the first `aggregateId` is 1.
    fn payload(&mut self, message: &Message, emitted: Duration) -> String {
        self.emitted += 1;
        let around = AROUND.len() + message.tenant.len() + self.emitted.to_string().len();
        let stamp = Stamp {
            number: message.number,
            emitted,
        };
        stamp.payload(FRAME - around)
    }
}

impl Server for Separate {
    const NAME: &str = "herald";

    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.http.address.parse()?)
    }

    fn headers(&self) -> &'static str {
        match self.compressed {
            true => "Accept-Encoding: gzip\r\n",
            false => "",
        }
    }

    fn path(&self, tenant: &str) -> String {
        format!("/sse?tenantId={tenant}")
    }

    async fn emit(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for transaction in messages.chunks(TRANSACTION) {
            let now = clock::now();
            let tenants: Vec<&str> = transaction.iter().map(|m| m.tenant.as_str()).collect();
            let payloads: Vec<String> = transaction.iter().map(|m| self.payload(m, now)).collect();
            sqlx::query(
                "SELECT count(herald.emit(tenant, 'bench.event', payload::json))
                 FROM unnest($1::text[], $2::text[]) AS e (tenant, payload)",
            )
            .bind(tenants)
            .bind(payloads)
            .execute(&self.pool)
            .await?;
        }
        Ok(())
    }

    fn process(&self) -> Process {
        Process(self.http.pid())
    }
}
