//! Producers: each commits one event in a transaction of its own, again and again.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// They share the rate among them.
const PRODUCERS: u32 = 4;

/// An event that was committed.
pub struct Emitted {
    pub event_id: String,
    pub began: Instant,
    pub committed: Instant,
}

/// Emits `rate` small events a second of the tenant, for so many seconds.
pub async fn produce(
    pool: &PgPool,
    tenant: &'static str,
    rate: u32,
    seconds: u32,
) -> anyhow::Result<Vec<Emitted>> {
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        let pool = pool.clone();
        producers.spawn(async move {
            let mut connection = pool.acquire().await?;
            let every = Duration::from_secs(1) / rate;
            tokio::time::sleep(every * number).await;
            let mut tick = interval(every * PRODUCERS);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut emitted = Vec::new();
            for _ in 0..seconds * rate / PRODUCERS {
                tick.tick().await;
                let began = Instant::now();
                let event_id =
                    sqlx::query_scalar("SELECT herald.emit($1, 'bench.event', '{\"a\": 1}')")
                        .bind(tenant)
                        .fetch_one(&mut *connection)
                        .await?;
                emitted.push(Emitted {
                    event_id,
                    began,
                    committed: Instant::now(),
                });
            }
            anyhow::Ok(emitted)
        });
    }
    let mut all = Vec::new();
    while let Some(emitted) = producers.join_next().await {
        all.extend(emitted??);
    }
    Ok(all)
}
