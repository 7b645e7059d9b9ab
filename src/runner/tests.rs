//! What stands between a delivery and its attempt, where a story of processes would be too coarse.
//! The store is never asked, and the broker is the one that keeps nothing.

use async_trait::async_trait;
use herald_contract::{Recipient, Recipients, Unavailable};

use super::*;
use crate::broker::Embedded;
use crate::config::Rate;
use crate::store::Sqlite;

const SECOND: Duration = Duration::from_secs(1);

/// Takes everything at once, and counts.
#[derive(Default)]
struct Eager(AtomicUsize);

#[async_trait]
impl Sink for Eager {
    async fn recipients(&self, events: &[Arc<Event>]) -> Result<Vec<Recipients>, Unavailable> {
        Ok(vec![Ok(Vec::new()); events.len()])
    }

    async fn deliver(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        self.0.fetch_add(deliveries.len(), Ordering::Relaxed);
        vec![Outcome::Delivered { response: None }; deliveries.len()]
    }
}

struct Bench {
    runner: Arc<Runner>,
    sink: Arc<Eager>,
    gate: watch::Sender<Gate>,
    done: mpsc::Sender<Done>,
    finished: mpsc::Receiver<Done>,
}

fn bench(rate: Option<&str>) -> Bench {
    let rate: Option<Rate> = rate.map(|rate| rate.parse().expect("a rate"));
    let breaker = BreakerLimits {
        failures: 10,
        open: Backoff::INTERNAL,
    };
    let settings = Settings {
        name: "eager".to_owned(),
        types: TypeFilter::default(),
        concurrency: 4,
        attempt_timeout: SECOND,
        backoff: Backoff::INTERNAL,
        max_attempts: 5,
        dead_letter_tenant: None,
        rate,
        breaker,
        destination: DestinationLimits {
            concurrency: 3,
            rate: None,
            breaker,
        },
        expires_after: None,
        order: None,
    };
    let store = Sqlite::new("sqlite://never-opened.db", SECOND).expect("a URL");
    let store: Arc<dyn Store> = Arc::new(store);
    let (gate, sink) = (watch::Sender::new(Gate::Open), Arc::new(Eager::default()));
    let runner = Runner::new(
        settings,
        sink.clone(),
        store.clone(),
        Arc::new(Embedded::new(store)),
        Arc::new(Metrics::new().expect("metrics")),
        gate.subscribe(),
        CancellationToken::new(),
    );
    let (done, finished) = mpsc::channel(1_000);
    Bench {
        runner: Arc::new(runner),
        sink,
        gate,
        done,
        finished,
    }
}

/// A delivery from the stream, as dispatch makes it.
fn work(runner: &Runner, seq: i64) -> Work {
    runner.under_way().insert(seq);
    Work {
        delivery: Delivery {
            event: herald_testkit::event(seq, "acme", "order.created", "{}"),
            recipient: Recipient::new("a"),
            attempt: 1,
        },
        spent: 0,
        history: Vec::new(),
        entry: Some(Arc::new(Entry {
            seq,
            open: AtomicUsize::new(1),
        })),
        leased_until: None,
        order_key: None,
        room: None,
    }
}

/// A delivery from the ledger, which has it for this process for so long.
fn leased(runner: &Runner, seq: i64, lease: Duration) -> Work {
    Work {
        entry: None,
        leased_until: Some(Instant::now() + lease),
        ..work(runner, seq)
    }
}

/// Until everybody waits for something.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(start_paused = true)]
async fn while_a_sink_is_paused_nothing_begins_and_what_was_read_is_kept() {
    let bench = bench(None);
    bench.gate.send_replace(Gate::Paused);
    let works = (1..=3).map(|seq| work(&bench.runner, seq)).collect();
    let (runner, done) = (bench.runner.clone(), bench.done.clone());
    let begun = tokio::spawn(async move { runner.begin(works, &done).await });
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 0);
    assert_eq!(bench.runner.in_flight(), 0);
    assert_eq!(bench.runner.under_way().len(), 3);
    bench.gate.send_replace(Gate::Open);
    begun.await.expect("no panic");
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_does_is_let_go() {
    let mut bench = bench(None);
    bench.gate.send_replace(Gate::Away);
    let works = vec![
        work(&bench.runner, 1),
        leased(&bench.runner, 2, 60 * SECOND),
    ];
    bench.runner.begin(works, &bench.done).await;
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 0);
    assert!(
        !bench.runner.under_way().contains(&1),
        "it may be read again"
    );
    let given_back = bench.finished.try_recv().expect("the leased one");
    assert!(matches!(
        given_back,
        Done::Attempted { work, outcome: Outcome::Defer { .. }, took: None } if work.entry.is_none()
    ));
    assert!(bench.finished.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_in_waiting_for_the_rate_takes_nothing_of_it() {
    let bench = bench(Some("10/h"));
    let works = vec![
        work(&bench.runner, 1),
        leased(&bench.runner, 2, 60 * SECOND),
        leased(&bench.runner, 3, 60 * SECOND),
    ];
    let begin = Instant::now();
    bench.runner.begin(works, &bench.done).await;
    assert_eq!(begin.elapsed(), 60 * SECOND, "until the lease was over");
    // The next one goes six minutes after the first, as if the others had not been.
    let works = vec![leased(&bench.runner, 4, 3600 * SECOND)];
    bench.runner.begin(works, &bench.done).await;
    assert!(begin.elapsed() <= 360 * SECOND, "{:?}", begin.elapsed());
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_begins_than_a_crash_may_make_twice_until_something_is_recorded() {
    let mut bench = bench(None);
    let works = (1..=20).map(|seq| work(&bench.runner, seq)).collect();
    let (runner, done) = (bench.runner.clone(), bench.done.clone());
    let begun = tokio::spawn(async move { runner.begin(works, &done).await });
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 4, "its concurrency");
    let recorded = bench.finished.try_recv().expect("one of them");
    drop(recorded);
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 5);
    while !begun.is_finished() {
        drop(bench.finished.recv().await);
    }
    settled().await;
    assert_eq!(bench.sink.0.load(Ordering::Relaxed), 20);
}
