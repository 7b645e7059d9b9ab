//! Looks after the whole once a second: which sinks may work, whether the epoch is still the same,
//! what the gauges say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::http::{AtWork, Health, SinkHandle};
use crate::metrics::Metrics;
use crate::runner::Gate;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(1);

/// Between two counts of the ledger and the outbox, which cost more than a look.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Counts take at most one part of so many of the time, so that others do not notice them, however
/// much there is to be counted.
const COUNT_SHARE: u32 = 400;

/// Ticks between two questions to a sink's far end.
const HEALTH_EVERY: u64 = 15;

/// How long a far end may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is looked after.
pub struct Monitor {
    /// The epoch of the feed that this process works in.
    pub epoch: String,
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub sinks: Vec<Arc<SinkHandle>>,
    /// Events handed to clients that are in the metrics already, by sink.
    pub counted: HashMap<String, u64>,
    /// For each competing sink of this process, whether it may work.
    pub gates: HashMap<String, watch::Sender<Gate>>,
    /// Whether this process leads the relay; `None` where competing sinks need not care, because
    /// the broker keeps groups apart between processes.
    pub only_while: Option<watch::Receiver<bool>>,
    /// Cancelled from outside, or by the monitor when another epoch has begun.
    pub stop: CancellationToken,
}

impl Monitor {
    pub async fn run(mut self) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let mut ticks = 0_u64;
        let mut count_at = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
                () = self.lead_changed() => {}
            }
            if let Err(error) = self.look(&mut count_at).await {
                tracing::warn!(error = %error, "the store cannot be looked at");
            }
            if ticks.is_multiple_of(HEALTH_EVERY) {
                self.ask_far_ends().await;
            }
            ticks += 1;
        }
    }

    /// Ends when this process begins or ends to lead, if that matters.
    async fn lead_changed(&mut self) {
        let Some(leading) = &mut self.only_while else {
            return std::future::pending().await;
        };
        if leading.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn look(&mut self, count_at: &mut Instant) -> Result<(), StoreError> {
        let head = self.store.feed_head().await?;
        if self.epoch != head.epoch {
            tracing::warn!(epoch = %head.epoch, "another epoch of the feed has begun: beginning anew");
            self.stop.cancel();
            return Ok(());
        }
        self.metrics.feed_seq.set(head.seq);
        self.metrics.feed_oldest_seq.set(head.expired + 1);
        let allowed = self.only_while.as_ref().is_none_or(|lead| *lead.borrow());
        for (name, checkpoint) in self.store.checkpoints().await? {
            let labels = [name.as_str()];
            let Some(gate) = self.gates.get(&name) else {
                continue;
            };
            let now = match (allowed, checkpoint.paused) {
                (false, _) => Gate::Away,
                (true, true) => Gate::Paused,
                (true, false) => Gate::Open,
            };
            gate.send_if_modified(|gate| std::mem::replace(gate, now) != now);
            let lag = (head.seq - checkpoint.seq).max(0);
            self.metrics
                .sink_checkpoint_seq
                .with_label_values(&labels)
                .set(checkpoint.seq);
            self.metrics.sink_lag.with_label_values(&labels).set(lag);
        }
        for sink in &self.sinks {
            if let AtWork::Competing { runner, .. } = &sink.at_work {
                let labels = [sink.name.as_str()];
                let (open, destinations) = (runner.breaker_is_open(), runner.open_destinations());
                self.metrics
                    .breaker_open
                    .with_label_values(&labels)
                    .set(open.into());
                self.metrics
                    .open_destinations
                    .with_label_values(&labels)
                    .set(i64::try_from(destinations.len()).unwrap_or(i64::MAX));
            }
            if let AtWork::Broadcast(at_work) = &sink.at_work {
                let (labels, stats) = ([sink.name.as_str()], at_work.stats());
                self.metrics
                    .stream_clients
                    .with_label_values(&labels)
                    .set(stats.clients.cast_signed());
                let counted = self.counted.entry(sink.name.clone()).or_default();
                let new = stats.events - std::mem::replace(counted, stats.events);
                let handed = self.metrics.stream_events.with_label_values(&labels);
                handed.inc_by(new);
            }
        }
        let began = Instant::now();
        if began >= *count_at {
            self.count().await?;
            *count_at = began + COUNT_EVERY.max(began.elapsed() * COUNT_SHARE);
        }
        Ok(())
    }

    async fn count(&self) -> Result<(), StoreError> {
        let backlog = self.store.backlog().await?;
        self.metrics.outbox_pending.set(backlog.pending);
        self.metrics
            .outbox_oldest_seconds
            .set(backlog.oldest.as_secs_f64());
        let counts: HashMap<_, _> = self.store.sink_counts().await?.into_iter().collect();
        let vitals = self.store.vitals().await?;
        self.metrics
            .store_oldest_xmin_age
            .set(vitals.oldest_xmin_age);
        let oldest: HashMap<_, _> = vitals.oldest_pending.into_iter().collect();
        for name in self.gates.keys() {
            let (labels, counts) = (
                [name.as_str()],
                counts.get(name).copied().unwrap_or_default(),
            );
            let oldest = oldest.get(name).copied().unwrap_or_default();
            self.metrics
                .retrying_oldest_seconds
                .with_label_values(&labels)
                .set(oldest.as_secs_f64());
            self.metrics
                .retrying
                .with_label_values(&labels)
                .set(counts.retrying);
            self.metrics
                .dead
                .with_label_values(&labels)
                .set(counts.dead);
        }
        Ok(())
    }

    async fn ask_far_ends(&self) {
        for handle in &self.sinks {
            if let AtWork::Competing { sink, health, .. } = &handle.at_work {
                let (sink, health) = (sink.clone(), health.clone());
                tokio::spawn(async move {
                    let answer = match tokio::time::timeout(PATIENCE, sink.health()).await {
                        Ok(answer) => answer,
                        Err(_) => Err("no answer".to_owned()),
                    };
                    health.send_replace(Health::Asked(answer));
                });
            }
        }
    }
}
