//! A competing reader. What it does in turn, until something gives it events:
//!
//! ```text
//! join ─▶ its own leases ─▶ its own pending ─▶ what dead readers left ─▶ holes ─▶ what is new
//!  ▲                                              (every half idle time)   ▲          │
//!  └──────────────── any error ◀───────────────────────────────────────────┴──────────┘
//! ```
//!
//! An error says nothing about what Redis did: a read whose answer was lost still took its
//! entries. So after each one the reader begins with what Redis says is its own, passing over
//! what it has already handed out.
//!
//! While a delivery lasts, a task of the reader's own keeps what it holds from the others. Only
//! what was handed out is kept: entries that Redis assigned without this reader knowing (a read
//! that Redis carried out after its connection was given up) grow old and are taken over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::Event;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::link::{Backoff, unavailable};
use super::member::{Member, runs};
use super::reply::{self, Entry};
use super::script::{CLAIM, Call, LEASES, RECLAIM};
use super::{Inner, SCRIPT_ENTRIES, millis};
use crate::broker::{BrokerError, Reader};
use crate::store::StoreError;

/// How often it is asked at least whether what this process has is still its own. Where Redis lost
/// the group, others may be handed the same, and that ends with the answer.
const KEEP: Duration = Duration::from_millis(200);

/// How long Redis waits for new entries before it answers that there are none.
const BLOCK: Duration = Duration::from_secs(1);

/// Groups made anew since the process began.
static LOST_GROUPS: AtomicU64 = AtomicU64::new(0);

enum Fault {
    Redis(RedisError),
    Feed(StoreError),
    /// The stream had a `seq` that the feed has not reached.
    Ahead(i64),
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Feed(error)
    }
}

/// What the reader reads next.
enum Place {
    Join,
    Leases,
    /// Its own pending entries after this `seq`.
    Pending(i64),
    New,
}

pub(super) struct GroupReader {
    inner: Arc<Inner>,
    group: String,
    checkpoint: i64,
    member: Arc<Member>,
    keeper: JoinHandle<()>,
    connection: Option<MultiplexedConnection>,
    backoff: Backoff,
    place: Place,
    /// Leased ranges to be read from the feed; held.
    leased: VecDeque<(i64, i64)>,
    reclaim_at: Instant,
    reclaim_cursor: String,
}

impl Drop for GroupReader {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl GroupReader {
    pub(super) fn new(inner: Arc<Inner>, group: &str, checkpoint: i64) -> Self {
        let member = inner.admit(group);
        let keeper = tokio::spawn(keep(
            Arc::clone(&inner),
            Arc::downgrade(&member),
            group.into(),
            checkpoint,
        ));
        Self {
            inner,
            group: group.into(),
            checkpoint,
            member,
            keeper,
            connection: None,
            backoff: Backoff::default(),
            place: Place::Join,
            leased: VecDeque::new(),
            reclaim_at: Instant::now(),
            reclaim_cursor: "0-0".into(),
        }
    }

    /// Makes the group if it is not there.
    pub(super) async fn join(&mut self) -> RedisResult<()> {
        self.inner.join(&self.group, self.checkpoint).await?;
        self.place = Place::Leases;
        Ok(())
    }

