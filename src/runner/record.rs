//! From outcomes to the ledger, and only then to the stream's acknowledgement.

use std::sync::Arc;

use chrono::Utc;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::verdict::{Judge, Verdict};
use super::{Done, Entry, RECORD, Runner, Work};
use crate::backoff::Backoff;
use crate::store::{Attempt, Lane, LedgerWrite, State, WaitsFor};

/// Failed attempts that a ledger row remembers.
const HISTORY: usize = 20;

/// Longest cause or answer that is kept, in characters.
const MAX_TEXT: usize = 1000;

/// How often an acknowledgement is tried. An entry that is not acknowledged is handed out again,
/// and the ledger then knows it.
const ACK_TRIES: u32 = 3;

/// An outcome as it goes into the ledger.
struct Recorded {
    write: LedgerWrite,
    label: &'static str,
    work: Work,
}

impl Runner {
    /// Records outcomes in batches until every sender is gone.
    pub(super) async fn record(self: Arc<Self>, mut finished: mpsc::Receiver<Done>) {
        let mut batch = Vec::with_capacity(RECORD);
        while finished.recv_many(&mut batch, RECORD).await > 0 {
            let mut acks = Vec::new();
            let mut records = Vec::with_capacity(batch.len());
            for done in batch.drain(..) {
                match done {
                    Done::Settled(seqs) => acks.extend(seqs),
                    Done::Attempted {
                        work,
                        outcome,
                        took,
                    } => {
                        if let Some(took) = took {
                            self.metrics
                                .attempt_seconds
                                .with_label_values(&[&self.settings.name])
                                .observe(took.as_secs_f64());
                        }
                        let judge = Judge {
                            max_attempts: self.settings.max_attempts,
                            backoff: self.settings.backoff,
                            lifetime: self.lifetime,
                        };
                        let verdict = judge.verdict(outcome, work.spent, work.age());
                        records.push(Self::conclude(work, verdict));
                    }
                    Done::PutAside { work, aside } => {
                        let destination = work.delivery.recipient.destination.as_deref();
                        let left = self.lifetime.saturating_sub(work.age());
                        let verdict = Verdict::put_aside(destination, aside, left);
                        records.push(Self::conclude(work, verdict));
                    }
                    Done::Expired(work) => {
                        let last = work.history.last().map(|attempt| attempt.cause.clone());
                        let verdict = Verdict::expired(self.lifetime, last.as_deref());
                        records.push(Self::conclude(work, verdict));
                    }
                    Done::Lined(work) => {
                        let verdict = Verdict::lined(work.order_key.is_some());
                        records.push(Self::conclude(work, verdict));
                    }
                }
            }
            self.write(&records).await;
            for record in &mut records {
                record.work.room = None;
            }
            self.release(&records).await;
            self.hasten_late_ones(&records);
            for record in records {
                self.count(&record);
                match record.write.state {
                    State::Gone => self.forget(&record.write.recipient).await,
                    State::Dead => self.died.notify_one(),
                    _ => {}
                }
                let last = record.work.entry.filter(|entry| entry.close_one());
                acks.extend(last.map(|entry: Arc<Entry>| entry.seq));
            }
            {
                // Before the acknowledgement: what is handed out once more until then comes
                // through, finds itself in the ledger, and is acknowledged in its turn.
                let mut under_way = self.under_way();
                for seq in &acks {
                    under_way.remove(seq);
                }
            }
            self.acknowledge(&acks).await;
        }
    }

    fn conclude(mut work: Work, verdict: Verdict) -> Recorded {
        let cause = verdict.cause.map(shorten);
        let mut history = std::mem::take(&mut work.history);
        if let (Some(cause), true) = (&cause, verdict.spends) {
            history.push(Attempt {
                at: Utc::now(),
                cause: cause.clone(),
            });
            let surplus = history.len().saturating_sub(HISTORY);
            history.drain(..surplus);
        }
        let event = &work.delivery.event;
        let write = LedgerWrite {
            event_id: event.event_id,
            tenant_id: event.tenant_id.clone(),
            recipient: work.delivery.recipient.key.clone(),
            state: verdict.state,
            attempts: work.spent.saturating_add(verdict.spends.into()),
            retry_in: verdict.wait,
            cause,
            response: verdict.response.map(shorten),
            history,
            destination: work.delivery.recipient.destination.clone(),
            waits_for: verdict.waits_for,
            first: work.entry.is_some(),
            order: work.order_key.clone().map(|key| (key, event.seq)),
        };
        Recorded {
            write,
            label: verdict.label,
            work,
        }
    }

