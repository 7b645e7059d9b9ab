//! Streams on connections of their own, under load: clients go to and fro between their tasks and
//! the waves, and there is no heartbeat that would carry along what was left behind.

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use herald_contract::Broadcast as _;
use herald_routes::{Access, Connection, Socket, Takeover};
use herald_sse::Config;
use herald_testkit::{event, event_id};
use support::Server;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const CLIENTS: usize = 30;
const EVENTS: i64 = 400;
/// Longer than anything takes.
const HANG: Duration = Duration::from_secs(30);

/// A client's end of a stream; herald's is written by a task of its own.
async fn connect(server: &Server, chunked: bool) -> TcpStream {
    let request = Request::get("/sse?tenantId=a").body(Body::empty());
    open(server, request.expect("a request"), chunked).await
}

async fn open(server: &Server, request: Request<Body>, chunked: bool) -> TcpStream {
    let response = server.request(request).await;
    let takeover = response.extensions().get::<Takeover>().expect("a takeover");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpSocket::new_v4().expect("a socket");
    client.set_recv_buffer_size(8192).expect("a small buffer");
    let client = client.connect(address).await.expect("connects");
    let (socket, _) = listener.accept().await.expect("accepts");
    let connection = Connection {
        socket: Socket::Bare(socket),
        read: Bytes::new(),
        head: Bytes::new(),
        chunked,
    };
    tokio::spawn(takeover.begin(connection).expect("something to write"));
    client
}

/// Reads until the event is there, and counts those with data.
async fn read_to(client: &mut TcpStream, last: i64) -> usize {
    let end = format!("\nid: {}\ndata: ", event_id(last));
    let (mut seen, mut count) = (String::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    while !seen.contains(&end) {
        let read = client.read(&mut buffer).await.expect("reads");
        assert!(read > 0, "the stream goes on");
        seen.push_str(std::str::from_utf8(&buffer[..read]).expect("ASCII"));
        // The last line may go on.
        let rest = seen.rfind("\nid: ").unwrap_or_default();
        count += seen[..rest].matches("\ndata: ").count();
        seen.drain(..rest);
    }
    count + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_behind_when_clients_are_parked_just_as_something_happens() {
    let server = Server::new(Config {
        heartbeat: Duration::from_secs(600),
        ..Config::default()
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = connect(&server, number % 2 == 0).await;
        clients.spawn(async move { timeout(HANG, read_to(&mut client, EVENTS)).await });
    }
    for seq in 1..=EVENTS {
        // Some are more than a connection takes at once.
        let size = if seq % 20 == 0 { 300_000 } else { 10 };
        let payload = format!("\"{}\"", "x".repeat(size));
        server.emit(&[event(seq, "a", "k", &payload)]);
        if seq % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while let Some(read) = clients.join_next().await {
        let count = read.expect("no panic").expect("the last event comes");
        assert_eq!(count, EVENTS as usize);
    }
}

/// Follows the tenant by tokens that are good for so long, each time from where it was, to the last
/// event: the ids it got, and how many tokens it took.
async fn follow(server: Arc<Server>, token: Duration, chunked: bool) -> (Vec<String>, usize) {
    let last = event_id(EVENTS).to_string();
    let (mut ids, mut tokens) = (Vec::<String>::new(), 0);
    while ids.last() != Some(&last) {
        tokens += 1;
        let from = ids.last().cloned().unwrap_or_else(|| "0".repeat(26));
        let request = Request::get("/sse?tenantId=a")
            .header("last-event-id", from)
            .extension(Access {
                expires_at: Some(Instant::now() + token),
                ..Access::unrestricted()
            })
            .body(Body::empty());
        let mut client = open(&server, request.expect("a request"), chunked).await;
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.expect("an orderly end");
        let seen = String::from_utf8(seen).expect("ASCII");
        let end = "event: herald.expired\ndata: {\"reason\":\"token expired\"}\n\n";
        let end = match chunked {
            true => format!("{:x}\r\n{end}\r\n0\r\n\r\n", end.len()),
            false => end.to_owned(),
        };
        assert!(
            seen.ends_with(&end),
            "{:?}",
            &seen[seen.len().saturating_sub(200)..]
        );
        let events = seen.split("id: ").skip(1);
        let events = events.filter(|rest| rest[26..].starts_with("\ndata: "));
        ids.extend(events.map(|rest| rest[..26].to_owned()));
    }
    (ids, tokens)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_end_with_their_tokens_and_go_on_with_others_without_loss_or_double() {
    let server = Arc::new(Server::new(Config {
        heartbeat: Duration::from_secs(600),
        ..Config::default()
    }));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let token = Duration::from_millis(100 * (number as u64 % 20));
        let client = follow(server.clone(), token, number % 2 == 0);
        clients.spawn(async move { timeout(HANG, client).await });
    }
    // For some seconds, in which each comes back more than once.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for seq in 1..=EVENTS {
        let size = if seq % 20 == 0 { 300_000 } else { 10 };
        let payload = format!("\"{}\"", "x".repeat(size));
        server.emit(&[event(seq, "a", "k", &payload)]);
        pace.tick().await;
    }
    let all: Vec<String> = (1..=EVENTS).map(|seq| event_id(seq).to_string()).collect();
    while let Some(followed) = clients.join_next().await {
        let (ids, tokens) = followed.expect("no panic").expect("the last event comes");
        assert!(ids == all, "{} of {EVENTS}", ids.len());
        assert!(tokens > 1, "its tokens expired");
    }
    eventually_empty(&server).await;
}

async fn eventually_empty(server: &Server) {
    let empty = async {
        while server.sse.stats().clients > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, empty).await.expect("all have left");
}
