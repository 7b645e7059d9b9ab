//! Against a real Redis: `HERALD_TEST_REDIS_URL` names one. Every test has an epoch of its own,
//! so none sees another's keys.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use chrono::DateTime;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, cmd};
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use ulid::Ulid;

use super::*;
use crate::store::{State, StoreError};

const IDLE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(20);

/// The feed from `first` to `last`.
struct FakeFeed {
    first: AtomicI64,
    last: AtomicI64,
    reads: AtomicUsize,
}

#[async_trait]
impl Feed for FakeFeed {
    async fn feed(&self, after: i64, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let first = (after + 1).max(self.first.load(Ordering::SeqCst));
        let last = self.last.load(Ordering::SeqCst);
        Ok((first..=last).take(limit).map(event).collect())
    }
}

fn event(seq: i64) -> Arc<Event> {
    Arc::new(Event {
        seq,
        event_id: Ulid(seq.unsigned_abs().into()),
        aggregate_id: seq,
        tenant_id: "acme".into(),
        kind: "order.created".into(),
        payload: RawValue::from_string(format!("{{\"n\":{seq}}}")).expect("valid JSON"),
        metadata: None,
        created_at: DateTime::from_timestamp(1_700_000_000, 0).expect("in range"),
    })
}

fn events(range: std::ops::RangeInclusive<i64>) -> Vec<Arc<Event>> {
    range.map(event).collect()
}

/// One test's corner of the server.
struct Corner {
    url: String,
    epoch: String,
    feed: Arc<FakeFeed>,
    direct: MultiplexedConnection,
}

impl Corner {
    /// `None`, said aloud, when no server was named; in CI that is a failure.
    async fn new() -> Option<Self> {
        let Ok(url) = std::env::var("HERALD_TEST_REDIS_URL") else {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "HERALD_TEST_REDIS_URL is not set");
            eprintln!("skipped: HERALD_TEST_REDIS_URL is not set");
            return None;
        };
        let client = redis::Client::open(url.as_str()).expect("a Redis URL");
        Some(Self {
            direct: client
                .get_multiplexed_async_connection_with_config(
                    &redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE)),
                )
                .await
                .expect("Redis answers"),
            url,
            epoch: format!("test-{:032x}", rand::random::<u128>()),
            feed: Arc::new(FakeFeed {
                first: AtomicI64::new(1),
                last: AtomicI64::new(0),
                reads: AtomicUsize::new(0),
            }),
        })
    }

    fn process(&self, consumer: &str) -> Redis {
        self.process_at(consumer, &self.url, 1_000_000)
    }

    fn process_at(&self, consumer: &str, url: &str, max_len: u64) -> Redis {
        let options = Self::options(consumer, url, max_len);
        Redis::new(options, self.feed.clone(), &self.epoch).expect("a Redis URL")
    }

    fn process_in(&self, consumer: &str, epoch: &str) -> Redis {
        let options = Self::options(consumer, &self.url, 1_000_000);
        Redis::new(options, self.feed.clone(), epoch).expect("a Redis URL")
    }

    fn options(consumer: &str, url: &str, max_len: u64) -> RedisOptions {
        RedisOptions {
            url: url.into(),
            max_len,
            reclaim_idle: IDLE,
            timeout: Duration::from_secs(2),
            consumer: consumer.into(),
        }
    }

    /// The feed and the stream grow to `seq`.
    async fn publish(&self, broker: &Redis, range: std::ops::RangeInclusive<i64>) {
        self.feed.last.store(*range.end(), Ordering::SeqCst);
        broker.append(&events(range)).await.expect("appends");
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &Cmd) -> T {
        let mut direct = self.direct.clone();
        command.query_async(&mut direct).await.expect("answers")
    }

    fn key(&self, name: &str) -> String {
        format!("herald:{{{}}}:{name}", self.epoch)
    }

    /// As FLUSHALL would, for this test alone.
    async fn flush(&self, groups: &[&str]) {
        let mut del = cmd("DEL");
        del.arg(self.key("stream"));
        for group in groups {
            del.arg(self.key(&format!("holes:{group}")));
        }
        self.ask::<()>(&del).await;
    }
}

