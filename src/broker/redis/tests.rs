//! What Redis alone promises; what every broker does is in the suite, `tests/broker`. Against a real
//! Redis: `HERALD_TEST_REDIS_URL` names one. Every test has an epoch of its own, so none sees
//! another's keys.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use chrono::DateTime;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, cmd};
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
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
        let options = RedisOptions {
            url: url.into(),
            max_len,
            reclaim_idle: IDLE,
            timeout: Duration::from_secs(2),
            consumer: consumer.into(),
        };
        Redis::new(options, self.feed.clone(), &self.epoch).expect("a Redis URL")
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
async fn trimming_frees_the_stream_and_joins_neighbouring_holes() {
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
    let length = async || -> i64 { corner.ask(cmd("XLEN").arg(corner.key("stream"))).await };
    assert_eq!(length().await, 10);
    let holes: i64 = corner.ask(cmd("HLEN").arg(corner.key("holes:g"))).await;
    assert_eq!(holes, 1);
    broker.trim(4_800).await.expect("trims");
    assert_eq!(length().await, 0);
    assert_eq!(broker.head().await.expect("answers"), Some(4_800));
}

#[tokio::test]
async fn what_somebody_else_trimmed_while_it_was_pending_comes_from_the_feed() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let a = corner.process("a");
    corner.publish(&a, 1..=10).await;
    let mut reader = a.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 7, None).await, all(1..=7));
    let mut trim = cmd("XTRIM");
    trim.arg(corner.key("stream")).arg("MINID").arg("9-0");
    corner.ask::<()>(&trim).await;
    a.ack("g", &[2, 3]).await.expect("acknowledges");
    assert_eq!(a.settled("g").await.expect("answers"), Some(0));
    drop(reader);
    let b = corner.process("b");
    let mut other = b.subscribe("g", 0).await.expect("subscribes");
    let got = read(&mut other, 8, Some((&b, "g"))).await;
    let got: BTreeSet<i64> = got.into_iter().collect();
    assert_eq!(got, BTreeSet::from([1, 4, 5, 6, 7, 8, 9, 10]));
    assert_eq!(b.settled("g").await.expect("answers"), Some(10));
}

#[tokio::test]
async fn a_follower_that_has_caught_up_waits_in_redis_and_spares_the_feed() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("a");
    let mut reader = broker.follow(0).await.expect("follows");
    corner.publish(&broker, 1..=20).await;
    assert_eq!(read(&mut reader, 20, None).await, all(1..=20));
    let before = corner.feed.reads.load(Ordering::SeqCst);
    assert!(reader.next(7).await.expect("reads").is_empty());
    let reads = corner.feed.reads.load(Ordering::SeqCst) - before;
    assert!(reads < 15, "{reads}");
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
async fn after_a_flush_a_process_does_not_believe_to_have_what_others_get() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let far = corner.process("far");
    let near = corner.process("near");
    corner.publish(&near, 1..=5).await;
    let mut reader = far.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 5, None).await, all(1..=5));

    // As FLUSHALL would, for this test alone.
    corner
        .ask::<()>(
            cmd("DEL")
                .arg(corner.key("stream"))
                .arg(corner.key("holes:g")),
        )
        .await;
    assert_eq!(reader.next(5).await.expect("no error").len(), 0);
    // Unsure until the group that is made anew says that it is lost.
    assert_ne!(far.hold("g", 3), Hold::Firm, "at once, not when it is idle");
    corner.publish(&near, 1..=5).await;
    let mut other = near.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut other, 5, None).await, all(1..=5));
    assert_eq!(near.hold("g", 3), Hold::Firm);
    // Its next read begins with the question what it still has.
    assert_eq!(reader.next(5).await.expect("reads").len(), 0);
    assert_eq!(far.hold("g", 3), Hold::Lost);
}

/// As when all places are taken by those who wait until they are sure.
#[tokio::test]
async fn a_group_that_redis_lost_is_made_anew_though_nobody_reads() {
    let Some(corner) = Corner::new().await else {
        return;
    };
    let broker = corner.process("one");
    corner.publish(&broker, 1..=5).await;
    let mut reader = broker.subscribe("g", 0).await.expect("subscribes");
    assert_eq!(read(&mut reader, 5, None).await, all(1..=5));
    corner
        .ask::<()>(
            cmd("DEL")
                .arg(corner.key("stream"))
                .arg(corner.key("holes:g")),
        )
        .await;
    let deadline = Instant::now() + PATIENCE;
    while broker.hold("g", 3) != Hold::Lost {
        assert!(Instant::now() < deadline, "it stays unsure for ever");
        tokio::time::sleep(IDLE / 10).await;
    }
    corner.publish(&broker, 1..=5).await;
    assert_eq!(read(&mut reader, 5, None).await, all(1..=5), "once more");
    assert_eq!(broker.hold("g", 3), Hold::Firm);
}

#[tokio::test]
async fn an_entry_for_a_dead_letter_has_a_few_fields_and_the_whole_row() {
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
    broker.dead_letters(&[letter]).await.expect("tells");
    let mut range = cmd("XRANGE");
    range.arg(corner.key("dead")).arg("-").arg("+");
    let told: Vec<(String, Vec<String>)> = corner.ask(&range).await;
    assert_eq!(told.len(), 1);
    let fields = &told[0].1;
    assert_eq!(fields[..4], ["sink", "email", "recipient", "a@example.org"]);
    assert_eq!(
        fields[10..14],
        ["cause", "550 no such user", "attempts", "3"][..]
    );
    assert_eq!(fields[14], "json");
    let row: serde_json::Value = serde_json::from_str(&fields[15]).expect("JSON");
    assert_eq!(row["state"], "dead");
}
