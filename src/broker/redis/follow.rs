//! A reader of everything, without a group. The stream is its quick way, the feed its sure one:
//! whatever the stream does not have next comes from the feed, and while Redis is away all does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::Event;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::Backoff;
use super::reply::{self, Entry};
use super::{Inner, SCRIPT_ENTRIES, millis};
use crate::broker::{BrokerError, Reader};
use crate::store::StoreError;

/// How long Redis waits for new entries, and a call of `next` for anything.
const BLOCK: Duration = Duration::from_secs(1);
/// How often the feed is read while the stream is of no use.
const POLL: Duration = Duration::from_millis(75);
/// How late Redis's answer may be before the feed is read instead. Nothing is lost by giving up
/// such a read, because it takes nothing.
const MARGIN: Duration = Duration::from_millis(500);

pub(super) struct Follower {
    inner: Arc<Inner>,
    /// The last `seq` that was handed out.
    last: i64,
    connection: Option<MultiplexedConnection>,
    /// Connects aside, so that a hung Redis holds nothing up.
    connecting: Option<JoinHandle<RedisResult<MultiplexedConnection>>>,
    backoff: Backoff,
    /// The feed was ahead of the stream: do not wait for the stream for long.
    lagging: bool,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(connecting) = &self.connecting {
            connecting.abort();
        }
    }
}

impl Follower {
    pub(super) fn new(inner: Arc<Inner>, seq: i64) -> Self {
        Self {
            inner,
            last: seq,
            connection: None,
            connecting: None,
            backoff: Backoff::default(),
            lagging: false,
        }
    }

    async fn read_feed(&mut self, max: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        let batch = self.inner.feed.feed(self.last, max).await?;
        if let Some(event) = batch.last() {
            self.last = event.seq;
        }
        Ok(batch)
    }

    /// What the stream has next after what was handed out; empty when it has not, or when Redis
    /// failed.
    async fn read_stream(&mut self, max: usize) -> Vec<Arc<Event>> {
        let Some(connection) = &mut self.connection else {
            return Vec::new();
        };
        let block = if self.lagging { POLL } else { BLOCK };
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(max);
        read.arg("BLOCK").arg(millis(block));
        read.arg("STREAMS")
            .arg(&self.inner.keys.stream)
            .arg(format!("{}-{}", self.last, u64::MAX));
        let margin = MARGIN.min(self.inner.options.timeout);
        let error = match timeout(block + margin, read.query_async(connection)).await {
            Ok(Ok(answer)) => {
                self.backoff.succeeded();
                return self.dense(reply::stream_entries(answer));
            }
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        tracing::warn!(error, "reading the feed until Redis answers again");
        self.connection = None;
        self.backoff.failed();
        Vec::new()
    }

    /// The entries that follow what was handed out without a hole.
    fn dense(&mut self, entries: Vec<Entry>) -> Vec<Arc<Event>> {
        let mut batch = Vec::with_capacity(entries.len());
        for Entry { seq, json } in entries {
            match json.and_then(|json| Event::from_json(seq, &json).ok()) {
                Some(event) if seq == self.last + 1 => {
                    self.last = seq;
                    batch.push(Arc::new(event));
                }
                _ => break,
            }
        }
        batch
    }

    /// Goes on connecting, for `wait` at most.
    async fn connect(&mut self, wait: Duration) {
        if self.connecting.is_none() {
            if let Some(delay) = self.backoff.wait() {
                return sleep(delay.min(wait)).await;
            }
            let inner = Arc::clone(&self.inner);
            self.connecting = Some(tokio::spawn(
                async move { inner.link.dedicated(BLOCK).await },
            ));
        }
        let Some(connecting) = &mut self.connecting else {
            return;
        };
        if let Ok(connected) = timeout(wait, connecting).await {
            self.connecting = None;
            match connected {
                Ok(Ok(connection)) => self.connection = Some(connection),
                _ => self.backoff.failed(),
            }
        }
    }
}

#[async_trait]
impl Reader for Follower {
    async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        let max = max.clamp(1, SCRIPT_ENTRIES);
        let deadline = Instant::now() + BLOCK;
        loop {
            let began = Instant::now();
            if self.connection.is_none() {
                self.connect(POLL).await;
            }
            let batch = self.read_stream(max).await;
            if !batch.is_empty() {
                self.lagging = false;
                return Ok(batch);
            }
            let batch = self.read_feed(max).await?;
            self.lagging = !batch.is_empty();
            if self.lagging || Instant::now() >= deadline {
                return Ok(batch);
            }
            sleep_until(began + POLL).await;
        }
    }
}
