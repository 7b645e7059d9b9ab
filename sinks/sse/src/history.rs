//! Reading history within bounds: so many queries at once, so much time for each.
//!
//! After a restart every client comes back at the same moment, and each asks the database where it
//! stands and what it has missed. They queue here, so that they do not take the whole connection
//! pool from the sinks that share it; those of one stream share the pages that they read; and few
//! are written theirs at once, so that live clients do not wait behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herald_contract::{Cursor, History, Place, Unavailable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use ulid::Ulid;

use crate::chunk::{Builder, Chunk};
use crate::frame::Frame;
use crate::hub::Hub;
use crate::log::{Log, Topic};

/// Queries under way at once.
const READERS: usize = 8;
/// Clients that are written a page at once.
const WRITERS: usize = 1;
/// After pages have been written for so long, they rest, and leave the machine to live clients.
const SPELL: Duration = Duration::from_millis(1);
const REST: Duration = Duration::from_millis(3);
/// For one query, with its wait for a turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a page that a client is waiting for, with all repetitions.
const OUTAGE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

pub struct Reader {
    history: Arc<dyn History>,
    turns: Semaphore,
    writers: Arc<Semaphore>,
    /// Microseconds that pages have been written for since the last rest.
    worked: AtomicU64,
    page: usize,
}

/// A page is being written.
pub struct Turn {
    reader: Arc<Reader>,
    began: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let worked = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.reader.worked.fetch_add(worked, Ordering::Relaxed);
    }
}

impl Reader {
    /// `page` is the number of events that one query reads at most.
    pub fn new(history: Arc<dyn History>, page: usize) -> Self {
        Self {
            history,
            turns: Semaphore::new(READERS),
            writers: Arc::new(Semaphore::new(WRITERS)),
            worked: AtomicU64::new(0),
            page,
        }
    }

    pub async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Place, Unavailable> {
        self.bounded(self.history.resolve(tenant, cursor)).await
    }

    pub async fn latest(&self, topic: &Topic, upto: i64) -> Result<Option<Ulid>, Unavailable> {
        let latest = self.history.latest(&topic.tenant, &topic.types, upto);
        self.bounded(latest).await
    }

    /// A client's turn to be written a page. Others have theirs when it is dropped.
    pub async fn turn(self: Arc<Self>) -> Option<Turn> {
        // The semaphore is never closed.
        let permit = self.writers.clone().acquire_owned().await.ok()?;
        if self.worked.load(Ordering::Relaxed) >= SPELL.as_micros() as u64 {
            tokio::time::sleep(REST).await;
            self.worked.store(0, Ordering::Relaxed);
        }
        Some(Turn {
            reader: self,
            began: Instant::now(),
            _permit: permit,
        })
    }

    /// What follows `position` in a stream. Asks again when the database is away.
    ///
    /// # Errors
    /// It has been away for 30 s, or there was no room for a page for so long.
    pub async fn replay(
        &self,
        hub: &Hub,
        log: &Log,
        position: i64,
    ) -> Result<Arc<Chunk>, Unavailable> {
        let mut cause = Unavailable("no answer in time".into());
        let chunk = async {
            // Under the lock: the others wait for this page rather than read it again.
            let mut pages = log.pages.lock().await;
            if let Some(page) = pages.find(position) {
                return page;
            }
            if hub.budget.is_exceeded() {
                pages.clear();
                hub.relieve();
                hub.budget.room().await;
            }
            let mut pause = FIRST_PAUSE;
            loop {
                let limit = pages.limit.min(self.page);
                match self.page(hub, log, position, limit).await {
                    Ok(chunks) => {
                        pages.add(&chunks, limit);
                        return chunks[0].clone();
                    }
                    Err(e) => cause = e,
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        timeout(OUTAGE, chunk).await.map_err(|_| cause)
    }

    /// What one query reads after `position`, as chunks. What expires is asked for after the page:
    /// events that went before it was read are found out, and one that went since costs a client a
    /// needless reset at most.
    async fn page(
        &self,
        hub: &Hub,
        log: &Log,
        position: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Chunk>>, Unavailable> {
        let Topic {
            tenant,
            types,
            format,
            coding,
        } = &log.topic;
        let upto = hub.head();
        let (events, expired) = self
            .bounded(async {
                let page = self.history.page(tenant, types, position, upto, limit);
                Ok((page.await?, self.history.expired().await?))
            })
            .await?;
        let mut builder = Builder::new(position, *format, *coding);
        for event in &events {
            builder.push(event.seq, Frame::new(event).bytes(*format), &hub.budget);
        }
        let last = events.last().map_or(position, |event| event.seq);
        let to = if events.len() < limit { upto } else { last };
        let chunks = builder.finish_page(to, expired, &hub.budget);
        Ok(chunks.into_iter().map(Arc::new).collect())
    }

    async fn bounded<T>(
        &self,
        query: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let turn = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            query.await
        };
        timeout(PATIENCE, turn)
            .await
            .unwrap_or_else(|_| Err(Unavailable("no answer in time".into())))
    }
}
