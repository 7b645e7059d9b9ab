//! The stream in Redis (7.0 or later).
//!
//! # Keys
//! Every key carries the feed's epoch, in braces so that all of an epoch's keys lie in one slot
//! of a cluster:
//!
//! - `herald:{EPOCH}:stream` is the stream. An entry's ID is `<seq>-0`; its one field `e` is the
//!   event's JSON. Because IDs only grow, a repeated append is refused by Redis itself.
//! - `herald:{EPOCH}:holes:GROUP` is a hash of what a group must still get and the stream no
//!   longer has: first seq → `last:leased-at:consumer`. Readers lease such ranges and read them
//!   from the feed.
//! - `herald:{EPOCH}:dead` is a stream that tells of dead letters, for whoever listens. The
//!   ledger is their truth; this one holds about the last 100,000.
//!
//! A new epoch begins new keys. Those of an old epoch are left for an operator to delete: another
//! installation may be reading them.
//!
//! # Nothing gets lost
//! For every group, every `seq` after the checkpoint it was made at is **acknowledged, or in the
//! stream and not yet read, or pending, or in the group's holes**. Whatever could break that does
//! its work and registers the hole in one script, which Redis runs as a whole:
//!
//! - trimming moves what a group has not read, and what it has pending, to its holes;
//! - making a group, and appending the first entry of an empty stream that has groups, registers
//!   what lies between the group's place and the stream's beginning (Redis was flushed and
//!   refilled from further on);
//! - taking over a dead reader's entries registers those that are no longer in the stream.
//!
//! A group's place in Redis is never more than one before the stream's first entry. Where it is,
//! somebody else trimmed the stream, and the next script that looks mends it in the same way (if
//! it looks before the next read does: nobody else should trim).
//!
//! When Redis loses a group, it is made anew after the highest `seq` this process knows to be
//! settled: the checkpoint it subscribed with, or what `settled` said since.
//!
//! Keys without a time to live must not be evicted: `maxmemory-policy` may be `noeviction` or one
//! of `volatile-*`. Evicted as a whole, a stream is refilled; a hash of holes evicted alone would
//! lose events. A connection that finds another policy warns.

mod follow;
mod group;
mod link;
mod member;
mod reply;
mod script;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::Event;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{Broker, BrokerError, Hold, Reader};
use crate::store::{Feed, LedgerRow, Witness};
use follow::Follower;
use group::GroupReader;
use link::{Link, unavailable};
use member::{Member, runs};
use reply::Entry;
use script::{Append, Call, DONE, JOIN, KEEP, SETTLED, TRIM};

/// Entries a script handles before it lets others have their turn.
const SCRIPT_ENTRIES: usize = 1_000;
/// A consumer with nothing pending that was not heard of for this long is forgotten.
const FORGET_CONSUMER: Duration = Duration::from_secs(24 * 3600);
/// Bytes of entries a script handles; a single entry may be larger.
const SCRIPT_BYTES: usize = 1 << 20;
/// Rounds of trimming in one call, 1,000 entries each; the next call goes on.
const TRIM_ROUNDS: usize = 500;
/// About how many dead letters the stream of dead letters holds.
const DEAD_LETTERS: usize = 100_000;

/// How to use Redis.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://`.
    pub url: String,
    /// Entries the stream holds at most, whoever still needs them; the rest is read from the
    /// feed.
    pub max_len: u64,
    /// After how long without a sign of life a reader's entries go to another one.
    pub reclaim_idle: Duration,
    /// The longest wait for an answer, and for a connection.
    pub timeout: Duration,
    /// This process among the readers of a group: unique among running processes.
    pub consumer: String,
}

/// The keys of one epoch.
#[derive(Debug)]
struct Keys {
    stream: String,
    dead: String,
    /// What the holes' keys begin with.
    holes: String,
    /// What each group is known to have settled in this epoch.
    settled: Mutex<HashMap<String, i64>>,
}

