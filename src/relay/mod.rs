//! The relay: moves committed events from the outbox to the feed, and makes the stream equal the
//! feed.
//!
//! ```text
//! Standby ──lock──▶ Leading ──lock's connection lost──▶ Standby
//!                     │
//!                     ├─ sequencer: outbox ─▶ feed      (committed before anything is published)
//!                     └─ publisher: feed   ─▶ stream    (see publisher.rs)
//! ```
//!
//! Leadership saves work; it does not carry correctness. Two relays that both believe that they
//! lead take turns at the feed's head in the store, and the stream refuses what it already has.

mod publisher;

use std::sync::Arc;
use std::time::Duration;

use herald_contract::Event;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::Broker;
use crate::metrics::Metrics;
use crate::store::{Sequencer, Store, StoreError};

use publisher::Publisher;

/// How often one that does not lead asks for the lead.
const STANDBY: Duration = Duration::from_millis(500);

/// Batches between sequencer and publisher.
const AHEAD: usize = 4;

/// How long the sequencer waits for a publisher that is behind before it goes on without it.
const PUBLISHER_PATIENCE: Duration = Duration::from_millis(200);

/// The relay's settings.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Events that are sequenced in one transaction at most.
    pub batch: usize,
    /// Between two looks at the outbox while events come.
    pub poll_min: Duration,
    /// Between two looks when nothing has come for a while.
    pub poll_max: Duration,
    /// Between two trims of the stream.
    pub trim_every: Duration,
    /// How many entries a stream that is lost is filled with at most.
    pub refill_max: i64,
}

/// Everything the relay works with.
pub struct Relay {
    pub store: Arc<dyn Store>,
    pub broker: Arc<dyn Broker>,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    /// Notified when an event was emitted through this process.
    pub emitted: Arc<Notify>,
    /// Tells the rest of the process whether it leads.
    pub leading: watch::Sender<bool>,
    /// Cancelled from outside, or by the relay itself when a new epoch begins.
    pub stop: CancellationToken,
}

impl Relay {
    /// Leads whenever it may, until it is stopped. `first` is a lead that was taken already.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has the database to itself. All else is tried
    /// again.
    pub async fn run(self, mut first: Option<Box<dyn Sequencer>>) -> Result<(), StoreError> {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            let lead = match first.take() {
                Some(sequencer) => Ok(Some(sequencer)),
                None => self.store.try_lead().await,
            };
            let wait = match lead {
                Ok(Some(sequencer)) => {
                    tracing::info!("the relay leads");
                    let sequenced = self.lead(sequencer).await;
                    self.metrics.relay_leader.set(0);
                    self.leading.send_replace(false);
                    // One that leads but cannot write (a full disk, a standby) must not spin.
                    failures = if sequenced { 1 } else { failures + 1 };
                    Backoff::INTERNAL.after(failures)
                }
                Ok(None) => STANDBY,
                Err(error @ StoreError::InUse(_)) => return Err(error),
                Err(error) => {
                    failures += 1;
                    self.failed("cannot ask for the lead", &error);
                    Backoff::INTERNAL.after(failures)
                }
            };
            self.pause(wait).await;
        }
        Ok(())
    }

    /// Sequences and publishes until the lead is lost or the relay is stopped. Whether it could
    /// sequence at all.
    async fn lead(&self, mut sequencer: Box<dyn Sequencer>) -> bool {
        self.metrics.relay_leader.set(1);
        self.leading.send_replace(true);
        let (batches, inbox) = mpsc::channel(AHEAD);
        let publisher = Publisher::new(self, inbox);
        let (sequenced, ()) =
            tokio::join!(self.sequence(&mut *sequencer, batches), publisher.run());
        sequenced
    }

    /// Moves what waits in the outbox to the feed, again and again. Ends, and with it the
    /// publisher, by dropping `batches`. Whether it succeeded once.
    async fn sequence(
        &self,
        sequencer: &mut dyn Sequencer,
        batches: mpsc::Sender<Vec<Arc<Event>>>,
    ) -> bool {
        let mut sequenced = false;
        let mut poll = self.settings.poll_min;
        while !self.stop.is_cancelled() {
            // Looks are `poll` apart from begin to begin: a claim and its commit take their part.
            let look = Instant::now();
            let events = match sequencer.sequence(self.settings.batch).await {
                Ok(events) => events,
                Err(error) => {
                    self.failed("the lead is lost", &error);
                    return sequenced;
                }
            };
            sequenced = true;
            let full = events.len() == self.settings.batch;
            if let Some(last) = events.last() {
                self.metrics.feed_seq.set(last.seq);
                poll = self.settings.poll_min;
                // What the publisher is not handed it reads from the feed.
                let _ = timeout(PUBLISHER_PATIENCE, batches.send(events)).await;
            } else {
                // By a twentieth: some hundred looks at 1 ms before it is slow.
                poll = (poll + poll / 20 + Duration::from_micros(10)).min(self.settings.poll_max);
            }
            if !full {
                tokio::select! {
                    () = self.pause(poll.saturating_sub(look.elapsed())) => {}
                    () = self.emitted.notified() => poll = self.settings.poll_min,
                }
            }
        }
        sequenced
    }

    /// Waits, or ends at once when the relay is stopped. (tokio's timer makes at least a
    /// millisecond of any wait.)
    async fn pause(&self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let _ = timeout(wait, self.stop.cancelled()).await;
    }

    fn failed(&self, what: &str, error: &dyn std::error::Error) {
        self.metrics.relay_errors.inc();
        tracing::warn!(error = %error, "relay: {what}");
    }
}
