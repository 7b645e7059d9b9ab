//! Compressed streams: who gets one, and that it is the stream that others get.

mod support;

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use flate2::read::GzDecoder;
use herald_contract::{Broadcast as _, Event};
use herald_routes::{Connection, Socket, Takeover};
use herald_sse::Config;
use herald_testkit::{check_property, event};
use http_body_util::BodyExt as _;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{EventSource, Server};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than anything takes.
const HANG: Duration = Duration::from_secs(30);

fn config() -> Config {
    Config {
        compression: true,
        ..Config::default()
    }
}

async fn ask(
    server: &Server,
    method: &str,
    query: &str,
    accepts: &str,
) -> axum::response::Response {
    let request = Request::builder()
        .method(method)
        .uri(format!("/sse?{query}"));
    let request = request
        .header("accept-encoding", accepts)
        .body(Body::empty());
    server.request(request.expect("a request")).await
}

#[tokio::test(start_paused = true)]
async fn it_is_for_those_who_ask_where_it_is_enabled() {
    for (enabled, accepts, coding) in [
        (true, "gzip, deflate, br", Some("gzip")),
        (true, "gzip;q=0", None),
        (true, "gzip;q=0.5, identity;q=0.7", None),
        (false, "gzip", None),
    ] {
        let server = Server::new(Config {
            compression: enabled,
            ..Config::default()
        });
        for method in ["GET", "HEAD"] {
            let response = ask(&server, method, "tenantId=a", accepts).await;
            let header = |name| Some(response.headers().get(name)?.to_str().expect("ASCII"));
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(header("content-encoding"), coding, "{method} {accepts}");
            assert_eq!(header("vary"), enabled.then_some("accept-encoding"));
            assert_eq!(header("content-type"), Some("text/event-stream"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_sent_away_can_decode_why() {
    let server = Server::not_started(config());
    let response = ask(&server, "GET", "tenantId=a", "gzip").await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let body = response.into_body().collect().await.expect("a body");
    let mut text = String::new();
    let body = body.to_bytes();
    let mut decoder = GzDecoder::new(&body[..]);
    decoder.read_to_string(&mut text).expect("gzip");
    assert!(
        text.starts_with("retry: ") && text.ends_with("\n\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_is_decoded_as_soon_as_it_is_written() {
    let server = Server::new(config());
    let mut source = server.open_in("tenantId=a", "", "gzip").await;
    // The header, which holds no text, and the opening.
    for seq in [0, 0].into_iter().chain(1..=20) {
        if seq > 0 {
            server.emit(&[event(seq, "a", "k", &format!("{{\"number\":{seq}}}"))]);
        }
        source.pull().await;
        let message = source.buffered();
        assert_eq!(message.map(|m| m.seq()), (seq > 0).then_some(seq));
    }
    tokio::time::advance(Duration::from_secs(15)).await;
    source.pull().await;
    assert_eq!(source.comments, 1);
}

#[tokio::test(start_paused = true)]
async fn clients_share_what_was_compressed_once() {
    let server = Server::new(config());
    let mut sources = Vec::new();
    for _ in 0..2 {
        let mut source = server.open_in("tenantId=a", "", "gzip").await;
        source.pull().await;
        source.pull().await;
        sources.push(source);
    }
    server.emit_range(1, 50);
    let mut chunks = Vec::new();
    for source in &mut sources {
        chunks.push(source.raw().await.expect("a chunk"));
    }
    assert_eq!(chunks[0].as_ptr(), chunks[1].as_ptr());
    let plain: usize = (1..=50)
        .map(|seq| event(seq, "a", "k", "{}").to_json().len())
        .sum();
    assert!(
        chunks[0].len() < plain / 5,
        "{} of {plain}",
        chunks[0].len()
    );
}

#[derive(Debug, Clone)]
enum Step {
    /// So many events, of such a size.
    Emit(i64, usize),
    /// Two clients come with the same cursor, one of which accepts compressed streams.
    Come(i64),
    /// All clients read what there is.
    Read,
    Heartbeat,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..9_i64, prop_oneof![9 => 0..2000_usize, 1 => 20_000..70_000_usize])
            .prop_map(|(count, size)| Step::Emit(count, size)),
        2 => (0..40_i64).prop_map(Step::Come),
        4 => Just(Step::Read),
        1 => Just(Step::Heartbeat),
    ]
}

/// Reads until nothing more comes.
async fn read(source: &mut EventSource) {
    let mut idle = 0;
    // Pages of history come from a task of their own, and few are written at once.
    while idle < 20 && !source.ended {
        let before = source.text.len();
        source.poll(usize::MAX);
        tokio::task::yield_now().await;
        idle = if source.text.len() == before {
            idle + 1
        } else {
            0
        };
    }
}

/// Without the times to come back, which differ from client to client.
fn comparable(source: &EventSource) -> String {
    let text = std::str::from_utf8(&source.text).expect("UTF-8");
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !line.starts_with("retry: ")).collect()
}

async fn story(buffer: usize, replay_page: usize, steps: &[Step]) -> Vec<(String, String)> {
    let server = Server::new(Config {
        buffer,
        replay_page,
        ..config()
    });
    let (mut last, mut pairs) = (0, Vec::new());
    for step in steps {
        match *step {
            Step::Emit(count, size) => {
                let payload = format!("\"{}\"", "x".repeat(size));
                let events: Vec<Arc<Event>> = (last + 1..=last + count)
                    .map(|seq| event(seq, "a", "k", &payload))
                    .collect();
                server.emit(&events);
                last += count;
            }
            Step::Come(after) => {
                let query = format!("tenantId=a&after={after}");
                let plain = server.open_in(&query, "", "identity").await;
                let gzip = server.open_in(&query, "", "gzip").await;
                assert_eq!(gzip.headers["content-encoding"], "gzip");
                pairs.push((plain, gzip));
            }
            Step::Read => {
                for (plain, gzip) in &mut pairs {
                    read(plain).await;
                    read(gzip).await;
                }
            }
            Step::Heartbeat => {
                tokio::time::advance(Duration::from_secs(15)).await;
                // Before anybody reads: it comes by a task of its own.
                tokio::task::yield_now().await;
            }
        }
    }
    // A replay would end early.
    for (plain, gzip) in &mut pairs {
        read(plain).await;
        read(gzip).await;
    }
    server.sse.close();
    let mut texts = Vec::new();
    for (mut plain, mut gzip) in pairs {
        while plain.next().await.is_some() {}
        while gzip.next().await.is_some() {}
        texts.push((comparable(&plain), comparable(&gzip)));
    }
    texts
}

#[test]
fn a_compressed_stream_is_the_stream_that_others_get_whenever_it_begins_and_ends() {
    let case = (1..20_usize, 1..10_usize, vec(step(), 0..20));
    check_property(300, &case, |(buffer, replay_page, steps)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        for (plain, gzip) in runtime.block_on(story(buffer, replay_page, &steps)) {
            prop_assert_eq!(plain, gzip);
        }
        Ok(())
    });
}

/// A client's end of a compressed stream on a connection of its own.
async fn connect(server: &Server) -> TcpStream {
    let response = ask(server, "GET", "tenantId=a&after=0", "gzip").await;
    let takeover = response.extensions().get::<Takeover>().expect("a takeover");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("connects");
    let (socket, _) = listener.accept().await.expect("accepts");
    let connection = Connection {
        socket: Socket::Bare(socket),
        read: Bytes::new(),
        head: Bytes::new(),
        chunked: false,
    };
    tokio::spawn(takeover.begin(connection).expect("something to write"));
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_sums_up_what_was_written_in_waves_with_heartbeats_between() {
    const EVENTS: i64 = 200;
    let server = Server::new(Config {
        heartbeat: Duration::from_millis(5),
        ..config()
    });
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut client = connect(&server).await;
        readers.spawn(async move {
            let mut stream = Vec::new();
            let reading = timeout(HANG, client.read_to_end(&mut stream)).await;
            reading.expect("it ends").expect("reads");
            stream
        });
    }
    let mut beats = tokio::time::interval(Duration::from_millis(1));
    for seq in 1..=EVENTS {
        // Some are more than a connection takes at once, however they are compressed.
        let size = if seq % 20 == 0 { 300_000 } else { 10 };
        let letters = (0..size).map(|_| char::from(rand::random_range(b'a'..=b'z')));
        let payload = format!("\"{}\"", letters.collect::<String>());
        server.emit(&[event(seq, "a", "k", &payload)]);
        beats.tick().await;
    }
    server.sse.close();
    while let Some(stream) = readers.join_next().await {
        let stream = stream.expect("no panic");
        let mut text = String::new();
        // It compares the sum.
        let mut decoder = GzDecoder::new(&stream[..]);
        decoder.read_to_string(&mut text).expect("gzip");
        assert_eq!(text.matches("\ndata: ").count(), EVENTS as usize);
        assert!(text.contains("\n:\n\n"), "heartbeats came between");
    }
}