impl Keys {
    fn new(epoch: &str) -> Self {
        Self {
            stream: format!("herald:{{{epoch}}}:stream"),
            dead: format!("herald:{{{epoch}}}:dead"),
            holes: format!("herald:{{{epoch}}}:holes:"),
            settled: Mutex::default(),
        }
    }

    fn holes(&self, group: &str) -> String {
        format!("{}{group}", self.holes)
    }

    /// Raises what the group is known to have settled to `seq`, and returns it.
    fn settle(&self, group: &str, seq: i64) -> i64 {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let known = settled.entry(group.into()).or_insert(seq);
        *known = seq.max(*known);
        *known
    }
}

/// Parts of ascending ranges that together hold at most [`SCRIPT_ENTRIES`] each.
fn pieces(ranges: &[(i64, i64)]) -> Vec<Vec<(i64, i64)>> {
    let most = i64::try_from(SCRIPT_ENTRIES).unwrap_or(1);
    let (mut pieces, mut room) = (Vec::<Vec<_>>::new(), 0);
    for &(mut first, last) in ranges {
        while first <= last {
            if room == 0 {
                pieces.push(Vec::new());
                room = most;
            }
            let upto = last.min(first + room - 1);
            if let Some(piece) = pieces.last_mut() {
                piece.push((first, upto));
            }
            room -= upto - first + 1;
            first = upto + 1;
        }
    }
    pieces
}

/// What the broker shares with its readers.
struct Inner {
    options: RedisOptions,
    link: Link,
    feed: Arc<dyn Feed>,
    keys: Keys,
    /// The competing readers of this process, by group.
    members: Mutex<HashMap<String, Vec<Weak<Member>>>>,
}

impl Inner {
    /// Makes a new reader known under the first free name, so that a reader that takes another's
    /// place in this process has its name and goes on with what that one had pending.
    fn admit(&self, group: &str) -> Arc<Member> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let list = members.entry(group.into()).or_default();
        list.retain(|member| member.strong_count() > 0);
        let taken: Vec<String> = list
            .iter()
            .filter_map(|member| Some(member.upgrade()?.consumer.clone()))
            .collect();
        let mut consumer = self.options.consumer.clone();
        let mut number = 2;
        while taken.contains(&consumer) {
            consumer = format!("{}/{number}", self.options.consumer);
            number += 1;
        }
        let member = Arc::new(Member::new(consumer));
        list.push(Arc::downgrade(&member));
        member
    }

    fn members(&self, group: &str) -> Vec<Arc<Member>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members
            .get(group)
            .into_iter()
            .flatten()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Makes the group if it is not there, after what is settled.
    async fn join(&self, group: &str, checkpoint: i64) -> redis::RedisResult<()> {
        let settled = self.keys.settle(group, checkpoint);
        let mut call = Call::new(&JOIN, &[&self.keys.stream, &self.keys.holes(group)]);
        call.arg(group).arg(settled).arg(millis(FORGET_CONSUMER));
        if reply::int(&self.link.script(&call).await?) == Some(1) {
            tracing::info!(group, after = settled, "made a consumer group");
        }
        Ok(())
    }

    async fn settled(&self, group: &str) -> redis::RedisResult<Option<i64>> {
        let mut call = Call::new(&SETTLED, &[&self.keys.stream, &self.keys.holes(group)]);
        call.arg(group);
        let settled = reply::int(&self.link.script(&call).await?);
        if let Some(seq) = settled {
            self.keys.settle(group, seq);
        }
        Ok(settled)
    }

    /// `None` for a stream that is not there.
    async fn stream_info(&self) -> Result<Option<Value>, BrokerError> {
        let mut info = redis::cmd("XINFO");
        info.arg("STREAM").arg(&self.keys.stream);
        match self.link.command(&info).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.to_string().contains("no such key") => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Makes what the member has young again; returns what is no longer the member's. The member
    /// is not held on to, so that a dropped reader's name is free at once.
    async fn keep(
        &self,
        group: &str,
        member: &Weak<Member>,
        ranges: &[(i64, i64)],
    ) -> redis::RedisResult<Vec<(i64, i64)>> {
        let mut lost = Vec::new();
        for some in pieces(ranges) {
            let since = Instant::now();
            let mut call = Call::new(&KEEP, &[&self.keys.stream, &self.keys.holes(group)]);
            let Some(consumer) = member.upgrade().map(|member| member.consumer.clone()) else {
                break;
            };
            call.arg(group).arg(consumer);
            for (first, last) in &some {
                call.arg(first).arg(last);
            }
            let answer = reply::ranges(&self.link.script(&call).await?);
            if let Some(member) = member.upgrade() {
                let taken = member.kept(&some, since, &answer);
                if taken > 0 {
                    tracing::warn!(group, taken, "others took what this process had");
                }
            }
            lost.extend(answer);
        }
        Ok(lost)
    }

    /// Acknowledges at most [`SCRIPT_ENTRIES`]. What is not pending may be a hole.
    async fn ack(&self, group: &str, seqs: &[i64]) -> redis::RedisResult<()> {
        let mut ack = redis::cmd("XACK");
        ack.arg(&self.keys.stream).arg(group);
        for seq in seqs {
            ack.arg(format!("{seq}-0"));
        }
        let acked = reply::int(&self.link.command(&ack).await?).unwrap_or(0);
        if acked < i64::try_from(seqs.len()).unwrap_or(i64::MAX) {
            let mut call = Call::new(&DONE, &[&self.keys.holes(group)]);
            for (first, last) in runs(seqs.iter().copied()) {
                call.arg(first).arg(last);
            }
            self.link.script(&call).await?;
        }
        Ok(())
    }
}

