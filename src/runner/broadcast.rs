//! Drives a broadcast sink: every process shows it every event, in order.

use std::sync::Arc;

use herald_contract::Broadcast;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::{Broker, BrokerError};

/// Events that are shown at a time.
const READ: usize = 512;

/// Shows `sink` every event after `seq`, where it was started, until `stop`; then ends its streams.
pub async fn run(
    name: &str,
    sink: Arc<dyn Broadcast>,
    broker: Arc<dyn Broker>,
    seq: i64,
    stop: CancellationToken,
) {
    tokio::select! {
        () = show(name, &*sink, &*broker, seq) => {}
        () = stop.cancelled() => {}
    }
    sink.close();
}

/// Never ends: what fails is tried again, from the event after the last one shown.
async fn show(name: &str, sink: &dyn Broadcast, broker: &dyn Broker, mut shown: i64) {
    let mut failures = 0;
    loop {
        if let Err(error) = follow(sink, broker, &mut shown, &mut failures).await {
            failures += 1;
            tracing::warn!(sink = name, error = %error, "cannot read the stream");
        }
        tokio::time::sleep(Backoff::INTERNAL.after(failures)).await;
    }
}

async fn follow(
    sink: &dyn Broadcast,
    broker: &dyn Broker,
    shown: &mut i64,
    failures: &mut u32,
) -> Result<(), BrokerError> {
    let mut reader = broker.follow(*shown).await?;
    loop {
        let events = reader.next(READ).await?;
        *failures = 0;
        if let Some(event) = events.last() {
            sink.publish(&events);
            *shown = event.seq;
        }
    }
}
