//! Drives a broadcast sink: every process shows it every event, in order.

use std::sync::Arc;

use herald_contract::Broadcast;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::{Broker, BrokerError};
use crate::store::Store;

/// Events that are shown at a time.
const READ: usize = 512;

/// Shows `sink` every event from now on, until `stop`; then ends its streams.
pub async fn run(
    name: &str,
    sink: Arc<dyn Broadcast>,
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = show(name, &*sink, &*store, &*broker) => {}
        () = stop.cancelled() => {}
    }
    sink.close();
}

/// Never ends: what fails is tried again, from the event after the last one shown.
async fn show(name: &str, sink: &dyn Broadcast, store: &dyn Store, broker: &dyn Broker) {
    let mut shown = None;
    let mut failures = 0;
    loop {
        if let Err(error) = follow(sink, store, broker, &mut shown, &mut failures).await {
            failures += 1;
            tracing::warn!(sink = name, error = %error, "cannot read the stream");
        }
        tokio::time::sleep(Backoff::INTERNAL.after(failures)).await;
    }
}

async fn follow(
    sink: &dyn Broadcast,
    store: &dyn Store,
    broker: &dyn Broker,
    shown: &mut Option<i64>,
    failures: &mut u32,
) -> Result<(), BrokerError> {
    let mut last = match *shown {
        Some(seq) => seq,
        None => {
            let head = store.feed_head().await?.seq;
            sink.start(head);
            head
        }
    };
    *shown = Some(last);
    let mut reader = broker.follow(last).await?;
    loop {
        let events = reader.next(READ).await?;
        *failures = 0;
        if let Some(event) = events.last() {
            last = event.seq;
            sink.publish(&events);
            *shown = Some(last);
        }
    }
}
