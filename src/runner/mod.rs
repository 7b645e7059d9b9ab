//! The one loop that drives every sink, of either kind.
//!
//! A competing sink (see [`Runner`]) is a line of four tasks with bounded queues between them:
//!
//! ```text
//!  stream ─▶ read ─▶ dispatch ─▶ attempts (at most `concurrency`) ─▶ record ─▶ ledger, then ack
//!                                    ▲   └─ put aside ────────────────▲
//!  ledger ─▶ due ────────────────────┘
//! ```
//!
//! What may begin when stands in `attempt`, `breaker`, `rate` and `destinations`; a sink that keeps
//! an order goes another way to its attempts, see `order`.
//!
//! Invariants:
//! - An event is acknowledged only after every delivery of it is in the ledger. A process that
//!   dies before that leaves the event pending in its group, and another takes it over.
//! - A delivery that the ledger knows is never begun from the stream again: from its first record
//!   on, the ledger owns it. So the only double is the one whose far end accepted it and whose
//!   process died before it was recorded: at most `concurrency` of them.
//! - The stream's cursor always moves on: a failed delivery waits in the ledger, not in the
//!   stream, and holds up nobody.

mod attempt;
mod breaker;
mod broadcast;
mod dead;
mod destinations;
mod dispatch;
mod due;
mod later;
mod order;
mod rate;
mod record;
mod settle;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herald_contract::{Delivery, Event, Outcome, Sink, TypeFilter};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::broker::Broker;
use crate::config::Rate;
use crate::metrics::Metrics;
use crate::store::{Attempt, Store};

use breaker::Breaker;
use destinations::{Aside, Destinations};
use rate::Bucket;

pub use breaker::Limits as BreakerLimits;
pub use broadcast::run as run_broadcast;
pub use destinations::Limits as DestinationLimits;
pub use order::OrderKey;

/// Events that are read from the stream at a time.
const READ: usize = 256;

/// Finished attempts that are recorded in one statement at most.
const RECORD: usize = 512;

/// How long the last outcomes may take to be recorded when the time to drain is over.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);

/// How a sink is driven.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The sink's name: its consumer group and its part of the ledger.
    pub name: String,
    pub types: TypeFilter,
    /// Calls of `deliver` under way at once.
    pub concurrency: usize,
    /// How long one call of `deliver` may take.
    pub attempt_timeout: Duration,
    pub backoff: Backoff,
    /// Attempts before a delivery is dead.
    pub max_attempts: u32,
    /// Attempts in a time.
    pub rate: Option<Rate>,
    pub breaker: BreakerLimits,
    pub destination: DestinationLimits,
    /// How old an event may be when an attempt begins.
    pub expires_after: Option<Duration>,
    /// What keeps deliveries in order, if anything does.
    pub order: Option<OrderKey>,
    /// The tenant whose events tell of dead letters.
    pub dead_letter_tenant: Option<Arc<str>>,
}

/// Whether this process may work for a sink now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// Nothing begins. What was read is kept, and goes on from there.
    Paused,
    /// Another process does the work: nothing begins, and what was read is let go.
    Away,
}

/// One competing sink at work.
pub struct Runner {
    settings: Settings,
    sink: Arc<dyn Sink>,
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    gate: watch::Receiver<Gate>,
    stop: CancellationToken,
    /// Bounds attempts under way.
    permits: Arc<Semaphore>,
    /// Notified when a delivery was put off, so that `due` looks when it must.
    put_off: Notify,
    /// Notified when there is a new dead letter.
    died: Notify,
    attempts: TaskTracker,
    /// Entries between the stream and their acknowledgement. A reader that lost its connection is
    /// handed what it had not acknowledged; what is on its way already is not begun again.
    under_way: Mutex<HashSet<i64>>,
    breaker: Mutex<Breaker>,
    rate: Option<tokio::sync::Mutex<Bucket>>,
    destinations: Arc<Destinations>,
    /// How old an event may be, by the sink and its settings.
    lifetime: Duration,
}

/// A delivery on its way through the runner.
struct Work {
    delivery: Delivery,
    /// Attempts spent before this one.
    spent: u32,
    history: Vec<Attempt>,
    /// The stream's entry that it came from; `None` when it came from the ledger.
    entry: Option<Arc<Entry>>,
    /// Until when the ledger keeps it from the others, if it came from there.
    leased_until: Option<Instant>,
    /// The key of its lane, if it is kept in order.
    order_key: Option<Arc<str>>,
    /// Its room among the sink's attempts, from the attempt until the outcome is in the ledger: so
    /// no more than `concurrency` can have been accepted by the far end and not recorded.
    room: Option<Arc<OwnedSemaphorePermit>>,
}

/// An entry of the stream, acknowledged when the last of its deliveries is recorded.
struct Entry {
    seq: i64,
    open: AtomicUsize,
}

