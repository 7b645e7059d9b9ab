//! Events that expire while clients have yet to read them.

mod support;

use std::sync::Arc;
use std::time::Duration;

use herald_contract::{Broadcast as _, Event};
use herald_sse::Config;
use herald_testkit::{event, event_id as id};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::{EventSource, Message, Server};

/// Small pages, so that much can happen between two of them.
fn server() -> Server {
    Server::new(Config {
        replay_page: 3,
        buffer: 4,
        ..Config::default()
    })
}

/// The next message. Heartbeats go on for ever, so that one which does not come must be timed out.
async fn message(source: &mut EventSource) -> Message {
    tokio::time::timeout(Duration::from_secs(600), source.next())
        .await
        .expect("a message comes")
        .expect("the stream goes on")
}

/// The next message says that events have expired.
async fn assert_told(source: &mut EventSource) {
    let told = message(source).await;
    let told = (told.name.as_str(), told.data.as_str());
    assert_eq!(told, ("herald.reset", r#"{"reason":"events expired"}"#));
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_next_events_expire_in_mid_replay_is_told_and_gets_the_oldest_kept() {
    let server = server();
    server.emit_range(1, 20);
    let mut source = server.connect("tenantId=a&after=0").await;
    assert_eq!(source.seqs(3).await, [1, 2, 3]);
    server.memory.expire(10);
    assert_told(&mut source).await;
    assert_eq!(source.seqs(10).await, (11..=20).collect::<Vec<_>>());
    server.emit_range(21, 22);
    assert_eq!(source.seqs(2).await, [21, 22], "and once only");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_although_nothing_is_left_to_replay() {
    let server = server();
    server.emit_range(1, 20);
    let mut source = server.connect("tenantId=a&after=0").await;
    assert_eq!(source.seqs(3).await, [1, 2, 3]);
    server.memory.expire(20);
    assert_told(&mut source).await;
    server.emit_range(21, 21);
    assert_eq!(source.seqs(1).await, [21]);
}

#[tokio::test(start_paused = true)]
async fn what_expires_behind_a_client_is_nothing_to_it() {
    let server = server();
    server.emit_range(1, 20);
    let mut source = server.connect("tenantId=a&after=0").await;
    assert_eq!(source.seqs(3).await, [1, 2, 3]);
    server.memory.expire(3);
    assert_eq!(source.seqs(17).await, (4..=20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_beginning_is_the_oldest_event_that_is_kept() {
    let server = server();
    server.emit_range(1, 9);
    server.memory.expire(5);
    for query in [
        "tenantId=a&after=0",
        "tenantId=a&lastEventId=00000000000000000000000000",
    ] {
        let mut source = server.connect(query).await;
        assert_eq!(source.seqs(4).await, [6, 7, 8, 9], "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_id_of_an_expired_event_resets_to_live() {
    let server = server();
    server.emit_range(1, 9);
    server.memory.expire(5);
    let mut source = server.connect_with("tenantId=a", &id(4).to_string()).await;
    assert_eq!(message(&mut source).await.name, "herald.reset");
    assert_eq!(source.last_event_id, id(9).to_string());
    server.emit_range(10, 10);
    assert_eq!(source.seqs(1).await, [10]);
}

/// Its last event is old, but it has been there all the time.
#[tokio::test(start_paused = true)]
async fn a_client_of_a_quiet_tenant_that_must_read_again_is_not_told_of_what_it_has_seen() {
    let server = server();
    server.emit_range(1, 2);
    let mut quiet = server.connect("tenantId=a").await;
    server.emit(&[event(3, "a", "k", "{}")]);
    assert_eq!(quiet.seqs(1).await, [3]);
    let others: Vec<_> = (4..=9).map(|seq| event(seq, "b", "k", "{}")).collect();
    server.emit(&others);
    let comments = quiet.comments;
    while quiet.comments == comments {
        quiet.pull().await;
    }
    server.memory.expire(9);
    // More than its ring holds, so that it reads history.
    let burst: Vec<_> = (10..=19).map(|seq| event(seq, "a", "k", "{}")).collect();
    server.memory.commit(&burst);
    server.sse.publish(&burst);
    assert_eq!(quiet.seqs(10).await, (10..=19).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_began_on_an_empty_feed_is_told_as_well() {
    let server = server();
    let mut source = server.connect("tenantId=a&after=0").await;
    server.emit_range(1, 20);
    server.memory.expire(10);
    // Its ring held the last four.
    assert_told(&mut source).await;
    assert_eq!(source.seqs(10).await, (11..=20).collect::<Vec<_>>());
}

/// Commits, publishes and expires at random, while clients read at random.
#[tokio::test(start_paused = true)]
async fn no_client_skips_an_event_unawares_whatever_happens() {
    const EVENTS: usize = 60;
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let server = Server::new(Config {
            buffer: rng.random_range(1..6),
            replay_page: rng.random_range(1..6),
            ..Config::default()
        });
        let tenant = |other| if other { "b" } else { "a" };
        // The last is `a`'s, and is kept.
        let feed: Vec<_> = (1..=EVENTS)
            .map(|n| {
                event(
                    n as i64,
                    tenant(n < EVENTS && rng.random_bool(0.3)),
                    "k",
                    "{}",
                )
            })
            .collect();
        let (mut committed, mut published, mut expired) = (0, 0, 0);
        let mut sources: Vec<(EventSource, Vec<Option<i64>>)> = Vec::new();
        loop {
            let done = sources.iter().all(|(_, got)| got.last() == Some(&Some(60)));
            if published == EVENTS && done {
                break;
            }
            match rng.random_range(0..5) {
                0 => {
                    let next = rng.random_range(committed..=(committed + 9).min(EVENTS));
                    server.memory.commit(&feed[committed..next]);
                    committed = next;
                }
                1 => {
                    let next = rng.random_range(published..=committed);
                    server.sse.publish(&feed[published..next]);
                    published = next;
                }
                2 => {
                    expired = rng.random_range(expired..=committed.min(EVENTS - 1).max(expired));
                    server.memory.expire(expired as i64);
                }
                3 if sources.len() < 3 && published < EVENTS => {
                    sources.push((server.connect("tenantId=a&after=0").await, Vec::new()));
                }
                _ => {
                    for (source, got) in &mut sources {
                        if published < EVENTS || got.last() == Some(&Some(60)) {
                            continue;
                        }
                        let next = message(source).await;
                        got.push((next.name != "herald.reset").then(|| next.seq()));
                    }
                    // Before all is published there may be nothing to wait for.
                    for (source, got) in &mut sources {
                        while let Some(next) = source.buffered() {
                            got.push((next.name != "herald.reset").then(|| next.seq()));
                        }
                    }
                }
            }
        }
        for (_, got) in sources {
            let mut last: Option<i64> = None;
            let mut told = true; // The beginning is whatever is kept.
            for step in got {
                let Some(seq) = step else {
                    told = true;
                    continue;
                };
                let from = last.unwrap_or(0);
                assert!(seq > from, "seed {seed}: {seq} after {from}");
                let missed = |e: &&Arc<Event>| from < e.seq && e.seq < seq && &*e.tenant_id == "a";
                let missed = feed.iter().filter(missed).count();
                assert!(told || missed == 0, "seed {seed}: {missed} before {seq}");
                (last, told) = (Some(seq), false);
            }
        }
    }
}
