//! Makes the stream equal the feed: appends `feed[seq > head]`, where head is what the broker
//! itself says it holds.
//!
//! ```text
//! Lost ──head() answered──▶ At(head) ──append──▶ At(head')
//!   ▲                          │
//!   └── any error; head() disagrees (flushed, failed over), asked every second
//! ```
//!
//! From `Lost` a stream behind the feed is filled from the feed, an absent one from the lowest
//! checkpoint. A stream that has what the feed has not belongs to another history (the database
//! was restored from a backup), and one that ends before the feed's beginning (Redis was away for
//! longer than events are kept) cannot be continued, since what would have to follow its end has
//! expired and a stream has no holes. Then a new epoch begins, and with it every process anew, on a
//! new stream.

use std::sync::Arc;
use std::time::Duration;

use herald_contract::Event;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Relay;
use crate::backoff::Backoff;
use crate::broker::BrokerError;
use crate::store::{FeedHead, StoreError};

/// How often the broker is asked what it holds although nothing failed.
const VERIFY: Duration = Duration::from_secs(1);

/// Entries that are kept behind the lowest checkpoint for broadcast readers.
const KEEP: i64 = 10_000;

/// The stream is trimmed at the latest when this part of its ceiling was appended.
const CEILING_SHARE: i64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// What it holds must be asked.
    Lost,
    /// It ends with this `seq`.
    At(i64),
}