impl Entry {
    /// One delivery less; whether it was the last.
    fn close_one(&self) -> bool {
        self.open.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// What the recorder is told.
enum Done {
    /// An attempt ended, or was not made.
    Attempted {
        work: Work,
        outcome: Outcome,
        /// `None` without an attempt.
        took: Option<Duration>,
    },
    /// Its destination lets it not through now.
    PutAside { work: Work, aside: Aside },
    /// It came too late to be of use.
    Expired(Work),
    /// It is to begin when those before it in its lane are through.
    Lined(Work),
    /// These entries need no delivery.
    Settled(Vec<i64>),
}

impl Done {
    fn unattempted(work: Work, outcome: Outcome) -> Self {
        Self::Attempted {
            work,
            outcome,
            took: None,
        }
    }
}

impl Runner {
    /// `gate` says whether this process may work for the sink now.
    pub fn new(
        settings: Settings,
        sink: Arc<dyn Sink>,
        store: Arc<dyn Store>,
        broker: Arc<dyn Broker>,
        metrics: Arc<Metrics>,
        gate: watch::Receiver<Gate>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(settings.concurrency)),
            breaker: Mutex::new(Breaker::new(settings.breaker)),
            rate: settings
                .rate
                .map(|rate| tokio::sync::Mutex::new(Bucket::new(rate))),
            destinations: Arc::new(Destinations::new(settings.destination)),
            lifetime: settings
                .expires_after
                .into_iter()
                .chain(sink.lifetime())
                .min()
                .unwrap_or(Duration::MAX),
            settings,
            sink,
            store,
            broker,
            metrics,
            gate,
            stop,
            put_off: Notify::new(),
            died: Notify::new(),
            attempts: TaskTracker::new(),
            under_way: Mutex::default(),
        }
    }

    /// Drives the sink until it is stopped. Then nothing new begins, what is under way ends and is
    /// recorded, for at most `drain`.
    pub async fn run(self: Arc<Self>, drain: Duration) {
        let runner = self;
        let (batches, inbox) = mpsc::channel(2);
        let (done, finished) = mpsc::channel(2 * RECORD);
        let read = tokio::spawn(runner.clone().read(batches));
        let recorded = tokio::spawn(runner.clone().record(finished));
        let settle = tokio::spawn(runner.clone().settle());
        let tell = tokio::spawn(runner.clone().tell_of_the_dead());
        tokio::join!(runner.dispatch(inbox, done.clone()), runner.due(done));
        let deadline = Instant::now() + drain;
        runner.attempts.close();
        let name = &runner.settings.name;
        if timeout_at(deadline, runner.attempts.wait()).await.is_err() {
            tracing::warn!(sink = %name, "attempts are still under way; they are made again");
        }
        // The reader may be within a blocking read; nothing waits for what it gets.
        read.abort();
        // The attempts hold the queue's other ends; what they sent is recorded.
        if timeout_at(deadline + RECORDED_WITHIN, recorded)
            .await
            .is_err()
        {
            tracing::warn!(sink = %name, "outcomes could not be recorded; they are made again");
        }
        settle.abort();
        tell.abort();
        runner.settle_once().await;
        let left = deadline.saturating_duration_since(Instant::now());
        runner.sink.drain(left.max(RECORDED_WITHIN)).await;
    }

    /// Reads the stream and hands it on.
    async fn read(self: Arc<Self>, batches: mpsc::Sender<Vec<Arc<Event>>>) {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            if !self.wait_until_open().await {
                return;
            }
            match self.read_while_open(&batches, &mut failures).await {
                Ok(()) => {}
                Err(error) => {
                    failures += 1;
                    self.failed("cannot read the stream", &error);
                    self.pause(Backoff::INTERNAL.after(failures)).await;
                }
            }
        }
    }

    async fn read_while_open(
        &self,
        batches: &mpsc::Sender<Vec<Arc<Event>>>,
        failures: &mut u32,
    ) -> Result<(), crate::broker::BrokerError> {
        let checkpoint = self.store.register_sink(&self.settings.name).await?.seq;
        let mut reader = self
            .broker
            .subscribe(&self.settings.name, checkpoint)
            .await?;
        while !self.stop.is_cancelled() {
            match self.gate() {
                Gate::Open => {}
                Gate::Away => return Ok(()),
                // The reader stays, and keeps from other processes what it has handed out.
                Gate::Paused => {
                    let mut gate = self.gate.clone();
                    tokio::select! {
                        _ = gate.wait_for(|gate| *gate != Gate::Paused) => {}
                        () = self.stop.cancelled() => {}
                    }
                    continue;
                }
            }
            match reader.next(READ).await {
                Ok(events) => {
                    *failures = 0;
                    if !events.is_empty() && batches.send(events).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    *failures += 1;
                    self.failed("cannot read the stream", &error);
                    self.pause(Backoff::INTERNAL.after(*failures)).await;
                }
            }
        }
        Ok(())
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the sink is left alone for a while.
    pub fn breaker_is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// The destinations that are left alone for a while, as this process sees them.
    pub fn open_destinations(&self) -> Vec<Arc<str>> {
        self.destinations.open()
    }

    /// Calls of the sink under way now.
    pub fn in_flight(&self) -> usize {
        self.settings.concurrency - self.permits.available_permits()
    }

    fn gate(&self) -> Gate {
        *self.gate.borrow()
    }

    /// Waits until the sink may work; `false` when it is stopped instead.
    async fn wait_until_open(&self) -> bool {
        let mut gate = self.gate.clone();
        tokio::select! {
            opened = gate.wait_for(|gate| *gate == Gate::Open) => opened.is_ok(),
            () = self.stop.cancelled() => false,
        }
    }

    /// Waits, or ends at once when the sink is stopped.
    async fn pause(&self, wait: Duration) {
        let _ = timeout(wait, self.stop.cancelled()).await;
    }

    fn failed(&self, what: &str, error: &dyn std::error::Error) {
        self.metrics
            .sink_errors
            .with_label_values(&[&self.settings.name])
            .inc();
        tracing::warn!(sink = %self.settings.name, error = %error, "{what}");
    }
}
