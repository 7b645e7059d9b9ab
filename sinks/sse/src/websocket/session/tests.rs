//! Sessions without sockets, on a paused clock: whoever waits for nothing that can come is found at
//! once.

mod filters;
mod peer;
mod tokens;

use std::sync::atomic::Ordering;

use herald_contract::{Broadcast as _, StreamStats};
use herald_routes::Scope;
use herald_testkit::event_id;
use serde_json::{Value, json};

use super::*;
use crate::Config;
use peer::{Heard, NIL, Server};

fn subscribed(types: &str, last: &str) -> Value {
    json!({"herald": "subscribed", "tenantId": "a", "types": types, "lastEventId": last})
}

fn reset(reason: &str) -> Value {
    json!({"herald": "reset", "reason": reason})
}

#[tokio::test(start_paused = true)]
async fn a_query_subscribes_at_once_with_an_id_to_come_back_with() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("tenantId=a&types=order.*,k");
    peer.hears(subscribed("k,order.*", NIL)).await;
    server.emit(1, "order.paid");
    server.emit(2, "user.created");
    server.emit(3, "k");
    peer.gets([1, 3]).await;
    let mut later = server.connect("tenantId=a");
    later.hears(subscribed("*", &event_id(3).to_string())).await;
}

#[tokio::test(start_paused = true)]
async fn cursors_are_those_of_event_streams() {
    let server = Server::new(Config {
        replay_page: 2,
        ..Config::default()
    });
    (1..=9).for_each(|seq| server.emit(seq, "k"));
    let fifth = event_id(5).to_string();
    let mut peer = server.connect(&format!("tenantId=a&lastEventId={fifth}"));
    peer.hears(subscribed("*", &fifth)).await;
    peer.gets(6..=9).await;
    let mut peer = server.connect("tenantId=a&after=0");
    peer.hears(subscribed("*", NIL)).await;
    peer.gets(1..=9).await;
    let mut peer = server.connect("tenantId=a&after=999");
    peer.hears(reset("unknown cursor")).await;
    let last = event_id(9).to_string();
    peer.hears(subscribed("*", &last)).await;
    server.emit(10, "k");
    peer.gets([10]).await;
}

#[tokio::test(start_paused = true)]
async fn events_that_expire_in_mid_replay_are_told_of() {
    let server = Server::new(Config {
        replay_page: 3,
        buffer: 4,
        ..Config::default()
    });
    (1..=20).for_each(|seq| server.emit(seq, "k"));
    let mut peer = server.connect("tenantId=a&after=0");
    peer.text().await;
    peer.gets(1..=3).await;
    server.memory.expire(10);
    peer.hears(reset("events expired")).await;
    peer.gets(11..=20).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_subscribes_by_a_message_and_unsubscribes() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("");
    server.emit(1, "k");
    assert_eq!(server.clients(), 1, "it is counted while it waits");
    peer.say(&json!({"subscribe": {"tenantId": "a", "after": 0}}));
    peer.hears(subscribed("*", NIL)).await;
    peer.gets([1]).await;
    peer.say(&json!({"unsubscribe": {}}));
    peer.hears(json!({"herald": "unsubscribed"})).await;
    server.emit(2, "k");
    let again = json!({"subscribe": {"tenantId": "a", "lastEventId": event_id(1).to_string()}});
    peer.say(&again);
    peer.hears(subscribed("*", &event_id(1).to_string())).await;
    peer.gets([2]).await;
    peer.say(&json!({"subscribe": {"tenantId": "b"}}));
    let said = peer.text().await;
    assert_eq!(
        (&said["tenantId"], &said["lastEventId"]),
        (&json!("b"), &json!(NIL))
    );
    server.emit(3, "k");
    server.emit_of(4, "b", "k");
    peer.gets([4]).await;
    assert_eq!(server.clients(), 1);
    drop(peer);
    let stats = StreamStats {
        clients: 0,
        events: 3,
    };
    assert_eq!(server.sse.stats(), stats);
}

