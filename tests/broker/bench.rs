//! What a backend gives the suite, and what the tests have in common.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald::broker::{Broker, Reader};
use herald::store::{Feed, NewEvent, Sqlite, Store};
use herald_contract::Event;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// Longer than anything takes that comes at all.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A process, as its broker sees it.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    /// Unique among those that run.
    pub name: &'a str,
    /// Events its stream holds at most, where it keeps any.
    pub ceiling: u64,
    /// Whether [`Server::cut`] cuts it off.
    pub far: bool,
}

/// What a process's broker is made on. What follows the first method is for the abilities that need
/// it.
#[async_trait]
pub trait Server: Send + Sync {
    /// A broker as this process has it.
    fn broker(&self, process: Process<'_>) -> Arc<dyn Broker>;

    /// `keeps`: all that the server has is lost.
    async fn lose(&self) {
        panic!("it keeps nothing that it could lose");
    }

    /// `keeps`: the brokers that are made from now on carry a new epoch.
    fn begin_epoch(&self) {
        panic!("it has no epochs");
    }

    /// `shared`: after how long without a sign of life a process's events go to another one.
    fn idle(&self) -> Duration {
        Duration::from_millis(200)
    }

    /// `remote`: cuts the connections of those who are far; until it is told that the server is
    /// back they get no others.
    fn cut(&self, _away: bool) {
        panic!("it is never out of reach");
    }

    /// `tells_dead_letters`: sink, recipient and cause of all that a listener was told.
    async fn told(&self) -> Vec<[String; 3]> {
        panic!("it tells nobody");
    }
}

/// A feed, and a server for its stream.
pub struct Bench {
    pub server: Box<dyn Server>,
    store: Arc<Sqlite>,
    _folder: TempDir,
}

impl Bench {
    /// `server` makes one over this feed.
    pub async fn new<S: Server + 'static>(server: impl FnOnce(Arc<Sqlite>) -> S) -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("herald.db").display());
        let store = Arc::new(Sqlite::new(&url, PATIENCE).expect("a good URL"));
        store.migrate().await.expect("migrated");
        Arc::new(Self {
            server: Box::new(server(Arc::clone(&store))),
            store,
            _folder: folder,
        })
    }

    pub fn process(&self, name: &str) -> Arc<dyn Broker> {
        self.server.broker(Process {
            name,
            ceiling: 1_000_000,
            far: false,
        })
    }

    /// One whose stream holds less than its groups may still need.
    pub fn with_ceiling(&self, name: &str, ceiling: u64) -> Arc<dyn Broker> {
        self.server.broker(Process {
            name,
            ceiling,
            far: false,
        })
    }

    pub fn far(&self, name: &str, ceiling: u64) -> Arc<dyn Broker> {
        self.server.broker(Process {
            name,
            ceiling,
            far: true,
        })
    }

    /// The feed ends at `seq`, whether or not the stream has it all. An event's aggregate id is its
    /// `seq`.
    pub async fn grow(&self, seq: i64) {
        let head = self.store.feed_head().await.expect("read").seq;
        let new: Vec<_> = (head + 1..=seq).map(|_| event()).collect();
        for some in new.chunks(1_000) {
            self.store.emit(some).await.expect("emitted");
        }
        let mut lead = self.store.try_lead().await.expect("asked").expect("leads");
        while !lead.sequence(1_000).await.expect("sequenced").is_empty() {}
    }

    pub async fn events(&self, range: RangeInclusive<i64>) -> Vec<Arc<Event>> {
        let count = usize::try_from(range.end() - range.start() + 1).expect("not empty");
        let events = self.store.feed(range.start() - 1, count).await;
        let events = events.expect("read");
        assert_eq!(events.len(), count, "the feed goes up to {range:?}");
        events
    }

    /// The feed and the stream grow, as by the relay.
    pub async fn publish(&self, broker: &dyn Broker, range: RangeInclusive<i64>) {
        let end = *range.end();
        self.grow(end).await;
        let events = self.events(range).await;
        broker.append(&events).await.expect("appended");
        broker.wake(end);
    }
}

fn event() -> NewEvent {
    NewEvent {
        event_id: ulid::Generator::new().generate().expect("the first"),
        tenant_id: "acme".to_owned(),
        kind: "order.created".to_owned(),
        payload: RawValue::from_string("{\"n\":1}".to_owned()).expect("JSON"),
        metadata: None,
        idempotency_key: None,
    }
}

/// Ends a test that waits for what never comes.
pub async fn bounded(test: impl Future<Output = ()>) {
    let ended = timeout(PATIENCE * 5, test).await;
    ended.expect("it waits for what never comes");
}

pub fn all(range: RangeInclusive<i64>) -> Vec<i64> {
    range.collect()
}

/// Reads until `count` events came, passing over errors.
pub async fn read(reader: &mut Box<dyn Reader>, count: usize) -> Vec<i64> {
    read_and(reader, count, async |_| {}).await
}

/// The same, acknowledging each batch.
pub async fn read_and_ack(
    reader: &mut Box<dyn Reader>,
    count: usize,
    broker: &dyn Broker,
    group: &str,
) -> Vec<i64> {
    let ack = async |seqs: Vec<i64>| broker.ack(group, &seqs).await.expect("acknowledged");
    read_and(reader, count, ack).await
}

async fn read_and(
    reader: &mut Box<dyn Reader>,
    count: usize,
    and: impl AsyncFn(Vec<i64>),
) -> Vec<i64> {
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
        and(seqs.clone()).await;
        got.extend(seqs);
    }
    got
}

pub async fn settled(broker: &dyn Broker, group: &str) -> Option<i64> {
    broker.settled(group).await.expect("answers")
}

/// For so long nobody has anything for this reader.
pub async fn reads_nothing(reader: &mut Box<dyn Reader>, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        let stolen = reader.next(10).await.expect("reads");
        let stolen: Vec<i64> = stolen.iter().map(|event| event.seq).collect();
        assert!(stolen.is_empty(), "{stolen:?}");
    }
}
