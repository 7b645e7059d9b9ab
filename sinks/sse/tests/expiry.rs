//! Events that expire while clients have yet to read them.

mod support;

use herald_contract::Broadcast as _;
use herald_sse::Config;
use herald_testkit::{event, event_id as id};
use support::{EventSource, Message, Server};

/// Small pages, so that much can happen between two of them.
fn server() -> Server {
    Server::new(Config {
        replay_page: 3,
        buffer: 4,
        ..Config::default()
    })
}

async fn message(source: &mut EventSource) -> Message {
    source.next().await.expect("a message")
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