/// Passes bytes on to the server, until it is told not to.
struct Proxy {
    url: String,
    up: watch::Sender<bool>,
}

impl Proxy {
    async fn new(corner: &Corner) -> Self {
        let server = redis::Client::open(corner.url.as_str())
            .expect("a Redis URL")
            .get_connection_info()
            .addr()
            .to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let (up, mut state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if !*state.borrow_and_update() {
                    continue;
                }
                let (server, mut state) = (server.clone(), state.clone());
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.expect("connects");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Self {
            url: format!("redis://127.0.0.1:{port}"),
            up,
        }
    }
}

/// Reads until `count` events came, passing over errors; acknowledges them to `ack`, if given.
async fn read(reader: &mut Box<dyn Reader>, count: usize, ack: Option<(&Redis, &str)>) -> Vec<i64> {
    let mut got = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while got.len() < count {
        assert!(Instant::now() < deadline, "only {got:?} came");
        let Ok(batch) = reader.next(7).await else {
            continue;
        };
        for event in &batch {
            assert_eq!(event.aggregate_id, event.seq, "the event of its seq");
        }
        let seqs: Vec<i64> = batch.iter().map(|event| event.seq).collect();
        if let Some((broker, group)) = ack {
            broker.ack(group, &seqs).await.expect("acknowledges");
        }
        got.extend(seqs);
    }
    got
}

fn all(range: std::ops::RangeInclusive<i64>) -> Vec<i64> {
    range.collect()
}

#[tokio::test]
async fn an_append_may_be_repeated_and_leaves_no_hole() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("a");
    assert_eq!(broker.head().await.expect("answers"), None);
    broker
        .append(&events(5..=2_600))
        .await
        .expect("any beginning");
    assert_eq!(broker.head().await.expect("answers"), Some(2_600));
    broker.append(&events(5..=2_600)).await.expect("repeats");
    broker
        .append(&events(2_000..=2_601))
        .await
        .expect("overlaps");
    let refused = broker.append(&events(2_603..=2_604)).await;
    assert!(
        matches!(refused, Err(BrokerError::OutOfOrder { expected: 2_602 })),
        "{refused:?}"
    );
    assert_eq!(broker.head().await.expect("answers"), Some(2_601));
    let len: i64 = corner.ask(cmd("XLEN").arg(corner.key("stream"))).await;
    assert_eq!(len, 2_597);
    broker.trim(2_601).await.expect("trims");
    let len: i64 = corner.ask(cmd("XLEN").arg(corner.key("stream"))).await;
    assert_eq!(len, 0);
    assert_eq!(broker.head().await.expect("answers"), Some(2_601));
    let refused = broker.append(&events(1..=1)).await;
    assert!(refused.is_ok(), "it had that before: {refused:?}");
    let refused = broker.append(&events(2_700..=2_700)).await;
    assert!(matches!(refused, Err(BrokerError::OutOfOrder { .. })));
    broker
        .append(&events(2_602..=2_602))
        .await
        .expect("goes on");
}

#[tokio::test]
async fn a_key_of_another_kind_is_named_as_the_cause() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    corner
        .ask::<()>(cmd("SET").arg(corner.key("stream")).arg("x"))
        .await;
    let broker = corner.process("a");
    broker.ping().await.expect("answers");
    for error in [
        broker.head().await.expect_err("no stream"),
        broker.append(&events(1..=1)).await.expect_err("no stream"),
    ] {
        let text = error.to_string();
        assert!(text.contains("holds something else"), "{text}");
    }
}

