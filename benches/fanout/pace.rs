//! Events at a steady rate.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::clock;
use crate::message::Tenants;
use crate::server::Server;
use crate::servers::Latencies;

/// The most transactions a second; what is more goes into the same.
const TRANSACTIONS: usize = 100;

/// What was emitted.
pub struct Paced {
    pub from: Duration,
    pub to: Duration,
    /// How long emitting took each time.
    pub emitting: Latencies,
}

/// Emits `rate` events a second until that many are enough.
pub async fn pace<S: Server>(
    server: &mut S,
    tenants: &mut Tenants,
    rate: usize,
    enough: impl Fn(usize) -> bool,
) -> anyhow::Result<Paced> {
    let transactions = rate.min(TRANSACTIONS);
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(transactions)?);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (from, mut emitting, mut emitted) = (clock::now(), Vec::new(), 0);
    while !enough(emitted) {
        tick.tick().await;
        let messages = tenants.next(rate / transactions);
        let began = Instant::now();
        server.emit(&messages).await?;
        emitting.push(began.elapsed());
        emitted += messages.len();
    }
    Ok(Paced {
        from,
        to: clock::now(),
        emitting: emitting.into_iter().collect(),
    })
}
