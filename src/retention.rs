//! Deletes what has had its time: in the process that leads the relay, a little at a time.
//!
//! ```text
//! Standby ──leads──▶ Look ──nothing to delete──▶ Look, a while later
//!    ▲                │ ▲
//!    └──lead lost─────┤ └──waits nine times what the deletion took──┐
//!                     └──a portion was deleted─────────────────────┘
//! ```
//!
//! Leading saves work only: the store lets one at a time delete, and none skips what must stay.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::store::{Expiry, HeldBy, Portion, Store, StoreError};

/// What one transaction deletes at most. It takes some tens of milliseconds, which is how long
/// SQLite's other writers wait.
const PORTION: Portion = Portion {
    events: 1_000,
    deliveries: 4_000,
};

/// After a deletion, how many times what it took is waited: a tenth of the time goes to deleting.
const REST: u32 = 9;

/// Between two looks when nothing is to be deleted: a twentieth of the time that events are kept,
/// within these bounds.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(60);
const LOOK_SHARE: u32 = 20;

/// What deletes.
pub struct Housekeeper {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub expiry: Expiry,
    /// Whether this process leads the relay.
    pub leading: watch::Receiver<bool>,
    pub stop: CancellationToken,
}

impl Housekeeper {
    /// Works whenever this process leads, until it is stopped: between two portions, since a
    /// transaction that is cut off is undone.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = self.work() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn work(&mut self) {
        let look_every = (self.expiry.events / LOOK_SHARE).clamp(LOOK_MIN, LOOK_MAX);
        let mut failures = 0;
        let mut told = None;
        // An error means that whoever led is gone, and so is this process soon.
        while self.leading.wait_for(|leads| *leads).await.is_ok() {
            let began = Instant::now();
            let wait = match self.delete().await {
                Ok(true) => (began.elapsed() * REST).min(LOOK_MAX),
                Ok(false) => {
                    failures = 0;
                    if let Err(error) = self.tell(&mut told, look_every).await {
                        tracing::warn!(error = %error, "retention: cannot look at what is kept");
                    }
                    look_every
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(error = %error, "retention: cannot delete");
                    Backoff::INTERNAL.after(failures)
                }
            };
            sleep(wait).await;
        }
    }

    /// Deletes a portion. Whether there is more.
    async fn delete(&self) -> Result<bool, StoreError> {
        let expired = self.store.expire(&self.expiry, PORTION).await?;
        for (what, count) in [
            ("events", expired.events),
            ("deliveries", expired.deliveries),
        ] {
            self.metrics
                .retention_deleted
                .with_label_values(&[what])
                .inc_by(count);
        }
        if expired.events > 0 {
            tracing::debug!(
                events = expired.events,
                deliveries = expired.deliveries,
                "retention: deleted what has had its time"
            );
        }
        Ok(expired.more)
    }

    /// Says what holds the oldest event, if its time is up: in the metrics each time, in the log
    /// when that changes. What has been up since the last look only needs no telling.
    async fn tell(
        &self,
        told: &mut Option<HeldBy>,
        look_every: Duration,
    ) -> Result<(), StoreError> {
        let overdue = self.store.overdue(&self.expiry).await?;
        let by = overdue.as_ref().map_or(Duration::ZERO, |event| event.by);
        self.metrics.retention_overdue_seconds.set(by.as_secs_f64());
        match overdue {
            Some(event) if event.by > look_every => {
                if let Some(held_by) = event.held_by.filter(|by| told.as_ref() != Some(by)) {
                    tracing::warn!(
                        event_id = %event.event_id,
                        "retention: nothing more is deleted, since {held_by}"
                    );
                    *told = Some(held_by);
                }
            }
            _ => *told = None,
        }
        Ok(())
    }
}