#[tokio::test]
async fn competing_readers_get_each_event_once() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let (a, b) = (corner.process("a"), corner.process("b"));
    let mut tasks = Vec::new();
    let got = Arc::new(Mutex::new(Vec::new()));
    for broker in [&a, &a, &b] {
        let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
        let (broker, got) = (broker.clone(), Arc::clone(&got));
        tasks.push(tokio::spawn(async move {
            loop {
                for event in reader.next(3).await.expect("reads") {
                    broker.ack("g", &[event.seq]).await.expect("acknowledges");
                    got.lock().expect("whole").push(event.seq);
                }
            }
        }));
    }
    assert_eq!(a.head().await.expect("answers"), None, "made by a reader");
    corner.publish(&a, 1..=500).await;
    let deadline = Instant::now() + PATIENCE;
    while a.settled("g").await.expect("answers") != Some(500) {
        assert!(Instant::now() < deadline, "{:?}", got.lock());
        sleep(Duration::from_millis(5)).await;
    }
    for task in tasks {
        task.abort();
    }
    let mut got = got.lock().expect("whole").clone();
    got.sort_unstable();
    assert_eq!(got, all(1..=500));
}

#[tokio::test]
async fn a_dead_readers_entries_go_to_another() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let (a, b) = (corner.process("a"), corner.process("b"));
    corner.publish(&a, 1..=20).await;
    let mut dead = a.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut dead, 14, None).await, all(1..=14));
    drop(dead);
    let mut other = b.subscribe("g", 0).await.expect("subscribes");
    let mut got = read(&mut other, 20, Some((&b, "g"))).await;
    got.sort_unstable();
    assert_eq!(got, all(1..=20));
    assert_eq!(b.settled("g").await.expect("answers"), Some(20));
}

#[tokio::test]
async fn a_slow_delivery_is_kept_from_the_others() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let (a, b) = (corner.process("a"), corner.process("b"));
    // The first entries are a hole, the next in the stream: both kinds are kept.
    corner.feed.last.store(14, Ordering::SeqCst);
    a.append(&events(8..=14)).await.expect("appends");
    let mut slow = a.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut slow, 14, None).await, all(1..=14));
    let mut other = b.subscribe("g", 0).await.expect("subscribes");
    let until = Instant::now() + IDLE * 5;
    while Instant::now() < until {
        let stolen = other.next(10).await.expect("reads");
        assert!(stolen.is_empty(), "{stolen:?}");
    }
    assert_eq!(a.settled("g").await.expect("answers"), Some(0));
    a.ack("g", &all(1..=14)).await.expect("acknowledges");
    assert_eq!(a.settled("g").await.expect("answers"), Some(14));
}

#[tokio::test]
async fn after_an_error_a_reader_begins_with_its_own() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let proxy = Proxy::new(&corner).await;
    let broker = corner.process_at("a", &proxy.url, 1_000);
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    corner.publish(&broker, 1..=3).await;
    assert_eq!(read(&mut reader, 3, None).await, all(1..=3));
    // A read that Redis carried out and whose answer was lost.
    corner.publish(&broker, 4..=9).await;
    corner
        .ask::<redis::Value>(
            cmd("XREADGROUP")
                .arg(&["GROUP", "g", "a", "COUNT", "2", "STREAMS"])
                .arg(corner.key("stream"))
                .arg(">"),
        )
        .await;
    proxy.up.send_replace(true);
    assert_eq!(
        read(&mut reader, 6, Some((&broker, "g"))).await,
        all(4..=9),
        "and not again what it has already handed out"
    );
    broker.ack("g", &[1, 2, 3]).await.expect("acknowledges");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(9));
}

#[tokio::test]
async fn what_was_trimmed_while_pending_comes_from_the_feed() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    for ours in [true, false] {
        corner.flush(&["g"]).await;
        let a = corner.process_at("a", &corner.url, 2);
        corner.publish(&a, 1..=10).await;
        let mut reader = a.subscribe("g", 0).await.expect("subscribes");
        assert_eq!(read(&mut reader, 7, None).await, all(1..=7));
        if ours {
            a.trim(0).await.expect("trims");
        } else {
            let mut trim = cmd("XTRIM");
            trim.arg(corner.key("stream")).arg("MINID").arg("9-0");
            corner.ask::<()>(&trim).await;
        }
        a.ack("g", &[2, 3]).await.expect("acknowledges");
        assert_eq!(a.settled("g").await.expect("answers"), Some(0));
        drop(reader);
        let b = corner.process("b");
        let mut other = b.subscribe("g", 0).await.expect("subscribes");
        let got: BTreeSet<i64> = read(&mut other, 8, Some((&b, "g")))
            .await
            .into_iter()
            .collect();
        assert_eq!(got, BTreeSet::from([1, 4, 5, 6, 7, 8, 9, 10]), "{ours}");
        assert_eq!(b.settled("g").await.expect("answers"), Some(10));
    }
}

