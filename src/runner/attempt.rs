//! Attempts: calls of the sink, bounded in number and time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use herald_contract::{Delivery, Outcome};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Done, Runner, Work};

/// Leaves what has not begun to the next process: an entry stays unacknowledged, and what was
/// taken from the ledger is due again.
async fn give_back(works: impl Iterator<Item = Work>, done: &mpsc::Sender<Done>) {
    for work in works.filter(|work| work.entry.is_none()) {
        let put_back = Done::Attempted {
            work,
            outcome: Outcome::Defer {
                until: Utc::now(),
                cause: "herald stopped before the attempt".to_owned(),
            },
            took: Duration::ZERO,
        };
        let _ = done.send(put_back).await;
    }
}

impl Runner {
    /// Begins an attempt at each work as soon as there is room, in their order.
    pub(super) async fn begin(self: &Arc<Self>, works: Vec<Work>, done: &mpsc::Sender<Done>) {
        let size = self.sink.batch().max(1);
        let mut works = works.into_iter();
        loop {
            let batch: Vec<Work> = works.by_ref().take(size).collect();
            if batch.is_empty() {
                return;
            }
            let permit = tokio::select! {
                permit = self.permits.clone().acquire_owned() => permit,
                () = self.stop.cancelled() => {
                    return give_back(batch.into_iter().chain(works), done).await;
                }
            };
            let Ok(permit) = permit else { return };
            let (runner, done) = (self.clone(), done.clone());
            self.attempts.spawn(async move {
                let began = Instant::now();
                let outcomes = runner.attempt(&batch).await;
                drop(permit);
                let took = began.elapsed();
                for (work, outcome) in batch.into_iter().zip(outcomes) {
                    let attempted = Done::Attempted {
                        work,
                        outcome,
                        took,
                    };
                    let _ = done.send(attempted).await;
                }
            });
        }
    }

    /// One call of the sink. A sink that hangs, panics or miscounts costs a retry, not the runner.
    async fn attempt(&self, batch: &[Work]) -> Vec<Outcome> {
        let deliveries: Vec<Delivery> = batch.iter().map(|work| work.delivery.clone()).collect();
        let count = deliveries.len();
        let sink = self.sink.clone();
        let call = tokio::spawn(async move { sink.deliver(&deliveries).await });
        let abort = call.abort_handle();
        let cause = match timeout(self.settings.attempt_timeout, call).await {
            Ok(Ok(outcomes)) if outcomes.len() == count => return outcomes,
            Ok(Ok(outcomes)) => {
                format!("the sink answered {} of {count} deliveries", outcomes.len())
            }
            Ok(Err(failed)) => format!("the sink failed: {failed}"),
            Err(_) => {
                abort.abort();
                format!(
                    "no answer within {}",
                    humantime::format_duration(self.settings.attempt_timeout)
                )
            }
        };
        vec![Outcome::retry(cause); count]
    }
}