/// The broker over Redis Streams. It connects when it is first asked for something, and again
/// whenever the connection is lost.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

impl Redis {
    /// Connects to nothing yet. Holes in the stream are filled from `feed`.
    ///
    /// # Errors
    /// [`BrokerError::Url`].
    pub fn new(
        options: RedisOptions,
        feed: Arc<dyn Feed>,
        epoch: &str,
    ) -> Result<Self, BrokerError> {
        let link = Link::new(&options.url, options.timeout)?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                link,
                feed,
                keys: Keys::new(epoch),
                members: Mutex::default(),
            }),
        })
    }

    async fn append_some(&self, events: &[Arc<Event>]) -> Result<(), BrokerError> {
        let Some(first) = events.first() else {
            return Ok(());
        };
        let mut call = Call::new(
            &script::APPEND,
            &[&self.inner.keys.stream, &self.inner.keys.holes],
        );
        call.arg(first.seq);
        for event in events {
            call.arg(event.to_json());
        }
        let answer = self.inner.link.script(&call).await.map_err(unavailable)?;
        match Append::read(answer).map_err(unavailable)? {
            Append::Done => Ok(()),
            Append::OutOfOrder => Err(BrokerError::OutOfOrder {
                expected: first.seq - 1,
            }),
            Append::Refused(error) => Err(BrokerError::Unavailable(error)),
        }
    }
}

#[async_trait]
impl Broker for Redis {
    async fn head(&self) -> Result<Option<i64>, BrokerError> {
        let info = self.inner.stream_info().await?;
        Ok(info.and_then(|info| reply::last_generated(&info).filter(|seq| *seq > 0)))
    }

    async fn witness(&self) -> Result<Option<Witness>, BrokerError> {
        let info = self.inner.stream_info().await?;
        let last = info.and_then(reply::last_entry);
        Ok(last.and_then(|Entry { seq, json }| {
            let event = Event::from_json(seq, &json?).ok()?;
            Some(Witness {
                seq,
                event_id: event.event_id,
            })
        }))
    }

