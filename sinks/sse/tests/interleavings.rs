//! Clients come, lag, leave and return while events are published, in many random orders. Whatever
//! happens, each gets its tenant's events exactly once and in order from where it began.

mod support;

use std::sync::Arc;
use std::time::Duration;

use herald_contract::{Broadcast as _, Event};
use herald_sse::Config;
use herald_testkit::{aggregate_id as aggregate, event, event_id as id};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::{Message, Server};

const EVENTS: i64 = 60;
const CLIENTS: u64 = 5;
const CASES: u64 = 400;
/// Committed before anybody comes, published later: a cursor names one of these.
const EARLY: usize = 15;

/// The last event is `a`'s, so that every client knows when it has all.
fn feed(rng: &mut StdRng) -> Vec<Arc<Event>> {
    let tenant = |seq, other: bool| if other && seq < EVENTS { "b" } else { "a" };
    (1..=EVENTS)
        .map(|seq| event(seq, tenant(seq, rng.random_bool(0.3)), "k", "{}"))
        .collect()
}

async fn pause(rng: &mut StdRng) {
    for _ in 0..rng.random_range(0..4) {
        tokio::task::yield_now().await;
    }
    if rng.random_bool(0.2) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..5))).await;
    }
}

/// Commits run ahead of publishing, and batches overlap.
async fn publish(server: Arc<Server>, feed: Arc<Vec<Arc<Event>>>, mut rng: StdRng) {
    let (mut committed, mut published) = (EARLY, 0);
    while published < feed.len() {
        pause(&mut rng).await;
        let next = rng.random_range(committed..=(committed + 8).min(feed.len()));
        server.memory.commit(&feed[committed..next]);
        committed = next;
        let upto = rng.random_range(published..=committed);
        let from = published.saturating_sub(rng.random_range(0..3)).min(upto);
        server.sse.publish(&feed[from..upto]);
        published = upto;
    }
}

/// The place a client began at and what it got until it had the last event.
async fn follow(server: Arc<Server>, feed: Arc<Vec<Arc<Event>>>, mut rng: StdRng) -> Followed {
    pause(&mut rng).await;
    let place = rng.random_range(1..=EARLY as i64);
    let own = |seq: i64| &*feed[usize::try_from(seq).expect("positive") - 1].tenant_id == "a";
    let query = match rng.random_range(0..4) {
        0 => "after=0".to_owned(),
        1 if own(place) => format!("after={}", aggregate(place)),
        2 if own(place) => format!("lastEventId={}", id(place)),
        _ => String::new(),
    };
    let mut last_event_id = String::new();
    let mut followed = Followed::default();
    loop {
        let mut source = server
            .connect_with(&format!("tenantId=a&{query}"), &last_event_id)
            .await;
        if followed.start.is_none() {
            followed.start = Some(match query.split_once('=') {
                _ if !source.last_event_id.is_empty() => seq_of(&source.last_event_id),
                // Named by an aggregate id; the URL keeps it.
                Some((_, "0")) => 0,
                _ => place,
            });
            if followed.start == Some(EVENTS) {
                return followed; // Everything was over when it came.
            }
        }
        for _ in 0..rng.random_range(0..30) {
            pause(&mut rng).await;
            let message = source.next().await.expect("the stream goes on");
            followed.got.push(message.seq());
            if message.seq() == EVENTS {
                return followed;
            }
        }
        last_event_id.clone_from(&source.last_event_id);
        // What was read but not looked at counts as received, as in a browser.
        while let Some(message) = source.buffered() {
            followed.got.push(message.seq());
        }
        if followed.got.last() == Some(&EVENTS) {
            return followed;
        }
    }
}

#[derive(Default)]
struct Followed {
    start: Option<i64>,
    got: Vec<i64>,
}

fn seq_of(id: &str) -> i64 {
    let id = id.to_owned();
    let (name, data) = (String::new(), String::new());
    Message { name, data, id }.seq()
}

#[tokio::test(start_paused = true)]
async fn every_client_gets_every_event_once_and_in_order_whatever_happens() {
    for seed in 0..CASES {
        let mut rng = StdRng::seed_from_u64(seed);
        let server = Arc::new(Server::new(Config {
            buffer: rng.random_range(1..6),
            replay_page: rng.random_range(1..6),
            ..Config::default()
        }));
        let feed = Arc::new(feed(&mut rng));
        server.memory.commit(&feed[..EARLY]);
        let publisher = tokio::spawn(publish(server.clone(), feed.clone(), rng.fork()));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(follow(server.clone(), feed.clone(), rng.fork())))
            .collect();
        publisher.await.expect("publishes all");
        for client in clients {
            // Heartbeats go on for ever, so a client that misses the last event must be timed out.
            let followed = tokio::time::timeout(Duration::from_secs(600), client)
                .await
                .unwrap_or_else(|_| panic!("seed {seed}: a client waits for what it missed"))
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let start = followed.start.expect("began somewhere");
            let expected: Vec<i64> = feed
                .iter()
                .filter(|e| &*e.tenant_id == "a" && e.seq > start)
                .map(|e| e.seq)
                .collect();
            assert_eq!(followed.got, expected, "seed {seed}, start {start}");
        }
        assert_eq!(server.sse.stats().clients, 0, "seed {seed}");
    }
}