#[tokio::test]
async fn a_group_gets_in_order_what_the_ceiling_took() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process_at("a", &corner.url, 10);
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    corner.publish(&broker, 1..=50).await;
    assert_eq!(read(&mut reader, 7, Some((&broker, "g"))).await, all(1..=7));
    for end in [2_400, 4_800] {
        let begin = broker.head().await.expect("answers").expect("a stream") + 1;
        corner.publish(&broker, begin..=end).await;
        broker.trim(0).await.expect("trims");
    }
    let len: i64 = corner.ask(cmd("XLEN").arg(corner.key("stream"))).await;
    assert_eq!(len, 10);
    let holes: i64 = corner.ask(cmd("HLEN").arg(corner.key("holes:g"))).await;
    assert_eq!(holes, 1, "neighbours are joined");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(7));
    let got = read(&mut reader, 4_793, Some((&broker, "g"))).await;
    assert_eq!(got, all(8..=4_800));
    assert_eq!(broker.settled("g").await.expect("answers"), Some(4_800));
}

#[tokio::test]
async fn after_a_flush_and_a_refill_from_further_on_everything_arrives() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    for group_first in [true, false] {
        corner.flush(&["g"]).await;
        let broker = corner.process("a");
        corner.publish(&broker, 1..=30).await;
        let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
        assert_eq!(read(&mut reader, 7, Some((&broker, "g"))).await, all(1..=7));
        assert_eq!(broker.settled("g").await.expect("answers"), Some(7));
        corner.flush(&["g"]).await;
        assert_eq!(broker.settled("g").await.expect("answers"), None);
        if group_first {
            while broker.settled("g").await.expect("answers").is_none() {
                let _ = reader.next(7).await;
            }
        }
        assert_eq!(broker.head().await.expect("answers"), None);
        corner.publish(&broker, 25..=40).await;
        let got = read(&mut reader, 33, Some((&broker, "g"))).await;
        assert_eq!(got, all(8..=40), "after what was settled: {group_first}");
        assert_eq!(broker.settled("g").await.expect("answers"), Some(40));
    }
}

#[tokio::test]
async fn settled_is_what_comes_before_the_first_open_end() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("a");
    assert_eq!(broker.settled("g").await.expect("answers"), None);
    corner.publish(&broker, 11..=20).await;
    assert_eq!(broker.settled("g").await.expect("answers"), None);
    let mut reader = broker.subscribe("g", 8).await.expect("subscribes");
    assert_eq!(
        broker.settled("g").await.expect("answers"),
        Some(8),
        "9, 10"
    );
    assert_eq!(read(&mut reader, 12, None).await, all(9..=20));
    broker.ack("g", &[10, 13, 11]).await.expect("acknowledges");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(8));
    broker.ack("g", &[9]).await.expect("acknowledges");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(11));
    broker.ack("g", &all(12..=20)).await.expect("acknowledges");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(20));
    drop(reader);
    corner.publish(&broker, 21..=30).await;
    assert_eq!(broker.settled("g").await.expect("answers"), Some(20));
    let _moved = broker.subscribe("g", 25).await.expect("subscribes");
    assert_eq!(
        broker.settled("g").await.expect("answers"),
        Some(25),
        "a group behind its checkpoint moves there"
    );
    let _stays = broker.subscribe("g", 3).await.expect("subscribes");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(25));
}