    async fn step(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Fault> {
        loop {
            if self.member.take_reread() && !matches!(self.place, Place::Join) {
                self.place = Place::Leases;
            }
            if let Place::Join = self.place {
                self.join().await?;
                self.keep(&self.member.held_runs()).await?;
            }
            let batch = if !self.leased.is_empty() {
                self.read_leased(max).await?
            } else if let Place::Leases = self.place {
                self.find_leases().await?;
                self.place = Place::Pending(0);
                continue;
            } else if let Place::Pending(after) = self.place {
                self.read_pending(after, max).await?
            } else if self.reclaim_at <= Instant::now() {
                self.reclaim(max).await?
            } else if self.claim(max).await? {
                continue;
            } else {
                return self.read_new(max).await;
            };
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// Finds what the group's holes say that this reader leased, in an earlier life perhaps.
    async fn find_leases(&mut self) -> RedisResult<()> {
        let mut call = Call::new(&LEASES, &[&self.inner.keys.holes(&self.group)]);
        call.arg(&self.member.consumer);
        let leases = reply::ranges(&self.inner.link.script(&call).await?);
        // They may be so old that somebody else is about to take them.
        let since = Instant::now();
        let lost = self.keep(&leases).await?;
        // Another may have leased a part by now: what is lost is found again in its turn.
        for range in leases
            .into_iter()
            .filter(|(first, _)| !within(&lost, *first))
        {
            self.lease(range, since);
        }
        Ok(())
    }

    fn lease(&mut self, range: (i64, i64), since: Instant) {
        let ranges = self.member.not_held(range);
        for (first, last) in &ranges {
            self.member.hold(*first..=*last, since);
        }
        self.leased.extend(ranges);
    }

    /// Makes what this reader has young again; returns what it no longer has.
    async fn keep(&self, ranges: &[(i64, i64)]) -> RedisResult<Vec<(i64, i64)>> {
        let member = Arc::downgrade(&self.member);
        self.inner.keep(&self.group, &member, ranges).await
    }

    async fn read_leased(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Fault> {
        let Some(&(first, last)) = self.leased.front() else {
            return Ok(Vec::new());
        };
        let count = i64::try_from(max).unwrap_or(i64::MAX);
        let upto = last.min(first.saturating_add(count - 1));
        let batch = self.fill((first, upto)).await?;
        self.leased.pop_front();
        if upto < last {
            self.leased.push_front((upto + 1, last));
        }
        Ok(batch)
    }

    async fn read_pending(&mut self, after: i64, max: usize) -> Result<Vec<Arc<Event>>, Fault> {
        let mut entries = self
            .read(&format!("{after}-{}", u64::MAX), max, None)
            .await?;
        self.place = match entries.last() {
            Some(entry) => Place::Pending(entry.seq),
            None => Place::New,
        };
        // They may be so old that somebody else is about to take them.
        let since = Instant::now();
        let lost = self.keep(&runs(entries.iter().map(|e| e.seq))).await?;
        entries.retain(|entry| !within(&lost, entry.seq));
        self.take(entries, since).await
    }

    async fn reclaim(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Fault> {
        let idle = self.inner.options.reclaim_idle;
        let since = Instant::now();
        let mut call = Call::new(
            &RECLAIM,
            &[&self.inner.keys.stream, &self.inner.keys.holes(&self.group)],
        );
        call.arg(&self.group)
            .arg(&self.member.consumer)
            .arg(millis(idle))
            .arg(&self.reclaim_cursor)
            .arg(max);
        let (mut list, mut gone, mut cursor) = (Vec::new(), Vec::new(), "0-0".to_owned());
        if let Value::Array(parts) = self.inner.link.script(&call).await? {
            let mut parts = parts.into_iter();
            if let Some(next) = reply::text(parts.next().as_ref()) {
                next.clone_into(&mut cursor);
            }
            list = parts.next().map(reply::entries).unwrap_or_default();
            if let Some(Value::Array(ids)) = parts.next() {
                gone.extend(ids.iter().filter_map(|id| reply::seq(Some(id))));
            }
        }
        if cursor == "0-0" {
            self.reclaim_at = Instant::now() + idle / 2;
        }
        self.reclaim_cursor = cursor;
        list.extend(gone.into_iter().map(|seq| Entry { seq, json: None }));
        if !list.is_empty() {
            tracing::debug!(group = self.group, count = list.len(), "took over entries");
        }
        self.take(list, since).await
    }

    /// Leases a hole, if there is one; whether it did.
    async fn claim(&mut self, max: usize) -> RedisResult<bool> {
        let since = Instant::now();
        let mut call = Call::new(
            &CLAIM,
            &[&self.inner.keys.stream, &self.inner.keys.holes(&self.group)],
        );
        call.arg(&self.group)
            .arg(&self.member.consumer)
            .arg(max)
            .arg(millis(self.inner.options.reclaim_idle));
        let claimed = reply::ranges(&self.inner.link.script(&call).await?);
        for range in &claimed {
            self.lease(*range, since);
        }
        Ok(!claimed.is_empty())
    }

    async fn read_new(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Fault> {
        let since = Instant::now();
        let until_reclaim = self.reclaim_at.saturating_duration_since(since);
        // An entry may be this reader's from the moment it begins to wait, so it does not wait for
        // so long that it would have to doubt what it gets.
        let longest = BLOCK.min(self.inner.options.reclaim_idle / 3);
        let block = until_reclaim.min(longest).max(Duration::from_millis(10));
        let entries = self.read(">", max, Some(block)).await?;
        self.take(entries, since).await
    }

    async fn read(
        &mut self,
        after: &str,
        max: usize,
        block: Option<Duration>,
    ) -> RedisResult<Vec<Entry>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.inner.link.dedicated(BLOCK).await?),
        };
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(&self.group)
            .arg(&self.member.consumer);
        read.arg("COUNT").arg(max);
        if let Some(block) = block {
            read.arg("BLOCK").arg(millis(block));
        }
        read.arg("STREAMS").arg(&self.inner.keys.stream).arg(after);
        let answer = read.query_async(connection).await?;
        self.backoff.succeeded();
        Ok(reply::stream_entries(answer))
    }

    /// Turns the entries that are not held yet into events, with those from the feed that the
    /// stream no longer has, and holds them as its own since `since`.
    async fn take(
        &mut self,
        entries: Vec<Entry>,
        since: Instant,
    ) -> Result<Vec<Arc<Event>>, Fault> {
        let mut batch = Vec::with_capacity(entries.len());
        let mut gone = Vec::new();
        for Entry { seq, json } in entries {
            if self.member.holds(seq) {
                continue;
            }
            match json.and_then(|json| Event::from_json(seq, &json).ok()) {
                Some(event) => batch.push(Arc::new(event)),
                None => gone.push(seq),
            }
        }
        if !gone.is_empty() {
            gone.sort_unstable();
            let ranges = runs(gone);
            // Whatever is pending but gone becomes a hole, leased to this reader.
            self.keep(&ranges).await?;
            for range in ranges {
                batch.extend(self.fill(range).await?);
            }
            batch.sort_unstable_by_key(|event| event.seq);
        }
        self.member.hold(batch.iter().map(|event| event.seq), since);
        Ok(batch)
    }

    /// The events of a range, from the feed. What the feed no longer has is given up.
    async fn fill(&self, (first, last): (i64, i64)) -> Result<Vec<Arc<Event>>, Fault> {
        let (mut next, mut batch) = (first, Vec::new());
        while next <= last {
            let limit = usize::try_from(last - next + 1).unwrap_or(SCRIPT_ENTRIES);
            let page = self
                .inner
                .feed
                .feed(next - 1, limit.min(SCRIPT_ENTRIES))
                .await?;
            let Some(found) = page.first().map(|event| event.seq) else {
                return Err(Fault::Ahead(next));
            };
            if found > next {
                let upto = last.min(found - 1);
                tracing::warn!(
                    group = self.group,
                    first = next,
                    last = upto,
                    "gave up events that are no longer in the feed"
                );
                let seqs: Vec<i64> = (next..=upto).collect();
                for some in seqs.chunks(SCRIPT_ENTRIES) {
                    self.inner.ack(&self.group, some).await?;
                }
                self.member.release(seqs, false);
            }
            next = page.last().map_or(last, |event| event.seq) + 1;
            batch.extend(page.into_iter().filter(|event| event.seq <= last));
        }
        Ok(batch)
    }

    /// Begins anew.
    fn failed(&mut self) {
        self.member.doubt();
        self.connection = None;
        self.place = Place::Join;
        self.backoff.failed();
        for (first, last) in self.leased.drain(..) {
            self.member.release(first..=last, false);
        }
    }
}

#[async_trait]
impl Reader for GroupReader {
    async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, BrokerError> {
        if let Some(wait) = self.backoff.wait() {
            sleep(wait).await;
        }
        let result = self.step(max.clamp(1, SCRIPT_ENTRIES)).await;
        if result.is_err() {
            self.failed();
        }
        match result {
            Ok(batch) => Ok(batch),
            Err(Fault::Redis(error)) if error.to_string().contains("NOGROUP") => {
                lost(&self.group);
                Ok(Vec::new())
            }
            Err(Fault::Redis(error)) => Err(unavailable(error)),
            Err(Fault::Feed(error)) => Err(BrokerError::Feed(error)),
            Err(Fault::Ahead(seq)) => Err(BrokerError::Unavailable(format!(
                "the stream has been at {seq}, where the feed is not yet"
            ))),
        }
    }
}

/// Says that Redis lost a group, which is made anew.
fn lost(group: &str) {
    let times = LOST_GROUPS.fetch_add(1, Ordering::Relaxed) + 1;
    tracing::warn!(group, times, "Redis lost the consumer group");
}

fn within(ranges: &[(i64, i64)], seq: i64) -> bool {
    ranges.iter().any(|(a, b)| (*a..=*b).contains(&seq))
}

/// Until the reader is dropped, keeps what it holds from the others, and learns what the group
/// has settled, for the case that Redis loses the group.
///
/// Then it makes the group anew: the reader may wait for somebody to take what it has read, who
/// waits until it is sure whose that is.
async fn keep(inner: Arc<Inner>, member: Weak<Member>, group: String, checkpoint: i64) {
    let every = (inner.options.reclaim_idle / 3).clamp(Duration::from_millis(10), KEEP);
    let mut keep_at = Instant::now() + every;
    loop {
        sleep(every).await;
        if keep_at <= Instant::now() {
            let Some(held) = member.upgrade().map(|member| member.held_runs()) else {
                return;
            };
            if let Err(error) = inner.keep(&group, &member, &held).await {
                tracing::debug!(group, %error, "could not keep what is in delivery");
                if let Some(member) = member.upgrade() {
                    member.doubt();
                }
            }
            keep_at = Instant::now() + every;
        }
        match inner.settled(&group).await {
            // Redis lost the group: what it hands out next may be what this process has.
            Ok(None) => {
                let Some(member) = member.upgrade() else {
                    return;
                };
                lost(&group);
                member.doubt();
                if let Err(error) = inner.join(&group, checkpoint).await {
                    tracing::debug!(group, %error, "could not make the group anew");
                }
                keep_at = Instant::now();
            }
            Ok(Some(_)) => {}
            Err(error) => tracing::debug!(group, %error, "could not ask what is settled"),
        }
    }
}