#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) struct Publisher<'a> {
    relay: &'a Relay,
    inbox: mpsc::Receiver<Vec<Arc<Event>>>,
    stream: Stream,
    failures: u32,
    next_trim: Instant,
    /// Appended since the last trim.
    untrimmed: i64,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(relay: &'a Relay, inbox: mpsc::Receiver<Vec<Arc<Event>>>) -> Self {
        Self {
            relay,
            inbox,
            stream: Stream::Lost,
            failures: 0,
            next_trim: Instant::now() + relay.settings.trim_every,
            untrimmed: 0,
        }
    }

    /// Publishes until the sequencer ends.
    pub(super) async fn run(mut self) {
        let mut verify = interval(VERIFY);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                batch = self.inbox.recv() => match batch {
                    Some(batch) => {
                        // Readers that can go on from the feed need not wait for the broker.
                        self.wake(&batch);
                        // It failed a moment ago: `keep_up` tries again after the backoff.
                        if self.failures > 0 {
                            continue;
                        }
                        self.publish(&batch).await
                    }
                    None => return,
                },
                _ = verify.tick() => self.keep_up().await,
            };
            match result {
                Ok(()) => self.failures = 0,
                Err(error) => {
                    self.stream = Stream::Lost;
                    self.failures += 1;
                    self.relay.failed("the stream is behind the feed", &error);
                    verify.reset_after(Backoff::INTERNAL.after(self.failures));
                }
            }
        }
    }

    fn wake(&self, batch: &[Arc<Event>]) {
        if let Some(last) = batch.last() {
            self.relay.broker.wake(last.seq);
        }
    }

    /// Appends a batch that the sequencer has just committed.
    async fn publish(&mut self, batch: &[Arc<Event>]) -> Result<(), PublishError> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Ok(());
        };
        match self.stream {
            Stream::At(head) if first.seq <= head + 1 => {
                let new = batch.partition_point(|event| event.seq <= head);
                self.append(&batch[new..]).await
            }
            _ => self.catch_up(last.seq).await,
        }
    }

    /// Asks the broker what it holds, fills the stream where it is behind, and trims it.
    async fn keep_up(&mut self) -> Result<(), PublishError> {
        let known = self.stream;
        self.stream = Stream::Lost;
        let feed = self.relay.store.feed_head().await?;
        self.relay.metrics.feed_seq.set(feed.seq);
        let held = self.relay.broker.head().await?;
        if self.diverged(held).await? {
            let why = "the stream has what the feed has not: the database is an older one";
            return self.begin_epoch(&feed, why).await;
        }
        if held.is_some_and(|head| head < feed.expired) {
            return self
                .begin_epoch(&feed, "what follows the stream's end has expired")
                .await;
        }
        let head = match held {
            Some(head) => head,
            None => self.refill_start(feed.seq).await?,
        };
        if head < feed.seq && (held.is_none() || matches!(known, Stream::At(k) if k > head)) {
            self.relay.metrics.broker_refills.inc();
            tracing::warn!(
                stream = head,
                feed = feed.seq,
                "filling the stream from the feed"
            );
        }
        self.stream = Stream::At(head);
        self.relay.metrics.stream_seq.set(head);
        let caught_up = self.catch_up(feed.seq).await;
        // Where the broker is full, this makes room.
        self.trim(&feed).await?;
        caught_up
    }

    /// Every process notices and begins anew, this one at once.
    async fn begin_epoch(&mut self, old: &FeedHead, why: &str) -> Result<(), PublishError> {
        let feed = self.relay.store.new_epoch(&old.epoch).await?;
        tracing::error!(feed = feed.seq, epoch = %feed.epoch, "{why}; a new epoch begins");
        self.relay.stop.cancel();
        Ok(())
    }

    /// Whether the stream holds another history than the feed. What it holds is in the feed before
    /// it is appended, so the feed is asked after the stream.
    async fn diverged(&self, head: Option<i64>) -> Result<bool, PublishError> {
        let witness = self.relay.broker.witness().await?;
        let store = &self.relay.store;
        let last = store.feed_head().await?.seq;
        if head.is_some_and(|head| head > last) || witness.is_some_and(|w| w.seq > last) {
            return Ok(true);
        }
        let Some(witness) = witness else {
            return Ok(false);
        };
        // Nothing, or a later event, where retention has deleted it.
        let found = store.feed(witness.seq - 1, 1).await?;
        Ok(found
            .first()
            .is_some_and(|event| event.seq == witness.seq && event.event_id != witness.event_id))
    }

    /// Where an absent stream begins: behind the lowest checkpoint, but no further back than the
    /// ceiling. What a sink misses it reads from the feed.
    async fn refill_start(&self, feed: i64) -> Result<i64, PublishError> {
        let ceiling = feed - self.relay.settings.refill_max;
        Ok(self.lowest_checkpoint(feed).await?.max(ceiling).max(0))
    }

    async fn lowest_checkpoint(&self, feed: i64) -> Result<i64, PublishError> {
        let checkpoints = self.relay.store.checkpoints().await?;
        Ok(checkpoints
            .iter()
            .map(|(_, checkpoint)| checkpoint.seq)
            .fold(feed, i64::min))
    }

    /// Appends from the feed until the stream holds `upto`.
    async fn catch_up(&mut self, upto: i64) -> Result<(), PublishError> {
        loop {
            let head = match self.stream {
                Stream::At(head) if head < upto => head,
                Stream::At(_) => return Ok(()),
                Stream::Lost => {
                    return Box::pin(self.keep_up()).await;
                }
            };
            if self.relay.stop.is_cancelled() {
                return Ok(());
            }
            let events = self
                .relay
                .store
                .feed(head, self.relay.settings.batch)
                .await?;
            if events.is_empty() {
                return Ok(());
            }
            self.append(&events).await?;
        }
    }

    async fn append(&mut self, events: &[Arc<Event>]) -> Result<(), PublishError> {
        let Some(last) = events.last() else {
            return Ok(());
        };
        self.relay.broker.append(events).await?;
        self.stream = Stream::At(last.seq);
        self.untrimmed += i64::try_from(events.len()).unwrap_or(i64::MAX);
        self.relay.metrics.stream_seq.set(last.seq);
        self.relay
            .metrics
            .relay_published
            .inc_by(events.len() as u64);
        Ok(())
    }

    /// What has expired goes from the stream too: every sink has settled it.
    async fn trim(&mut self, feed: &FeedHead) -> Result<(), PublishError> {
        // Sooner where much was appended, or the ceiling would be passed by far.
        let much = self.untrimmed > self.relay.settings.refill_max / CEILING_SHARE;
        if Instant::now() < self.next_trim && !much {
            return Ok(());
        }
        self.next_trim = Instant::now() + self.relay.settings.trim_every;
        self.untrimmed = 0;
        let settled = self.lowest_checkpoint(feed.seq).await?;
        let settled = settled.min(feed.seq - KEEP).max(feed.expired);
        // Also where nothing is settled: there is the ceiling.
        Ok(self.relay.broker.trim(settled.max(0)).await?)
    }
}