    /// Writes until it is written: nothing is acknowledged before.
    async fn write(&self, records: &[Recorded]) {
        let writes: Vec<LedgerWrite> = records.iter().map(|r| r.write.clone()).collect();
        if writes.is_empty() {
            return;
        }
        let mut failures = 0;
        while let Err(error) = self.store.ledger_record(&self.settings.name, &writes).await {
            failures += 1;
            self.failed("cannot record outcomes", &error);
            sleep(Backoff::INTERNAL.after(failures)).await;
        }
        if writes.iter().any(|write| write.state == State::Pending) {
            self.put_off.notify_one();
        }
    }

    /// A destination may have been found to work again just before its last ones were put aside.
    fn hasten_late_ones(self: &Arc<Self>, records: &[Recorded]) {
        let waiting = records
            .iter()
            .filter(|record| record.write.waits_for == Some(WaitsFor::Destination))
            .filter_map(|record| record.write.destination.clone());
        let mut late: Vec<_> = waiting.collect();
        late.sort_unstable();
        late.dedup();
        if late.is_empty() {
            return;
        }
        let open = self.destinations.open();
        late.retain(|destination| !open.contains(destination));
        if !late.is_empty() {
            let runner = self.clone();
            self.attempts.spawn(async move {
                for destination in late {
                    runner.hasten(&destination).await;
                }
            });
        }
    }

    /// Lets those go that are first in the lanes that changed. What this misses, a sweep finds.
    async fn release(&self, records: &[Recorded]) {
        let changed = records.iter().filter(|record| {
            record.write.state != State::Pending || record.write.waits_for.is_some()
        });
        let mut lanes: Vec<Lane> = changed
            .filter_map(|record| {
                Some(Lane {
                    recipient: record.write.recipient.clone(),
                    key: record.work.order_key.as_deref()?.to_owned(),
                })
            })
            .collect();
        // In one order, so that two processes wait for each other and do not deadlock.
        lanes.sort_unstable();
        lanes.dedup();
        if lanes.is_empty() {
            return;
        }
        match self.store.ledger_release(&self.settings.name, &lanes).await {
            Ok(0) => {}
            Ok(_) => self.put_off.notify_one(),
            Err(error) => self.failed("cannot let go of what waits in order", &error),
        }
    }

    fn count(&self, record: &Recorded) {
        let name = self.settings.name.as_str();
        self.metrics
            .deliveries
            .with_label_values(&[name, record.label])
            .inc();
        if record.write.state == State::Dead {
            let letter = &record.write;
            tracing::warn!(
                sink = name, event = %letter.event_id, attempts = letter.attempts,
                cause = letter.cause.as_deref().unwrap_or_default(), "dead letter"
            );
        }
        if record.write.state == State::Delivered {
            let age = Utc::now() - record.work.delivery.event.created_at;
            self.metrics
                .delivery_seconds
                .with_label_values(&[name])
                .observe(age.as_seconds_f64().max(0.0));
        }
    }

    async fn forget(&self, recipient: &str) {
        if let Err(error) = self.sink.forget(recipient).await {
            // It is gone again at its next event, and forgotten then.
            self.failed("cannot forget an address that is gone", &error);
        }
    }

    async fn acknowledge(&self, seqs: &[i64]) {
        if seqs.is_empty() {
            return;
        }
        for failures in 1..=ACK_TRIES {
            match self.broker.ack(&self.settings.name, seqs).await {
                Ok(()) => return,
                Err(error) => self.failed("cannot acknowledge", &error),
            }
            sleep(Backoff::INTERNAL.after(failures)).await;
        }
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
