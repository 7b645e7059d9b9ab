//! Attempts: calls of the sink, bounded in number, rate and time.
//!
//! Before an attempt begins, in this order:
//!
//! 1. the sink is not paused, and its breaker and its rate let it through, else it waits, and with
//!    it the stream;
//! 2. its destination lets it in, else it is put aside in the ledger and the next one's turn comes;
//! 3. there is room among the sink's attempts;
//! 4. it is still of use, and still this process's to make: a process that was stopped for a while
//!    or cut off finds that another has taken its work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use herald_contract::{Delivery, Outcome, Scope};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::breaker::Pass;
use super::destinations::{Change, Report, Visit};
use super::{Done, Gate, Runner, Work};
use crate::broker::Hold;

/// Between two looks at whether the broker can be asked again.
const LOOK: Duration = Duration::from_millis(20);

/// Deliveries that are made due in one statement, when their destination works again.
const HASTEN: usize = 1_000;

/// What became of a work on its way to an attempt.
enum Way {
    Free(Work, Option<Visit>),
    /// It was put aside, or is another process's.
    Elsewhere,
    Stopped(Work),
}

/// Leaves what has not begun to the next process: an entry stays unacknowledged, and what was
/// taken from the ledger is due again.
async fn give_back(works: impl Iterator<Item = Work>, done: &mpsc::Sender<Done>) {
    for work in works.filter(|work| work.entry.is_none() && work.is_leased()) {
        let outcome = Outcome::Defer {
            until: Utc::now(),
            cause: "herald stopped before the attempt".to_owned(),
        };
        let _ = done.send(Done::unattempted(work, outcome)).await;
    }
}

impl Work {
    /// Whether nobody else takes it from the ledger yet.
    fn is_leased(&self) -> bool {
        self.leased_until.is_none_or(|until| Instant::now() < until)
    }

    /// How old the event is.
    pub(super) fn age(&self) -> Duration {
        let age = Utc::now() - self.delivery.event.created_at;
        age.to_std().unwrap_or_default()
    }
}

impl Runner {
    /// Begins an attempt at each work as soon as it may, in their order.
    pub(super) async fn begin(self: &Arc<Self>, works: Vec<Work>, done: &mpsc::Sender<Done>) {
        let size = self.sink.batch().max(1);
        let mut works = VecDeque::from(works);
        loop {
            let mut batch = Vec::new();
            while batch.len() < size
                && let Some(work) = works.pop_front()
            {
                match self.clear_the_way(work, done).await {
                    Way::Free(work, visit) => batch.push((work, visit)),
                    Way::Elsewhere => {}
                    Way::Stopped(work) => {
                        let batch = batch.into_iter().map(|(work, _)| work);
                        return give_back(batch.chain([work]).chain(works), done).await;
                    }
                }
            }
            if batch.is_empty() {
                return;
            }
            let permit = tokio::select! {
                permit = self.permits.clone().acquire_owned() => permit,
                () = self.stop.cancelled() => {
                    let batch = batch.into_iter().map(|(work, _)| work);
                    return give_back(batch.chain(works), done).await;
                }
            };
            let Ok(permit) = permit else { return };
            let mut still = Vec::with_capacity(batch.len());
            for (work, visit) in batch.into_iter().rev() {
                match self.hold(&work) {
                    Hold::Lost => self.lose(&work),
                    // It waits with no place in hand, and comes before the others.
                    Hold::Unsure => works.push_front(work),
                    Hold::Firm => still.extend(
                        self.still_of_use(work, done)
                            .await
                            .map(|work| (work, visit)),
                    ),
                }
            }
            still.reverse();
            if still.is_empty() {
                continue;
            }
            let (runner, done, room) = (self.clone(), done.clone(), Arc::new(permit));
            self.attempts.spawn(async move {
                let began = Instant::now();
                let (batch, visits): (Vec<Work>, Vec<_>) = still.into_iter().unzip();
                let outcomes = runner.attempt(&batch).await;
                let took = began.elapsed();
                for ((mut work, visit), outcome) in batch.into_iter().zip(visits).zip(outcomes) {
                    runner.report(visit, &outcome, took);
                    work.room = Some(room.clone());
                    let attempted = Done::Attempted {
                        work,
                        outcome,
                        took: Some(took),
                    };
                    let _ = done.send(attempted).await;
                }
            });
        }
    }

    /// Waits while the sink is paused, for its breaker and its rate, and for a place at the
    /// destination.
    async fn clear_the_way(&self, work: Work, done: &mpsc::Sender<Done>) -> Way {
        if !self.wait_while_paused().await
            || !self.wait_until_sure(&work).await
            || !self.wait_for_breaker().await
        {
            return Way::Stopped(work);
        }
        if self.gate() == Gate::Away {
            self.let_go(work, done).await;
            return Way::Elsewhere;
        }
        if !work.is_leased() {
            return Way::Elsewhere;
        }
        let visit = match &work.delivery.recipient.destination {
            None => None,
            Some(destination) => match self.destinations.enter(destination).await {
                Ok(visit) => Some(visit),
                Err(aside) => {
                    let _ = done.send(Done::PutAside { work, aside }).await;
                    return Way::Elsewhere;
                }
            },
        };
        match self.wait_for_rate(&work).await {
            Some(true) if self.wait_while_paused().await => Way::Free(work, visit),
            Some(false) => Way::Elsewhere,
            _ => Way::Stopped(work),
        }
    }

    /// Another process does the work now.
    async fn let_go(&self, work: Work, done: &mpsc::Sender<Done>) {
        self.lose(&work);
        give_back([work].into_iter(), done).await;
    }