#[tokio::test(start_paused = true)]
async fn other_types_go_on_from_where_the_ones_before_were() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("tenantId=a&types=k");
    peer.hears(subscribed("k", NIL)).await;
    server.emit(1, "k");
    peer.gets([1]).await;
    // It has not been handed these, which it does not want, when it says what it wants now.
    server.emit(2, "other");
    server.emit(3, "k");
    peer.say(&json!({"subscribe": {"tenantId": "a"}}));
    peer.hears(subscribed("*", &event_id(1).to_string())).await;
    peer.gets([2, 3]).await;
    // A cursor outweighs that.
    peer.say(&json!({"subscribe": {"tenantId": "a", "after": 0}}));
    peer.hears(subscribed("*", NIL)).await;
    peer.gets(1..=3).await;
}

#[tokio::test(start_paused = true)]
async fn every_message_is_answered_in_its_order() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("tenantId=a&types=x");
    for types in ["y", "*", "z"] {
        peer.say(&json!({"subscribe": {"tenantId": "a", "types": types}}));
    }
    peer.say(&json!({"unsubscribe": {}}));
    peer.send(0x88, b"\x03\xE8");
    peer.hears(subscribed("x", NIL)).await;
    for types in ["y", "*", "z"] {
        peer.hears(subscribed(types, NIL)).await;
    }
    peer.hears(json!({"herald": "unsubscribed"})).await;
    assert_eq!(peer.next().await, Heard::Close(1000, String::new()));
    assert_eq!(peer.next().await, Heard::End);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_answered_and_changes_nothing() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("tenantId=a");
    peer.hears(subscribed("*", NIL)).await;
    for (message, detail, field) in [
        ("nonsense", "malformed JSON", json!(null)),
        (
            r#"{"herald":"subscribed"}"#,
            "unknown field",
            json!("herald"),
        ),
        (
            r#"{"subscribe":{}}"#,
            "tenantId is required",
            json!("subscribe.tenantId"),
        ),
        (
            r#"{"subscribe":{"tenantId":"a","types":"a*b"}}"#,
            "types",
            json!("subscribe.types"),
        ),
        (
            r#"{"subscribe":{"tenantId":"a","after":-1}}"#,
            "whole number",
            json!("subscribe.after"),
        ),
        (
            r#"{"subscribe":{"tenantId":"a","lastEventId":"7"}}"#,
            "ULID",
            json!("subscribe.lastEventId"),
        ),
        (
            r#"{"subscribe":{"tenantId":"a","cursor":1}}"#,
            "unknown field",
            json!("subscribe.cursor"),
        ),
    ] {
        peer.send(0x81, message.as_bytes());
        peer.is_told(detail, field).await;
    }
    server.emit(1, "k");
    peer.gets([1]).await;
}

