//! The stream of one machine: keeps nothing, reads the feed, and is woken in process.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::Event;
use tokio::sync::watch;

use super::{Broker, BrokerError, Reader};
use crate::store::{LedgerRow, Store, Witness};

/// How long a reader waits for a wake before it looks at the feed by itself: the relay may run
/// in another process.
const LOOK: Duration = Duration::from_millis(200);

/// Reads the feed. Its groups live in this process, so competing sinks must run in one process:
/// the one whose relay leads.
pub struct Embedded {
    store: Arc<dyn Store>,
    fed: watch::Sender<i64>,
    groups: Groups,
    /// The furthest event that any reader has read.
    read: Arc<Mutex<Option<Witness>>>,
}

type Groups = Arc<Mutex<HashMap<String, Group>>>;

/// What a group has handed out.
#[derive(Debug, Default)]
struct Group {
    /// The last `seq` handed out.
    last: i64,
    /// Handed out and not acknowledged.
    open: BTreeSet<i64>,
}

impl Group {
    fn settled(&self) -> i64 {
        self.open.first().map_or(self.last, |first| first - 1)
    }
}

impl Embedded {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            fed: watch::Sender::new(0),
            groups: Arc::default(),
            read: Arc::default(),
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<String, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, last: i64, group: Option<&str>) -> Box<dyn Reader> {
        Box::new(FeedReader {
            store: self.store.clone(),
            fed: self.fed.subscribe(),
            last,
            read: self.read.clone(),
            group: group.map(|name| (name.to_owned(), self.groups.clone())),
        })
    }
}

#[async_trait]
impl Broker for Embedded {
    /// The feed is the stream.
    async fn head(&self) -> Result<Option<i64>, BrokerError> {
        Ok(Some(self.store.feed_head().await?.seq))
    }

    async fn witness(&self) -> Result<Option<Witness>, BrokerError> {
        Ok(*self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn append(&self, events: &[Arc<Event>]) -> Result<(), BrokerError> {
        if let Some(last) = events.last() {
            self.wake(last.seq);
        }
        Ok(())
    }

    fn wake(&self, seq: i64) {
        self.fed.send_replace(seq);
    }

    /// Begins at the checkpoint, or further on where the group has settled more in this process:
    /// what an earlier reader left unacknowledged is handed out again.
    async fn subscribe(
        &self,
        group: &str,
        checkpoint: i64,
    ) -> Result<Box<dyn Reader>, BrokerError> {
        let mut groups = self.groups();
        let state = groups.entry(group.to_owned()).or_default();
        state.last = state.settled().max(checkpoint);
        state.open.clear();
        let last = state.last;
        drop(groups);
        Ok(self.reader(last, Some(group)))
    }

    async fn follow(&self, seq: i64) -> Result<Box<dyn Reader>, BrokerError> {
        Ok(self.reader(seq, None))
    }

    async fn ack(&self, group: &str, seqs: &[i64]) -> Result<(), BrokerError> {
        if let Some(state) = self.groups().get_mut(group) {
            for seq in seqs {
                state.open.remove(seq);
            }
        }
        Ok(())
    }

    async fn settled(&self, group: &str) -> Result<Option<i64>, BrokerError> {
        Ok(self.groups().get(group).map(Group::settled))
    }

    async fn trim(&self, _settled: i64) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Nobody can listen but the ledger, which has them.
    async fn dead_letters(&self, _letters: &[LedgerRow]) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

struct FeedReader {
    store: Arc<dyn Store>,
    fed: watch::Receiver<i64>,
    last: i64,
    read: Arc<Mutex<Option<Witness>>>,
    group: Option<(String, Groups)>,
}

#[async_trait]
impl Reader for FeedReader {
    async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        // Marked before the feed is read, so that a wake during the read is not missed.
        let known = *self.fed.borrow_and_update();
        let mut events = self.store.feed(self.last, max).await?;
        if events.is_empty() && known <= self.last {
            // An error means that the broker is gone, and so is this reader soon.
            let _ = tokio::time::timeout(LOOK, self.fed.changed()).await;
            events = self.store.feed(self.last, max).await?;
        }
        let Some(last) = events.last() else {
            return Ok(events);
        };
        if let Some((name, groups)) = &self.group {
            let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
            let state = groups.entry(name.clone()).or_default();
            state.open.extend(events.iter().map(|e| e.seq));
            state.last = last.seq;
        }
        self.last = last.seq;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.is_none_or(|witness| witness.seq < last.seq) {
            *read = Some(Witness {
                seq: last.seq,
                event_id: last.event_id,
            });
        }
        Ok(events)
    }
}
