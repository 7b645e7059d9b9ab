//! The stream of one machine: keeps nothing, reads the feed, and is woken in process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
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
    groups: Mutex<HashMap<String, Arc<Mutex<Group>>>>,
    /// The furthest event that any reader has read.
    read: Arc<Mutex<Option<Witness>>>,
}

/// What a group has handed out, and to whom. Every `seq` from its beginning to `last` is
/// acknowledged, held or left.
#[derive(Debug, Default)]
struct Group {
    /// The last `seq` handed out.
    last: i64,
    /// Handed out and not acknowledged, with the number of the reader that holds it.
    held: BTreeMap<i64, u64>,
    /// What readers held that were dropped; it goes out before anything new.
    left: BTreeSet<i64>,
    readers: u64,
}

impl Group {
    fn settled(&self) -> i64 {
        let held = self.held.keys().next();
        let open = held.into_iter().chain(self.left.first()).min();
        open.map_or(self.last, |first| first - 1)
    }

    /// Hands the first of what was left to a reader: neighbours, at most `max`.
    fn take_left(&mut self, reader: u64, max: usize) -> Option<RangeInclusive<i64>> {
        let first = *self.left.first()?;
        let run = (first..).zip(&self.left).take(max);
        let last = run.take_while(|(seq, left)| seq == *left).last()?.0;
        for seq in first..=last {
            self.left.remove(&seq);
            self.held.insert(seq, reader);
        }
        Some(first..=last)
    }

    /// Takes back what the reader holds of these.
    fn give_back(&mut self, reader: u64, seqs: RangeInclusive<i64>) {
        let of_reader = self.held.range(seqs).filter(|(_, by)| **by == reader);
        let seqs: Vec<i64> = of_reader.map(|(seq, _)| *seq).collect();
        for seq in seqs {
            self.held.remove(&seq);
            self.left.insert(seq);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            fed: watch::Sender::new(0),
            groups: Mutex::default(),
            read: Arc::default(),
        }
    }

    fn group(&self, name: &str) -> Option<Arc<Mutex<Group>>> {
        lock(&self.groups).get(name).cloned()
    }
}

#[async_trait]
impl Broker for Embedded {
    /// The feed is the stream.
    async fn head(&self) -> Result<Option<i64>, BrokerError> {
        Ok(Some(self.store.feed_head().await?.seq))
    }

    async fn witness(&self) -> Result<Option<Witness>, BrokerError> {
        Ok(*lock(&self.read))
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

    async fn subscribe(
        &self,
        group: &str,
        checkpoint: i64,
    ) -> Result<Box<dyn Reader>, BrokerError> {
        let group = Arc::clone(lock(&self.groups).entry(group.to_owned()).or_default());
        let mut state = lock(&group);
        state.last = state.last.max(checkpoint);
        state.left = state.left.split_off(&(checkpoint + 1));
        state.readers += 1;
        let number = state.readers;
        drop(state);
        Ok(Box::new(GroupReader {
            feed: FeedReader::new(self),
            group,
            number,
        }))
    }

    async fn follow(&self, seq: i64) -> Result<Box<dyn Reader>, BrokerError> {
        let feed = FeedReader::new(self);
        Ok(Box::new(Follower { feed, last: seq }))
    }

    async fn ack(&self, group: &str, seqs: &[i64]) -> Result<(), BrokerError> {
        if let Some(group) = self.group(group) {
            let mut group = lock(&group);
            for seq in seqs {
                group.held.remove(seq);
                group.left.remove(seq);
            }
        }
        Ok(())
    }

    async fn settled(&self, group: &str) -> Result<Option<i64>, BrokerError> {
        Ok(self.group(group).map(|group| lock(&group).settled()))
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

/// Reads the feed, and waits for it to grow.
struct FeedReader {
    store: Arc<dyn Store>,
    fed: watch::Receiver<i64>,
    furthest: Arc<Mutex<Option<Witness>>>,
}

impl FeedReader {
    fn new(broker: &Embedded) -> Self {
        Self {
            store: Arc::clone(&broker.store),
            fed: broker.fed.subscribe(),
            furthest: Arc::clone(&broker.read),
        }
    }

    async fn read(&self, after: i64, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        let events = self.store.feed(after, max).await?;
        if let Some(last) = events.last() {
            let mut furthest = lock(&self.furthest);
            if furthest.is_none_or(|witness| witness.seq < last.seq) {
                *furthest = Some(Witness {
                    seq: last.seq,
                    event_id: last.event_id,
                });
            }
        }
        Ok(events)
    }

    /// The `seq` of the last wake. Ask before the feed is read, so that a wake during the read is
    /// not missed.
    fn known(&mut self) -> i64 {
        *self.fed.borrow_and_update()
    }

    async fn wait(&mut self) {
        // An error means that the broker is gone, and so is this reader soon.
        let _ = tokio::time::timeout(LOOK, self.fed.changed()).await;
    }
}

struct Follower {
    feed: FeedReader,
    /// The last `seq` handed out.
    last: i64,
}

#[async_trait]
impl Reader for Follower {
    async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        let known = self.feed.known();
        let mut events = self.feed.read(self.last, max).await?;
        if events.is_empty() && known <= self.last {
            self.feed.wait().await;
            events = self.feed.read(self.last, max).await?;
        }
        if let Some(last) = events.last() {
            self.last = last.seq;
        }
        Ok(events)
    }
}

struct GroupReader {
    feed: FeedReader,
    group: Arc<Mutex<Group>>,
    number: u64,
}

impl Drop for GroupReader {
    fn drop(&mut self) {
        lock(&self.group).give_back(self.number, 0..=i64::MAX);
    }
}

impl GroupReader {
    async fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        let taken = lock(&self.group).take_left(self.number, max);
        match taken {
            Some(left) => self.take_again(left).await,
            None => self.take_new(max).await,
        }
    }

    async fn take_again(
        &mut self,
        left: RangeInclusive<i64>,
    ) -> Result<Vec<Arc<Event>>, BrokerError> {
        let count = usize::try_from(left.end() - left.start() + 1).unwrap_or(usize::MAX);
        match self.feed.read(left.start() - 1, count).await {
            Ok(mut events) => {
                events.retain(|event| left.contains(&event.seq));
                let mut group = lock(&self.group);
                for seq in left {
                    // What the feed no longer has is given up.
                    if events.binary_search_by_key(&seq, |e| e.seq).is_err() {
                        group.held.remove(&seq);
                    }
                }
                Ok(events)
            }
            Err(error) => {
                lock(&self.group).give_back(self.number, left);
                Err(error)
            }
        }
    }

    async fn take_new(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        let last = lock(&self.group).last;
        let mut events = self.feed.read(last, max).await?;
        let mut group = lock(&self.group);
        // Others may have been given the first of these meanwhile.
        events.retain(|event| event.seq > group.last);
        for event in &events {
            group.held.insert(event.seq, self.number);
            group.last = event.seq;
        }
        Ok(events)
    }
}

#[async_trait]
impl Reader for GroupReader {
    async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        let known = self.feed.known();
        let events = self.take(max).await?;
        if !events.is_empty() {
            return Ok(events);
        }
        if known <= lock(&self.group).last {
            self.feed.wait().await;
        }
        self.take(max).await
    }
}