#[tokio::test(start_paused = true)]
async fn access_to_one_tenant_is_to_no_other() {
    let server = Server::new(Config::default());
    let access = || Access {
        tenant: Some("a".into()),
        scopes: vec![Scope::Subscribe],
        expires_at: None,
    };
    // It says who it is, so that it need not say what it wants.
    let mut peer = server.connect_as(access(), "");
    peer.hears(subscribed("*", NIL)).await;
    peer.say(&json!({"subscribe": {"tenantId": "b"}}));
    peer.is_told("another tenant's", json!("subscribe.tenantId"))
        .await;
    peer.say(&json!({"subscribe": {"types": "k"}}));
    peer.hears(subscribed("k", NIL)).await;
    let nothing = Access {
        tenant: None,
        scopes: Vec::new(),
        expires_at: None,
    };
    let refused = crate::websocket::wanted(&nothing, &Query::default(), &HeaderMap::new());
    assert_eq!(refused.err().map(|problem| problem.status), Some(403));
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_and_of_many_the_last() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("tenantId=a");
    peer.hears(subscribed("*", NIL)).await;
    peer.send(0x89, b"one");
    peer.send(0x8A, b"nobody asked");
    assert_eq!(peer.next().await, Heard::Pong(b"one".to_vec()));
    for number in 0..2 * AT_ONCE {
        peer.send(0x89, number.to_string().as_bytes());
    }
    server.emit(1, "k");
    // They keep nothing waiting.
    assert_eq!(peer.next().await, Heard::Pong(b"15".to_vec()));
    peer.gets([1]).await;
    assert!(!peer.session.hears(), "there is enough to answer");
    assert_eq!(peer.next().await, Heard::Pong(b"31".to_vec()));
    server.emit(2, "k");
    peer.gets([2]).await;
    assert!(peer.session.hears());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_the_rules_hears_which_and_that_is_all() {
    let server = Server::new(Config::default());
    for (first, payload, code) in [
        (0x82, &b"binary"[..], 1003),
        (0x81, b"\xFF", 1007),
        (0xF1, b"", 1002),
        (0x81, &[b'x'; 16 * 1024 + 1], 1009),
    ] {
        for query in ["tenantId=a", ""] {
            let mut peer = server.connect(query);
            peer.send(first, payload);
            peer.send(0x89, b"more");
            let closed = loop {
                match peer.next().await {
                    Heard::Text(_) => {}
                    Heard::Close(code, reason) => break (code, reason),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(closed.0, code);
            assert!(!closed.1.is_empty(), "and why");
            assert_eq!(peer.next().await, Heard::End);
            assert_eq!(server.clients(), 0, "its place is free");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_goodbye_gets_its_code_back() {
    let server = Server::new(Config::default());
    for (said, code) in [(&b""[..], 0), (b"\x03\xE9gone", 1001), (b"\x0F\xA0", 4000)] {
        let mut peer = server.connect("");
        peer.send(0x88, said);
        assert_eq!(peer.next().await, Heard::Close(code, String::new()));
        assert_eq!(peer.next().await, Heard::End);
    }
    assert_eq!(server.clients(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_now_is_told_when_to_come_back() {
    let server = Server::not_started(Config::default());
    server.connect("tenantId=a").is_sent_away(1013).await;

    let server = Server::new(Config {
        max_clients: 2,
        max_clients_per_tenant: 1,
        ..Config::default()
    });
    let first = server.connect("tenantId=a");
    server.connect("tenantId=a").is_sent_away(1013).await;
    let mut second = server.connect("");
    server.connect("").is_sent_away(1013).await;
    second.say(&json!({"subscribe": {"tenantId": "a"}}));
    second.is_sent_away(1013).await;
    drop(first);
    let mut third = server.connect("tenantId=a");
    third.hears(subscribed("*", NIL)).await;

    server.memory.away.store(true, Ordering::Relaxed);
    server
        .connect("tenantId=b&after=0")
        .is_sent_away(1013)
        .await;
    third.say(&json!({"subscribe": {"tenantId": "a", "after": 0}}));
    third.is_sent_away(1013).await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_the_database_leaves_alone_for_long_ends_with_a_time_to_come_back() {
    let server = Server::new(Config {
        buffer: 2,
        replay_page: 5,
        ..Config::default()
    });
    let mut peer = server.connect("tenantId=a");
    peer.hears(subscribed("*", NIL)).await;
    (1..=20).for_each(|seq| server.emit(seq, "k"));
    peer.gets([1]).await;
    server.memory.away.store(true, Ordering::Relaxed);
    peer.gets(2..=5).await;
    peer.is_sent_away(1013).await;
}

#[tokio::test(start_paused = true)]
async fn at_the_end_each_gets_what_was_published_and_is_sent_away() {
    let server = Server::new(Config::default());
    let mut live = server.connect("tenantId=a");
    live.hears(subscribed("*", NIL)).await;
    let mut waiting = server.connect("");
    let mut opening = server.connect("tenantId=a&after=0");
    server.emit(1, "k");
    server.sse.close();
    live.gets([1]).await;
    live.is_sent_away(1001).await;
    waiting.is_sent_away(1001).await;
    opening.is_sent_away(1001).await;
    server.connect("").is_sent_away(1001).await;
}

#[tokio::test(start_paused = true)]
async fn everybody_hears_a_heartbeat_and_pages_see_one_if_they_ask() {
    let server = Server::new(Config::default());
    let mut subscriber = server.connect("tenantId=a");
    subscriber.hears(subscribed("*", NIL)).await;
    let mut waiting = server.connect("");
    let mut page = server.connect("tenantId=a&ping=true");
    page.hears(subscribed("*", NIL)).await;
    for _ in 0..3 {
        assert_eq!(subscriber.next().await, Heard::Ping);
        assert_eq!(waiting.next().await, Heard::Ping);
        page.hears(json!({"herald": "ping"})).await;
    }
}