    async fn append(&self, events: &[Arc<Event>]) -> Result<(), BrokerError> {
        let mut rest = events;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest
                .iter()
                .take(SCRIPT_ENTRIES)
                .take_while(|event| {
                    let metadata = event.metadata.as_ref().map_or(0, |json| json.get().len());
                    bytes += event.payload.get().len() + metadata + 256;
                    bytes <= SCRIPT_BYTES
                })
                .count()
                .max(1);
            let (some, others) = rest.split_at(fit);
            self.append_some(some).await?;
            rest = others;
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        group: &str,
        checkpoint: i64,
    ) -> Result<Box<dyn Reader>, BrokerError> {
        let mut reader = GroupReader::new(Arc::clone(&self.inner), group, checkpoint);
        reader.join().await.map_err(unavailable)?;
        Ok(Box::new(reader))
    }

    async fn follow(&self, seq: i64) -> Result<Box<dyn Reader>, BrokerError> {
        Ok(Box::new(Follower::new(Arc::clone(&self.inner), seq)))
    }

    fn hold(&self, group: &str, seq: i64) -> Hold {
        let idle = self.inner.options.reclaim_idle;
        let members = self.inner.members(group);
        let certainties = members.iter().map(|member| member.certainty(seq, idle));
        certainties.max().unwrap_or(Hold::Lost)
    }

    async fn ack(&self, group: &str, seqs: &[i64]) -> Result<(), BrokerError> {
        let mut sorted = seqs.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut result = Ok(());
        for some in sorted.chunks(SCRIPT_ENTRIES) {
            if result.is_ok() {
                result = self.inner.ack(group, some).await;
            }
            // Not acknowledged, it is read again, and the ledger knows that it is done.
            for member in self.inner.members(group) {
                member.release(some.iter().copied(), result.is_err());
            }
        }
        result.map_err(unavailable)
    }

    async fn settled(&self, group: &str) -> Result<Option<i64>, BrokerError> {
        self.inner.settled(group).await.map_err(unavailable)
    }

    async fn trim(&self, settled: i64) -> Result<(), BrokerError> {
        let keys = &self.inner.keys;
        let mut call = Call::new(&TRIM, &[&keys.stream, &keys.holes]);
        call.arg(settled)
            .arg(self.inner.options.max_len)
            .arg(SCRIPT_ENTRIES);
        for _ in 0..TRIM_ROUNDS {
            let answer = self.inner.link.script(&call).await.map_err(unavailable)?;
            if reply::int(&answer).unwrap_or(0) <= 0 {
                break;
            }
        }
        Ok(())
    }

    async fn dead_letters(&self, letters: &[LedgerRow]) -> Result<(), BrokerError> {
        let keys = &self.inner.keys;
        for some in letters.chunks(SCRIPT_ENTRIES) {
            let mut pipeline = redis::pipe();
            for letter in some {
                pipeline.add_command(dead_letter(&keys.dead, letter));
            }
            // Fails when any reply in it is an error.
            self.inner
                .link
                .pipeline(&pipeline)
                .await
                .map_err(unavailable)?;
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        let link = &self.inner.link;
        link.command(&redis::cmd("PING"))
            .await
            .map_err(unavailable)?;
        match link.command(&redis::cmd("ROLE")).await {
            Ok(Value::Array(role)) if reply::text(role.first()) == Some("slave") => Err(
                BrokerError::Unavailable("it is a replica and takes no writes".into()),
            ),
            // An ACL may forbid the question.
            _ => Ok(()),
        }
    }
}

/// As Redis takes times; 0 would mean forever.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// What tells of a dead letter: a few fields for simple listeners, and the whole row.
fn dead_letter(key: &str, letter: &LedgerRow) -> Cmd {
    let mut add = redis::cmd("XADD");
    add.arg(key)
        .arg("MAXLEN")
        .arg("~")
        .arg(DEAD_LETTERS)
        .arg("*");
    for (name, value) in [
        ("sink", letter.sink.as_str()),
        ("recipient", &letter.recipient),
        ("eventId", &letter.event_id.to_string()),
        ("tenantId", &letter.tenant_id),
        ("type", &letter.kind),
        ("cause", letter.cause.as_deref().unwrap_or_default()),
        ("attempts", &letter.attempts.to_string()),
        ("json", &serde_json::to_string(letter).unwrap_or_default()),
    ] {
        add.arg(name).arg(value);
    }
    add
}
