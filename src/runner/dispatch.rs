//! From events to deliveries: who is to learn of them, and who has already.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use herald_contract::{Delivery, Event, Outcome, Recipient, Recipients};
use tokio::sync::mpsc;
use ulid::Ulid;

use super::{Done, Entry, Runner, Work};
use crate::backoff::Backoff;

/// The ledger's recipient of an event whose recipients cannot be found out.
const UNKNOWN: &str = "(unknown)";

/// Longest key of a recipient, in bytes.
const MAX_KEY: usize = 512;

impl Runner {
    /// Makes deliveries of what the reader hands on.
    pub(super) async fn dispatch(
        self: &Arc<Self>,
        mut inbox: mpsc::Receiver<Vec<Arc<Event>>>,
        done: mpsc::Sender<Done>,
    ) {
        loop {
            let batch = tokio::select! {
                batch = inbox.recv() => batch,
                () = self.stop.cancelled() => None,
            };
            let Some(mut events) = batch else { return };
            events.retain(|event| self.under_way().insert(event.seq));
            let (wanted, unwanted): (Vec<_>, Vec<_>) = events
                .into_iter()
                .partition(|event| self.settings.types.matches(&event.kind));
            if !unwanted.is_empty() {
                let seqs = unwanted.iter().map(|event| event.seq).collect();
                let _ = done.send(Done::Settled(seqs)).await;
            }
            if wanted.is_empty() {
                continue;
            }
            // Until both answer there is nothing to go on with: the stream waits.
            let Some(recipients) = self.until_stopped(|| self.sink.recipients(&wanted)).await
            else {
                return;
            };
            let ids: Vec<Ulid> = wanted.iter().map(|event| event.event_id).collect();
            let Some(known) = self
                .until_stopped(|| self.store.ledger_known(&self.settings.name, &ids))
                .await
            else {
                return;
            };
            let known = known.into_iter().collect();
            let (works, settled) = self.plan(wanted, recipients, &known, &done).await;
            if !settled.is_empty() {
                let _ = done.send(Done::Settled(settled)).await;
            }
            if self.settings.order.is_none() {
                self.begin(works, &done).await;
                continue;
            }
            for work in works {
                let _ = done.send(Done::Lined(work)).await;
            }
        }
    }

    /// One work for each recipient that the ledger does not know; and the entries without any.
    async fn plan(
        &self,
        events: Vec<Arc<Event>>,
        recipients: Vec<Recipients>,
        known: &HashSet<(Ulid, String)>,
        done: &mpsc::Sender<Done>,
    ) -> (Vec<Work>, Vec<i64>) {
        let mut works = Vec::new();
        let mut settled = Vec::new();
        for (event, recipients) in events.into_iter().zip(recipients) {
            let (recipients, cause) = match recipients {
                Ok(recipients) => (recipients, None),
                Err(cause) => (vec![Recipient::new(UNKNOWN)], Some(cause)),
            };
            let mut seen = HashSet::new();
            let new: Vec<Recipient> = recipients
                .into_iter()
                .filter(|r| seen.insert(r.key.clone()))
                .filter(|r| !known.contains(&(event.event_id, r.key.clone())))
                .collect();
            if new.is_empty() {
                settled.push(event.seq);
                continue;
            }
            let order_key = self.settings.order.as_ref().and_then(|key| key.of(&event));
            let entry = Arc::new(Entry {
                seq: event.seq,
                open: AtomicUsize::new(new.len()),
            });
            for recipient in new {
                let cause = cause.clone().or_else(|| unusable(&recipient.key));
                let work = Work {
                    delivery: Delivery {
                        event: event.clone(),
                        recipient,
                        attempt: 1,
                    },
                    spent: 0,
                    history: Vec::new(),
                    entry: Some(entry.clone()),
                    leased_until: None,
                    order_key: order_key.clone(),
                    room: None,
                };
                match cause {
                    None => works.push(work),
                    Some(cause) => self.refuse(work, cause, done).await,
                }
            }
        }
        (works, settled)
    }

    /// A dead letter without an attempt.
    async fn refuse(&self, mut work: Work, cause: String, done: &mpsc::Sender<Done>) {
        let key = &mut work.delivery.recipient.key;
        *key = key.chars().filter(|c| !c.is_control()).take(100).collect();
        if key.is_empty() {
            key.push_str(UNKNOWN);
        }
        let refused = Done::unattempted(work, Outcome::Reject { cause });
        let _ = done.send(refused).await;
    }

    /// Asks until there is an answer; `None` when the sink is stopped first.
    async fn until_stopped<T, E, F>(&self, mut ask: impl FnMut() -> F) -> Option<T>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    failures += 1;
                    self.failed("cannot find out the recipients", &error);
                    self.pause(Backoff::INTERNAL.after(failures)).await;
                }
            }
        }
        None
    }
}

/// Why a recipient's key cannot stand in the ledger.
fn unusable(key: &str) -> Option<String> {
    if key.is_empty() || key.len() > MAX_KEY || key.contains(char::is_control) {
        Some(format!(
            "the recipient is not 1 to {MAX_KEY} bytes without control characters"
        ))
    } else {
        None
    }
}