#[tokio::test]
async fn what_the_feed_no_longer_has_does_not_hold_a_group_up() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    corner.feed.first.store(6, Ordering::SeqCst);
    corner.feed.last.store(12, Ordering::SeqCst);
    let broker = corner.process("a");
    broker.append(&events(11..=12)).await.expect("appends");
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    let got = read(&mut reader, 7, Some((&broker, "g"))).await;
    assert_eq!(got, all(6..=12));
    assert_eq!(broker.settled("g").await.expect("answers"), Some(12));
}

#[tokio::test]
async fn a_follower_skips_and_repeats_nothing() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("a");
    let mut reader = broker.follow(4).await.expect("follows");
    corner.publish(&broker, 1..=20).await;
    assert_eq!(read(&mut reader, 16, None).await, all(5..=20));
    // The stream begins anew after a hole.
    corner.flush(&[]).await;
    corner.publish(&broker, 41..=60).await;
    assert_eq!(read(&mut reader, 40, None).await, all(21..=60));
    // The stream lags: it is being refilled from far back.
    corner.flush(&[]).await;
    corner.publish(&broker, 30..=40).await;
    corner.feed.last.store(70, Ordering::SeqCst);
    assert_eq!(read(&mut reader, 10, None).await, all(61..=70));
    corner.publish(&broker, 41..=80).await;
    assert_eq!(read(&mut reader, 10, None).await, all(71..=80));
    // Caught up, it waits for a while and says that there is nothing.
    let before = corner.feed.reads.load(Ordering::SeqCst);
    assert!(reader.next(7).await.expect("reads").is_empty());
    assert!(
        corner.feed.reads.load(Ordering::SeqCst) - before < 15,
        "waits in Redis"
    );
}

#[tokio::test]
async fn a_follower_goes_on_while_redis_is_away() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let proxy = Proxy::new(&corner).await;
    let near = corner.process("near");
    let broker = corner.process_at("a", &proxy.url, 1_000);
    let mut reader = broker.follow(0).await.expect("follows");
    corner.publish(&near, 1..=5).await;
    assert_eq!(read(&mut reader, 5, None).await, all(1..=5));
    proxy.up.send_replace(false);
    broker.ping().await.expect_err("it is away");
    for n in 6..=30 {
        corner.feed.last.store(n, Ordering::SeqCst);
        assert_eq!(read(&mut reader, 1, None).await, [n]);
    }
    near.append(&events(6..=30)).await.expect("appends");
    proxy.up.send_replace(true);
    let deadline = Instant::now() + PATIENCE;
    while broker.ping().await.is_err() {
        assert!(Instant::now() < deadline, "the same broker connects again");
        sleep(Duration::from_millis(10)).await;
    }
    for n in 31..=60 {
        corner.publish(&near, n..=n).await;
        assert_eq!(read(&mut reader, 1, None).await, [n]);
    }
}

#[tokio::test]
async fn a_competing_reader_goes_on_after_redis_was_away() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let proxy = Proxy::new(&corner).await;
    let near = corner.process("near");
    let broker = corner.process_at("a", &proxy.url, 1_000);
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    corner.publish(&near, 1..=10).await;
    assert_eq!(read(&mut reader, 7, None).await, all(1..=7));
    proxy.up.send_replace(false);
    timeout(PATIENCE, async { while reader.next(7).await.is_ok() {} })
        .await
        .expect("it says so");
    broker
        .ack("g", &all(1..=7))
        .await
        .expect_err("nobody takes the acknowledgement");
    proxy.up.send_replace(true);
    let got = read(&mut reader, 10, Some((&near, "g"))).await;
    assert_eq!(
        got,
        all(1..=10),
        "what could not be acknowledged comes again"
    );
    assert_eq!(near.settled("g").await.expect("answers"), Some(10));
}

