//! Clients that are cut at any moment and come back, while transactions commit out of order.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{
    Api, Config, Database, END, Home, Sse, emit, postgres, redis, seconds, seed, text, within,
};

const TENANT: &str = "acme";
const NIL: &str = "00000000000000000000000000";

/// How a client says where it was.
#[derive(Debug, Clone, Copy)]
enum Resume {
    Header,
    Parameter,
    After,
    /// What a client sends that has an `after` field it does not use.
    HeaderAndEmptyAfter,
    /// What a browser sends: its old URL and where it is now.
    HeaderAndOldAfter,
    /// The other way about: the header is old, `after` is where it is.
    OldHeaderAndAfter,
}

const ALL: [Resume; 6] = [
    Resume::Header,
    Resume::Parameter,
    Resume::After,
    Resume::HeaderAndEmptyAfter,
    Resume::HeaderAndOldAfter,
    Resume::OldHeaderAndAfter,
];

impl Resume {
    /// The query and the header for a client that has seen these events, of which the first
    /// `old` were before it first connected.
    fn request(self, seen: &[Value], old: usize) -> (String, Option<String>) {
        let id = |at: usize| {
            at.checked_sub(1)
                .map_or(NIL.into(), |i| text(&seen[i], "eventId"))
        };
        let number = |at: usize| {
            at.checked_sub(1)
                .map_or(0, |i| seen[i]["aggregateId"].as_i64().expect("a number"))
        };
        let now = seen.len();
        let tenant = format!("tenantId={TENANT}");
        match self {
            Self::Header => (tenant, Some(id(now))),
            Self::Parameter => (format!("{tenant}&lastEventId={}", id(now)), None),
            Self::After => (format!("{tenant}&after={}", number(now)), None),
            Self::HeaderAndEmptyAfter => (format!("{tenant}&after="), Some(id(now))),
            Self::HeaderAndOldAfter => (format!("{tenant}&after={}", number(old)), Some(id(now))),
            Self::OldHeaderAndAfter => (format!("{tenant}&after={}", number(now)), Some(id(old))),
        }
    }
}

/// Reads from the first event to the end, cut after a random time or number of events each time.
async fn read_with_cuts(api: Api, resume: Resume, mut random: StdRng) -> (Resume, Vec<String>) {
    let page = format!("/events?tenantId={TENANT}&limit=7");
    let page = api.get(&page).await.expect(200);
    let mut seen = page["events"].as_array().expect("a list").clone();
    let old = seen.len();
    loop {
        let (query, header) = resume.request(&seen, old);
        let mut stream = Sse::open(&api, &query, header.as_deref())
            .await
            .expect("a stream");
        let patience = Duration::from_millis(random.random_range(5..400));
        let mut left = random.random_range(1..80);
        let end = timeout(patience, async {
            while left > 0 {
                left -= 1;
                let message = stream.next().await.expect("the stream goes on");
                assert_eq!(message.name, "message", "{resume:?}: {}", message.data);
                if message.ends() {
                    return true;
                }
                seen.push(message.json());
            }
            false
        })
        .await;
        if end == Ok(true) {
            return (resume, seen.iter().map(|e| text(e, "eventId")).collect());
        }
    }
}

/// Commits events such that a smaller `aggregate_id` often comes later, or never.
async fn write_out_of_order(database: Database, pairs: usize, mut random: StdRng) {
    for number in 0..pairs {
        let payload = format!(r#"{{"number":{number}}}"#);
        let mut early = database.begin().await;
        emit(&mut early, TENANT, "order.early", &payload).await;
        for _ in 0..random.random_range(1..4) {
            database.emit(TENANT, "order.late", &payload).await;
        }
        if random.random_ratio(1, 8) {
            early.rollback().await.expect("rolls back");
        } else {
            early.commit().await.expect("commits");
        }
    }
}

async fn write_all(database: &Database, seed: u64, pairs: usize) {
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let random = StdRng::seed_from_u64(seed.wrapping_add(100 + writer));
        writers.spawn(write_out_of_order(database.clone(), pairs, random));
    }
    within("everything is written", seconds(120), writers.join_all()).await;
    database.emit(TENANT, END, "{}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cut_at_any_moment_resumes_without_loss_or_double_however_it_names_its_place() {
    let (Some(server), Some(redis)) = (postgres(), redis(2)) else {
        return;
    };
    let seed = seed();
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse());
    let herald = home.start().await;
    database.emit(TENANT, "order.first", "{}").await;

    let mut clients = JoinSet::new();
    for (index, resume) in ALL.into_iter().enumerate() {
        let random = StdRng::seed_from_u64(seed.wrapping_add(index as u64));
        clients.spawn(read_with_cuts(herald.api.clone(), resume, random));
    }
    write_all(&database, seed, 250).await;

    let read = within(
        "every client reads to the end",
        seconds(60),
        clients.join_all(),
    )
    .await;
    let mut feed = herald.api.feed_ids(TENANT).await;
    feed.pop().expect("the end itself");
    assert!(feed.len() > 1_000, "{} events", feed.len());
    for (resume, seen) in read {
        let differs = seen.iter().zip(&feed).position(|(a, b)| a != b);
        assert!(
            seen == feed,
            "{resume:?}: {} of {} events, other from place {differs:?} on",
            seen.len(),
            feed.len(),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_page_and_the_stream_after_it_meet_without_a_gap_or_a_double() {
    let Some(server) = postgres() else { return };
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, "embedded:").sse());
    let herald = home.start().await;
    database.emit(TENANT, "order.first", "{}").await;

    let writers = tokio::spawn({
        let (database, seed) = (database.clone(), seed());
        async move { write_all(&database, seed, 120).await }
    });

    // Newest first, as a page shows them, then live from the newest on.
    let mut stretches = Vec::new();
    let path = format!("/events?tenantId={TENANT}&order=desc&limit=10");
    let mut ended = false;
    while !ended {
        let page = herald.api.get(&path).await.expect(200);
        let mut events = page["events"].as_array().expect("a list").clone();
        let Some(newest) = events.first() else {
            continue;
        };
        if newest["type"] == END {
            break;
        }
        let query = format!("tenantId={TENANT}&after={}", newest["aggregateId"]);
        events.reverse();
        let mut stretch: Vec<_> = events.iter().map(|e| text(e, "eventId")).collect();
        let mut stream = Sse::open(&herald.api, &query, None)
            .await
            .expect("a stream");
        for _ in 0..15 {
            let message = within("the next event", seconds(20), stream.next()).await;
            let message = message.expect("the stream goes on");
            ended = message.ends();
            stretch.push(message.id);
            if ended {
                break;
            }
        }
        stretches.push(stretch);
    }
    writers.await.expect("the writers are well");

    let feed = herald.api.feed_ids(TENANT).await;
    for (turn, stretch) in stretches.iter().enumerate() {
        let begin = feed
            .iter()
            .position(|id| *id == stretch[0])
            .expect("in the feed");
        let same = feed.get(begin..begin + stretch.len());
        assert_eq!(same, Some(stretch.as_slice()), "page and stream {turn}");
    }
}
