//! Streams on connections of their own, under load: clients go to and fro between their tasks and
//! the waves, and there is no heartbeat that would carry along what was left behind.

mod support;

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use herald_routes::{Connection, Socket, Takeover};
use herald_sse::Config;
use herald_testkit::{event, event_id};
use support::Server;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const CLIENTS: usize = 30;
const EVENTS: i64 = 400;
/// Longer than anything takes.
const HANG: Duration = Duration::from_secs(30);

/// A client's end of a stream; herald's is written by a task of its own.
async fn connect(server: &Server, chunked: bool) -> TcpStream {
    let request = Request::get("/sse?tenantId=a").body(Body::empty());
    let response = server.request(request.expect("a request")).await;
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
