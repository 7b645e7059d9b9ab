//! The story with PostgreSQL and Redis, and every role twice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::checker::judge;
use crate::clients::watch;
use crate::cluster::{Cluster, TENANTS};
use crate::gather::{gather, keep};
use crate::harness::{END, eventually, given, python, seconds, seed, within};
use crate::producers::{Habits, Producer};
use crate::schedule::{AT_ONCE, Struck, count, draw};
use crate::{duration, report, say};

/// SSE clients of each tenant.
const CLIENTS: usize = 3;

/// How long everything may take to come to rest once nothing is broken any more.
const REST: Duration = seconds(120);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_nothing_committed_is_lost_and_streams_keep_the_order() {
    let bin = given("PostgreSQL", "HERALD_TEST_POSTGRES_BIN");
    let redis = given("Redis", "HERALD_TEST_REDIS_URL");
    let (Some(bin), Some(_), Some(python)) = (bin, redis, python()) else {
        return;
    };
    let seed = seed();
    say(&format!("servers: HERALD_TEST_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Arc::new(Cluster::start(Path::new(&bin), &python).await);
    let books = Arc::new(Books::default());
    let stop = CancellationToken::new();

    let mut clients = JoinSet::new();
    for (tenant, turn) in TENANTS
        .iter()
        .flat_map(|t| (0..CLIENTS).map(move |n| (t, n)))
    {
        let mut servers = cluster.servers(tenant);
        servers.rotate_left(turn % 2);
        clients.spawn(watch(servers, (*tenant).into()));
    }
    let producers = produce(&cluster, &books, &stop, random.random()).await;
    let struck = break_things(&cluster, &mut random, duration(1)).await;

    let healed = Instant::now();
    cluster.clear_up();
    stop.cancel();
    within("the producers end", seconds(60), producers.join_all()).await;
    let doubtful = rest(&cluster, &books).await;
    let watched = within("every client sees the end", REST, clients.join_all()).await;
    let streamed = healed.elapsed().as_secs();
    cluster.settled().await;
    let settled = healed.elapsed().as_secs();

    let reconnects = watched.iter().map(|w| w.reconnects).sum::<usize>();
    let evidence = gather(&cluster, &books, watched, &struck).await;
    let verdict = judge(&evidence);
    let [committed, rolled_back] = [evidence.committed.len(), evidence.rolled_back.len()];
    let [kinds, targets] = count(&struck);
    say(&format!("servers: faults: {} {kinds:?}", struck.len()));
    say(&format!("servers: targets: {targets:?}"));
    cluster.tell().await;
    keep(&cluster, &struck, &evidence).await;
    say(&format!(
        "servers: events: {committed} committed, {rolled_back} rolled back, {doubtful} were doubtful"
    ));
    say(&format!(
        "servers: after the last fault streams were complete in {streamed} s, the rest in {settled} s"
    ));
    say(&format!(
        "servers: SSE: {} clients, {reconnects} reconnects",
        evidence.streams.len()
    ));
    report("servers", &verdict);
}

/// At a steady pace, about a hundred events a second in all.
async fn produce(
    cluster: &Arc<Cluster>,
    books: &Arc<Books>,
    stop: &CancellationToken,
    seed: u64,
) -> JoinSet<()> {
    let habits = |every, batch, rolled_back, open| Habits {
        every: Duration::from_millis(every),
        batch,
        rolled_back,
        open,
    };
    let port = cluster.link("producers → PostgreSQL").proxy.port;
    let url = cluster.postgres.lock().await.url(port);
    let mut producers = JoinSet::new();
    for (number, habits) in [
        habits(50, 1, 0, 0),        // by HTTP, one at a time
        habits(500, 10, 0, 0),      // by HTTP, in batches
        habits(40, 1, 10, 0),       // by SQL, one at a time
        habits(200, 5, 30, 50),     // by SQL, some rolled back
        habits(100, 20, 10, 4_000), // by SQL, and late
        habits(100, 20, 10, 4_000),
    ]
    .into_iter()
    .enumerate()
    {
        let producer = Producer {
            books: books.clone(),
            tenants: TENANTS.map(str::to_owned).into(),
            habits,
            seed: seed.wrapping_add(number as u64),
            stop: stop.clone(),
        };
        match number {
            0 | 1 => producers.spawn(producer.by_http(cluster.servers("producers"))),
            _ => producers.spawn(producer.by_sql(url.clone())),
        };
    }
    producers
}

/// Breaks one thing after the other, several at a time, for this long, and has all of them whole
/// again at the end.
async fn break_things(cluster: &Arc<Cluster>, random: &mut StdRng, lasts: Duration) -> Vec<Struck> {
    let end = Instant::now() + lasts;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut faults = JoinSet::new();
    let mut struck = Vec::new();
    while Instant::now() < end {
        let drawn = draw(random);
        sleep(drawn.pause).await;
        let permit = room.clone().acquire_owned().await.expect("never closed");
        let cluster = cluster.clone();
        faults.spawn(async move {
            let struck = cluster.strike(drawn).await;
            drop(permit);
            struck
        });
        while let Some(ended) = faults.try_join_next() {
            struck.extend(ended.expect("a fault passes"));
        }
    }
    struck.extend(faults.join_all().await.into_iter().flatten());
    for member in &cluster.members {
        member.lock().await.assert_running();
    }
    struck
}

/// Waits until every transaction is over and in the feed, decides the doubts, and emits each
/// tenant's last event. Returns how many doubts there were.
async fn rest(cluster: &Cluster, books: &Books) -> usize {
    eventually("the last transaction is over", seconds(60), async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'producer'";
        (cluster.query::<i64>(sql).await == [0]).then_some(())
    })
    .await;
    let doubtful = books.resolve(&cluster.stored().await);
    // Were it not so, what is left could come behind the last event.
    eventually("the outbox is empty", REST, async || {
        let waiting = cluster
            .query::<i64>("SELECT count(*) FROM herald.outbox")
            .await;
        (waiting == [0]).then_some(())
    })
    .await;
    let mut connection = cluster.connect().await;
    for tenant in TENANTS {
        sqlx::query("SELECT herald.emit($1, $2, '{}')")
            .bind(tenant)
            .bind(END)
            .execute(&mut connection)
            .await
            .expect("emits");
    }
    doubtful
}

impl Cluster {
    /// Waits until nothing is to be done any more, in any ledger or queue.
    async fn settled(&self) {
        eventually("all is settled", REST, async || {
            let sql = "SELECT count(*) FROM herald.outbox
                UNION ALL SELECT count(*) FROM herald.deliveries WHERE state = 'pending'
                UNION ALL SELECT count(*) FROM herald.checkpoints, herald.feed_state
                          WHERE checkpoints.seq < feed_state.seq";
            (self.query::<i64>(sql).await == [0; 3]).then_some(())
        })
        .await;
        let sql = "SELECT cause FROM herald.deliveries WHERE state <> 'delivered'";
        assert_eq!(self.query::<String>(sql).await, [""; 0], "not delivered");
    }
}
