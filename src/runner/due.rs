//! From the ledger to deliveries: whatever waits there for its time.

use std::sync::Arc;
use std::time::Duration;

use herald_contract::{Delivery, Recipient};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::destinations::MAX_REMEMBERED;
use super::{Done, Runner, Work};
use crate::broker::BrokerError;
use crate::store::Due;

/// Longest wait between two looks at what is due.
const LOOK: Duration = Duration::from_secs(1);

/// Between two looks where what is due may not begin yet.
const SOON: Duration = Duration::from_millis(20);

/// What is due within this time is taken in one look.
const GATHER: Duration = Duration::from_millis(50);

/// How often it is looked for what a crash left waiting: in lanes, and for destinations.
const SWEEP: Duration = Duration::from_secs(60);

/// For rows whose time had come when a look took all that were due, and that it did not see: they
/// were being written. Whatever comes later still, the look after a sweep finds.
const UNSEEN: Duration = Duration::from_secs(10);

/// Longer than any attempt that may be under way when the lease begins, twice.
const LEASE: Duration = Duration::from_secs(30);

impl Runner {
    /// Makes deliveries of what is due in the ledger.
    pub(super) async fn due(self: &Arc<Self>, done: mpsc::Sender<Done>) {
        let mut sweep_at = Instant::now();
        let mut all_taken = None;
        while self.wait_until_open().await {
            if sweep_at <= Instant::now() {
                sweep_at = Instant::now() + SWEEP;
                all_taken = None;
                self.sweep().await;
            }
            let wait = match self.begin_due(&done, &mut all_taken).await {
                Ok(wait) => wait,
                Err(error) => {
                    self.failed("cannot read what is due", &error);
                    LOOK
                }
            };
            if wait.is_zero() {
                continue;
            }
            tokio::select! {
                _ = timeout(wait, self.put_off.notified()) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Begins what is due and has room; how long until there may be more. `all_taken` is when all
    /// that was due was taken last.
    async fn begin_due(
        self: &Arc<Self>,
        done: &mpsc::Sender<Done>,
        all_taken: &mut Option<Instant>,
    ) -> Result<Duration, BrokerError> {
        let name = &self.settings.name;
        // No more than can begin soon, or their lease would run out in our queue.
        let mut room = self.permits.available_permits() * self.sink.batch().max(1);
        if let Some(from) = self.breaker().closed_from(Instant::now()) {
            let wait = from.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                return Ok(wait.min(LOOK));
            }
            room = room.min(1);
        }
        if room == 0 {
            return Ok(SOON);
        }
        // And no more than the rate lets through soon, or it would run out in waiting.
        if let Some(rate) = &self.rate {
            room = room.min(rate.lock().await.within(LOOK, Instant::now()));
            if room == 0 {
                return Ok(LOOK / 2);
            }
        }
        let now = Instant::now();
        // What waits in a lane may be let go by others long after its time has come.
        let unordered = self.settings.order.is_none();
        let taken = all_taken.filter(|_| unordered);
        let within = taken.map(|taken| now - taken + UNSEEN);
        let wait = self.store.ledger_wait(name, within).await?;
        if wait != Some(Duration::ZERO) {
            return Ok(wait.unwrap_or(LOOK).clamp(GATHER, LOOK));
        }
        let mut upto = None;
        if self.settings.order.is_some() {
            // Everything up to there is in the ledger, whichever process put it there.
            upto = self.broker.settled(name).await?;
            if upto.is_none() {
                return Ok(LOOK);
            }
        }
        let lease = self.settings.attempt_timeout * 2 + LEASE;
        let leased_until = Instant::now() + lease - self.settings.attempt_timeout;
        let due = self.store.ledger_due(name, lease, room, upto, within);
        let due = due.await?;
        if due.len() < room {
            *all_taken = Some(now);
        }
        if due.is_empty() {
            return Ok(SOON);
        }
        let works = due
            .into_iter()
            .map(|due| Work::from_ledger(due, leased_until));
        self.begin(works.collect(), done).await;
        Ok(Duration::ZERO)
    }

    async fn sweep(&self) {
        let name = &self.settings.name;
        if let Err(error) = self.store.ledger_release_all(name).await {
            self.failed("cannot look through what waits in order", &error);
        }
        match self.store.ledger_awaited(name, MAX_REMEMBERED).await {
            Ok(awaited) => {
                for destination in awaited {
                    if self.destinations.await_news(&destination) {
                        self.send_scout(&destination, Instant::now()).await;
                    }
                }
            }
            Err(error) => self.failed("cannot look through what waits for destinations", &error),
        }
    }
}

impl Work {
    fn from_ledger(due: Due, leased_until: Instant) -> Self {
        Self {
            delivery: Delivery {
                event: due.event,
                recipient: Recipient {
                    destination: due.destination,
                    ..Recipient::new(due.recipient)
                },
                attempt: due.attempts.saturating_add(1),
            },
            spent: due.attempts,
            history: due.history,
            entry: None,
            leased_until: Some(leased_until),
            order_key: due.order_key,
            room: None,
        }
    }
}
