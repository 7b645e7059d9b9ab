//! The mail that an outage is about: the sink's configuration, its events, and the waiting for it.

use std::time::{Duration, Instant};

use anyhow::bail;
use sqlx::PgPool;

use crate::smtp::Smtp;

/// Events in one transaction.
const CHUNK: usize = 500;

/// The mail sink with these keys of its own.
pub fn config(smtp: &Smtp, settings: &str) -> String {
    format!(
        "[sinks.email]\nkind = \"email\"\ntypes = [\"order.*\"]\ntransport = \"smtp\"\n\
         from = \"herald@example.test\"\n{settings}\n\
         [sinks.email.smtp]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n\
         [[sinks.email.templates]]\nto = \"{{{{ payload.email }}}}\"\nsubject = \"Order\"\n\
         text = \"Event {{{{ eventId }}}}.\"\n",
        smtp.port
    )
}

/// Emits mail to the recipients 1 to `count` in this order, `rate` a second.
pub async fn emit(pool: &PgPool, count: usize, domains: usize, rate: usize) -> anyhow::Result<()> {
    let every = Duration::from_secs_f64(CHUNK as f64 / rate as f64);
    let mut tick = tokio::time::interval(every);
    for first in (1..=count).step_by(CHUNK) {
        tick.tick().await;
        sqlx::query(
            "SELECT count(herald.emit('outage', 'order.created',
                 json_build_object('email', n || '@d' || n % $3 || '.test')))
             FROM generate_series($1, $2) AS n",
        )
        .bind(i64::try_from(first)?)
        .bind(i64::try_from(count.min(first + CHUNK - 1))?)
        .bind(i64::try_from(domains)?)
        .execute(pool)
        .await?;
    }
    Ok(())
}

/// Looks twice a second.
pub async fn wait(
    what: &str,
    patience: Duration,
    mut done: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !done().await? {
        if began.elapsed() > patience {
            bail!("not within {patience:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
