//! WebSockets: the handshake, and what goes over the connection.

#[path = "support/socket.rs"]
mod socket;
mod support;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode, Version};
use herald_contract::Broadcast as _;
use herald_routes::Takeover;
use herald_sse::Config;
use herald_testkit::{event, event_id as id};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use socket::{CLOSE, HANDSHAKE, PING, PONG, Socket, TEXT, frame, request, within};
use support::Server;
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn a_handshake_is_answered_as_the_rfc_says() {
    let server = Server::new(Config::default());
    let response = server.request(request("tenantId=a", HANDSHAKE)).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let header = |name: &str| response.headers()[name].to_str().expect("ASCII");
    assert_eq!(header("upgrade"), "websocket");
    assert_eq!(header("connection"), "upgrade");
    assert_eq!(
        header("sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    for name in ["sec-websocket-protocol", "sec-websocket-extensions"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
}

/// The handshake without, or with another, header of this name.
fn but<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let rest = HANDSHAKE.into_iter().filter(|(other, _)| *other != name);
    let instead = (!value.is_empty()).then_some((name, value));
    rest.chain(instead).collect()
}

async fn assert_refused(
    server: &Server,
    request: axum::http::Request<Body>,
    status: u16,
    what: &str,
) -> Value {
    let response = server.request(request).await;
    assert_eq!(response.status().as_u16(), status, "{what}");
    assert!(response.extensions().get::<Takeover>().is_none(), "{what}");
    if status == 426 {
        let header = |name: &str| response.headers()[name].to_str().expect("ASCII");
        assert_eq!(header("sec-websocket-version"), "13", "{what}");
        assert_eq!(header("upgrade"), "websocket", "{what}");
        assert_eq!(header("connection"), "upgrade", "{what}");
    }
    let body = response.into_body().collect().await.expect("a body");
    serde_json::from_slice(&body.to_bytes()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_before_anything_else() {
    let server = Server::new(Config::default());
    for (name, value, status) in [
        ("upgrade", "", 426),
        ("upgrade", "h2c", 426),
        ("connection", "", 426),
        ("connection", "keep-alive", 426),
        ("sec-websocket-version", "", 426),
        ("sec-websocket-version", "8", 426),
        ("sec-websocket-key", "", 400),
        ("sec-websocket-key", "c2hvcnQ=", 400),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ", 400),
        ("sec-websocket-key", "no base64 at all, is it?", 400),
    ] {
        let what = format!("{name}: {value}");
        let request = request("tenantId=a", but(name, value));
        let problem = assert_refused(&server, request, status, &what).await;
        assert_eq!(problem["status"], status, "{what}");
    }
    let twice = HANDSHAKE.into_iter().chain([HANDSHAKE[3]]);
    assert_refused(&server, request("tenantId=a", twice), 400, "two keys").await;
    for version in [Version::HTTP_10, Version::HTTP_2] {
        let mut request = request("tenantId=a", HANDSHAKE);
        *request.version_mut() = version;
        assert_refused(&server, request, 400, "another version of HTTP").await;
    }
    let mut head = request("tenantId=a", HANDSHAKE);
    *head.method_mut() = Method::HEAD;
    assert_refused(&server, head, 426, "HEAD").await;
    assert_eq!(server.sse.stats().clients, 0);
}

#[tokio::test]
async fn a_bad_query_is_a_problem_that_names_the_field() {
    let server = Server::new(Config::default());
    for (query, status, field) in [
        ("tenantId=a&after=x", 400, "after"),
        ("tenantId=a&lastEventId=nonsense", 400, "lastEventId"),
        ("tenantId=a&types=a*b", 422, "types"),
        ("tenantId=a&ping=perhaps", 400, "ping"),
        ("types=k", 400, "tenantId"),
        ("after=7", 400, "tenantId"),
    ] {
        let problem = assert_refused(&server, request(query, HANDSHAKE), status, query).await;
        assert_eq!(problem["field"], field, "{query}");
    }
    assert_eq!(server.sse.stats().clients, 0);
}

#[tokio::test]
async fn an_event_is_a_text_frame_with_the_json_of_event_streams() {
    let server = Server::new(Config::default());
    let mut socket = Socket::connect(&server, "tenantId=a", b"").await;
    assert_eq!(socket.text().await["herald"], "subscribed");
    for (seq, size) in [(1, 2), (2, 200), (3, 70_000), (4, 900_000)] {
        let payload = format!("\"{}\"", "é".repeat(size / 2));
        let event = event(seq, "a", "k", &payload);
        server.emit(std::slice::from_ref(&event));
        let (first, text) = socket.next().await.expect("a frame");
        assert_eq!((first, text), (TEXT, event.to_json().into_bytes()));
    }
}

#[tokio::test]
async fn what_was_read_with_the_request_is_heard_first() {
    let server = Server::new(Config::default());
    server.emit_range(1, 3);
    let subscribe = br#"{"subscribe":{"tenantId":"a","after":0}}"#;
    let bytes = frame(TEXT, subscribe);
    let (early, late) = bytes.split_at(bytes.len() / 2);
    let mut socket = Socket::connect(&server, "", early).await;
    socket.client.write_all(late).await.expect("writes");
    assert_eq!(socket.text().await["herald"], "subscribed");
    for seq in 1..=3 {
        assert_eq!(socket.text().await["eventId"], id(seq).to_string());
    }
}

#[tokio::test]
async fn a_client_is_heard_in_the_middle_of_a_long_replay() {
    let server = Server::new(Config {
        replay_page: 1,
        ..Config::default()
    });
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let events: Vec<_> = (1..=300)
        .map(|seq| event(seq, "a", "k", &payload))
        .collect();
    server.emit(&events);
    let mut socket = Socket::connect(&server, "tenantId=a&after=0", b"").await;
    socket.send(TEXT, br#"{"unsubscribe":{}}"#).await;
    let mut got = 0;
    loop {
        let said = socket.text().await;
        match said["herald"].as_str() {
            Some("unsubscribed") => break,
            Some(_) => {}
            None => got += 1,
        }
    }
    assert!(got < 300, "it got all of them first");
}

#[tokio::test]
async fn a_goodbye_is_answered_and_the_connection_ends() {
    let server = Server::new(Config::default());
    for query in ["tenantId=a", ""] {
        let mut socket = Socket::connect(&server, query, b"").await;
        if !query.is_empty() {
            socket.text().await;
        }
        socket.send(PING, b"there?").await;
        assert_eq!(socket.next().await, Some((PONG, b"there?".to_vec())));
        socket.send(CLOSE, &4001_u16.to_be_bytes()).await;
        assert_eq!(socket.closed().await, 4001);
        // Its own end closes within the second that it has for that.
        socket.done().await;
    }
    assert_eq!(server.sse.stats().clients, 0);
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_leaves_nothing_behind() {
    let server = Server::new(Config::default());
    for query in ["tenantId=a", ""] {
        let socket = Socket::connect(&server, query, b"").await;
        let Socket { client, task, .. } = socket;
        drop(client);
        within("the end", task).await.expect("no panic");
    }
    assert_eq!(server.sse.stats().clients, 0);
}

#[tokio::test]
async fn at_the_end_connections_close_at_once_whatever_they_were_at() {
    let server = Server::new(Config::default());
    let mut live = Socket::connect(&server, "tenantId=a", b"").await;
    live.text().await;
    let mut waiting = Socket::connect(&server, "", b"").await;
    server.sse.close();
    assert_eq!(live.closed().await, 1001);
    assert_eq!(waiting.closed().await, 1001);
    live.done().await;
    waiting.done().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_and_finds_its_place_again() {
    let server = Server::new(Config {
        send_timeout: Duration::from_millis(100),
        ..Config::default()
    });
    let slow = Socket::connect(&server, "tenantId=a", b"").await;
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let events: Vec<_> = (1..=300)
        .map(|seq| event(seq, "a", "k", &payload))
        .collect();
    server.emit(&events);
    slow.done().await;
    assert_eq!(server.sse.stats().clients, 0);
    let query = format!("tenantId=a&lastEventId={}", id(7));
    let mut again = Socket::connect(&server, &query, b"").await;
    let last = json!(id(7).to_string());
    assert_eq!(again.text().await["lastEventId"], last);
    for seq in 8..=300 {
        assert_eq!(again.text().await["eventId"], id(seq).to_string());
    }
}

#[tokio::test]
async fn clients_of_both_kinds_get_the_same_events_of_one_engine() {
    let server = Server::new(Config::default());
    let mut source = server.connect("tenantId=a").await;
    let mut socket = Socket::connect(&server, "tenantId=a", b"").await;
    assert_eq!(socket.text().await["lastEventId"], source.last_event_id);
    assert_eq!(server.sse.stats().clients, 2);
    server.emit_range(1, 20);
    for _ in 0..20 {
        let message = source.next().await.expect("a message");
        let event: Value = serde_json::from_str(&message.data).expect("JSON");
        assert_eq!(socket.text().await, event);
    }
    assert_eq!(server.sse.stats().events, 40);
}