#[tokio::test]
async fn a_new_epoch_is_a_new_stream() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("a");
    let mut group = broker.subscribe("g", 2).await.expect("subscribes");
    corner.publish(&broker, 3..=9).await;
    assert_eq!(read(&mut group, 7, Some((&broker, "g"))).await, all(3..=9));
    let old = broker;
    let broker = corner.process_in("a", &format!("{}-2", corner.epoch));
    assert_eq!(broker.head().await.expect("answers"), None);
    assert_eq!(broker.witness().await.expect("answers"), None);
    corner.publish(&broker, 3..=16).await;
    let mut group = broker.subscribe("g", 2).await.expect("subscribes");
    // What was read of the old stream is acknowledged there, and nowhere else.
    old.ack("g", &all(3..=16)).await.expect("acknowledges");
    assert_eq!(broker.settled("g").await.expect("answers"), Some(2));
    assert_eq!(
        read(&mut group, 14, Some((&broker, "g"))).await,
        all(3..=16)
    );
    assert_eq!(old.head().await.expect("answers"), Some(9));
}

#[tokio::test]
async fn the_last_entry_bears_witness_to_the_history_it_came_from() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("a");
    corner.publish(&broker, 1..=9).await;
    let last = Witness {
        seq: 9,
        event_id: event(9).event_id,
    };
    assert_eq!(broker.witness().await.expect("answers"), Some(last));
    broker.trim(9).await.expect("trims");
    assert_eq!(broker.witness().await.expect("answers"), None);
}

#[tokio::test]
async fn what_a_process_got_is_its_own_only_as_long_as_it_can_say_so() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let proxy = Proxy::new(&corner).await;
    let far = corner.process_at("far", &proxy.url, 1_000_000);
    let near = corner.process("near");
    corner.publish(&near, 1..=5).await;
    let mut reader = far.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 5, None).await, all(1..=5));
    assert_eq!(far.hold("g", 3), Hold::Firm);
    assert_eq!(far.hold("g", 6), Hold::Lost, "it never got that");

    // Cut off, it keeps nothing from the others, and begins to doubt before they may take it.
    proxy.up.send_replace(false);
    let mut other = near.subscribe("g", 0).await.expect("subscribes");
    let mut got = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while got.len() < 5 {
        assert!(Instant::now() < deadline, "only {got:?} came");
        let batch = other.next(5).await.expect("reads");
        if !batch.is_empty() {
            assert_ne!(far.hold("g", 3), Hold::Firm, "two processes have it");
        }
        got.extend(batch.iter().map(|event| event.seq));
    }
    assert_eq!(near.hold("g", 3), Hold::Firm);

    // Back again, it learns that they are gone.
    proxy.up.send_replace(true);
    while far.hold("g", 3) != Hold::Lost {
        assert!(Instant::now() < deadline, "it believes to have them");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn after_a_flush_a_process_does_not_believe_to_have_what_others_get() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let far = corner.process("far");
    let near = corner.process("near");
    corner.publish(&near, 1..=5).await;
    let mut reader = far.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 5, None).await, all(1..=5));

    corner.flush(&["g"]).await;
    assert_eq!(reader.next(5).await.expect("no error").len(), 0);
    assert_eq!(
        far.hold("g", 3),
        Hold::Unsure,
        "at once, not when it is idle"
    );
    corner.publish(&near, 1..=5).await;
    let mut other = near.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut other, 5, None).await, all(1..=5));
    assert_eq!(near.hold("g", 3), Hold::Firm);
    // Its next read begins with the question what it still has.
    assert_eq!(reader.next(5).await.expect("reads").len(), 0);
    assert_eq!(far.hold("g", 3), Hold::Lost);
}

#[tokio::test]
async fn dead_letters_are_told_of() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let now = DateTime::from_timestamp(1_700_000_000, 0).expect("in range");
    let letter = LedgerRow {
        sink: "email".into(),
        event_id: Ulid(1),
        tenant_id: "acme".into(),
        kind: "order.created".into(),
        recipient: "a@example.org".into(),
        state: State::Dead,
        attempts: 3,
        next_attempt_at: None,
        cause: Some("550 no such user".into()),
        response: None,
        history: Vec::new(),
        created_at: now,
        updated_at: now,
    };
    let broker = corner.process("a");
    broker
        .dead_letters(&[letter.clone(), letter])
        .await
        .expect("tells");
    let mut range = cmd("XRANGE");
    range.arg(corner.key("dead")).arg("-").arg("+");
    let told: Vec<(String, Vec<String>)> = corner.ask(&range).await;
    assert_eq!(told.len(), 2);
    let fields = &told[0].1;
    assert_eq!(fields[..4], ["sink", "email", "recipient", "a@example.org"]);
    assert_eq!(
        fields[10..14],
        ["cause", "550 no such user", "attempts", "3"][..]
    );
}