    /// `false` when the sink is stopped first.
    async fn wait_while_paused(&self) -> bool {
        let mut gate = self.gate.clone();
        tokio::select! {
            _ = gate.wait_for(|gate| *gate != Gate::Paused) => !self.stop.is_cancelled(),
            () = self.stop.cancelled() => false,
        }
    }

    /// `false` when the sink is stopped first.
    async fn wait_for_breaker(&self) -> bool {
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            let pass = self.breaker().ask(Instant::now());
            match pass {
                Pass::Go => return true,
                // It may be closed sooner, by an attempt that was under way.
                Pass::Wait(until) => {
                    let until = until.min(Instant::now() + Duration::from_millis(200));
                    let _ = timeout_at(until, self.stop.cancelled()).await;
                }
            }
        }
    }

    /// `None` when the sink is stopped first; `Some(false)` when the work's lease is over, and
    /// takes nothing of the rate then.
    async fn wait_for_rate(&self, work: &Work) -> Option<bool> {
        while !self.stop.is_cancelled() {
            if !work.is_leased() {
                return Some(false);
            }
            let Some(rate) = &self.rate else {
                return Some(true);
            };
            let taken = rate.lock().await.take(Instant::now());
            match taken {
                Ok(()) => return Some(true),
                Err(until) => {
                    let until = work.leased_until.unwrap_or(until).min(until);
                    let _ = timeout_at(until, self.stop.cancelled()).await;
                }
            }
        }
        None
    }

    /// Whose the work is.
    fn hold(&self, work: &Work) -> Hold {
        match &work.entry {
            Some(entry) => self.broker.hold(&self.settings.name, entry.seq),
            // It is due again when the lease is over.
            None if work.is_leased() => Hold::Firm,
            None => Hold::Lost,
        }
    }

    /// Waits until it is sure whose the work is; `false` when the sink is stopped first.
    async fn wait_until_sure(&self, work: &Work) -> bool {
        while self.hold(work) == Hold::Unsure {
            if timeout(LOOK, self.stop.cancelled()).await.is_ok() {
                return false;
            }
        }
        true
    }

    /// Another process has the work by now.
    fn lose(&self, work: &Work) {
        if let Some(entry) = &work.entry {
            self.under_way().remove(&entry.seq);
        }
    }

    /// Settles what comes too late to be of use.
    async fn still_of_use(&self, work: Work, done: &mpsc::Sender<Done>) -> Option<Work> {
        if work.age() <= self.lifetime {
            return Some(work);
        }
        let _ = done.send(Done::Expired(work)).await;
        None
    }

    /// Tells the breakers what came of an attempt.
    fn report(self: &Arc<Self>, visit: Option<Visit>, outcome: &Outcome, took: Duration) {
        use Report::{Fails, Nothing, Works};
        let (sink, destination) = match outcome {
            Outcome::Delivered { .. } | Outcome::Reject { .. } | Outcome::Gone { .. } => {
                (Works, Works)
            }
            Outcome::Skipped { .. } | Outcome::Defer { .. } => (Nothing, Nothing),
            Outcome::Retry { scope, .. } => match scope {
                Scope::Recipient => (Works, Works),
                Scope::Destination if visit.is_some() => (Nothing, Fails),
                Scope::Destination | Scope::Sink => (Fails, Nothing),
            },
        };
        let name = &self.settings.name;
        match sink {
            Works if self.breaker().succeeded() => {
                tracing::info!(sink = %name, "it works again");
                self.put_off.notify_one();
            }
            Fails if self.breaker().failed(Instant::now()) => {
                tracing::warn!(sink = %name, "everything fails: left alone for a while");
            }
            _ => {}
        }
        let Some(visit) = visit else { return };
        let there = visit.destination().clone();
        match visit.end(destination, took) {
            Some(Change::Opened) => {
                tracing::warn!(sink = %name, destination = %there, "left alone for a while");
            }
            Some(Change::StaysOpen(until)) => {
                let runner = self.clone();
                self.attempts
                    .spawn(async move { runner.send_scout(&there, until).await });
            }
            Some(Change::Closed) => {
                tracing::info!(sink = %name, destination = %there, "it works again");
                let runner = self.clone();
                self.attempts
                    .spawn(async move { runner.hasten(&there).await });
            }
            None => {}
        }
    }

    /// Has one of those that wait for a destination find out whether it works again. One that
    /// found out in vain comes back in its own time, perhaps much later.
    pub(super) async fn send_scout(&self, destination: &str, until: Instant) {
        let name = &self.settings.name;
        let wait = until.saturating_duration_since(Instant::now());
        match self.store.ledger_hasten(name, destination, wait, 1).await {
            Ok(_) => self.put_off.notify_one(),
            Err(error) => self.failed("cannot send one to find out", &error),
        }
    }

    /// Makes due what waits for a destination that works again: called when that is found out, and
    /// for what was recorded after that. What this misses comes in its turn.
    pub(super) async fn hasten(&self, destination: &str) {
        let name = &self.settings.name;
        while !self.stop.is_cancelled() {
            let hastened = self
                .store
                .ledger_hasten(name, destination, Duration::ZERO, HASTEN);
            match hastened.await {
                Ok(hastened) => {
                    self.put_off.notify_one();
                    if hastened < HASTEN as u64 {
                        return;
                    }
                }
                Err(error) => return self.failed("cannot hasten what waited", &error),
            }
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
        vec![Outcome::retry(Scope::Destination, cause); count]
    }
}