/// What the story below knows: what was handed out, and what is acknowledged or about to be.
#[derive(Default)]
struct Seen {
    got: BTreeSet<i64>,
    acknowledged: BTreeSet<i64>,
}

/// Reads and acknowledges as a runner does, through every error; dies now and then.
async fn run(broker: Redis, checkpoint: Arc<AtomicI64>, seen: Arc<Mutex<Seen>>) {
    loop {
        let from = checkpoint.load(Ordering::SeqCst);
        let Ok(mut reader) = broker.subscribe("g", from).await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        for _ in 0..rand::random_range(20..60) {
            let Ok(batch) = reader.next(20).await else {
                continue;
            };
            let seqs: Vec<i64> = batch.iter().map(|event| event.seq).collect();
            {
                let mut seen = seen.lock().expect("whole");
                seen.got.extend(&seqs);
                seen.acknowledged.extend(&seqs);
            }
            let _ = broker.ack("g", &seqs).await;
        }
        // Taken and never acknowledged.
        if let Ok(batch) = reader.next(5).await {
            let mut seen = seen.lock().expect("whole");
            seen.got.extend(batch.iter().map(|event| event.seq));
        }
    }
}

/// As the relay: makes the stream equal the feed, moves the checkpoint, trims.
async fn relay(corner: &Corner, broker: &Redis, checkpoint: &AtomicI64, seen: &Mutex<Seen>) {
    if let Ok(Some(settled)) = broker.settled("g").await {
        let seen = seen.lock().expect("whole");
        let open = (1..=settled).find(|seq| !seen.acknowledged.contains(seq));
        assert_eq!(open, None, "{settled} is settled, but not this");
        checkpoint.fetch_max(settled, Ordering::SeqCst);
    }
    let settled = checkpoint.load(Ordering::SeqCst);
    if let Ok(head) = broker.head().await {
        // Refills leave out what is beyond the ceiling.
        let end = corner.feed.last.load(Ordering::SeqCst);
        let after = head.unwrap_or(settled.max(end - 60));
        let upto = end.min(after + 40);
        let _ = broker.append(&events(after + 1..=upto)).await;
    }
    let _ = broker.trim(settled).await;
}

#[tokio::test]
async fn nothing_is_lost_through_cuts_flushes_ceilings_and_deaths() {
    const END: i64 = 3_000;
    let Some(corner) = Corner::new().await else {
        return;
    };
    let proxy = Proxy::new(&corner).await;
    let checkpoint = Arc::new(AtomicI64::new(0));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut tasks = Vec::new();
    for name in ["a", "b", "c"] {
        let broker = corner.process_at(name, &proxy.url, 60);
        tasks.push(tokio::spawn(run(
            broker,
            Arc::clone(&checkpoint),
            Arc::clone(&seen),
        )));
    }
    let near = corner.process_at("relay", &corner.url, 60);
    let deadline = Instant::now() + PATIENCE * 3;
    for round in 1_i64.. {
        corner
            .feed
            .last
            .store(END.min(round * 20), Ordering::SeqCst);
        relay(&corner, &near, &checkpoint, &seen).await;
        match round % 50 {
            7 | 23 => {
                proxy.up.send_replace(true);
            }
            41 if round < 300 => corner.flush(&["g"]).await,
            _ => {}
        }
        if checkpoint.load(Ordering::SeqCst) == END {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "settled only {checkpoint:?}, missing {:?}",
            (1..=END).find(|seq| !seen.lock().expect("whole").got.contains(seq))
        );
        sleep(Duration::from_millis(10)).await;
    }
    for task in tasks {
        task.abort();
    }
    let seen = seen.lock().expect("whole");
    assert!(seen.got.iter().copied().eq(1..=END), "every event came");
}
