//! Streams on their connections: pages of other origins, limits, heartbeats that can be seen,
//! HTTP/2, and clients that do not read.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Api, Config, Herald, Home, Reply, Sse, eventually, seconds, text, within};

const TENANT: &str = "streams";

/// With these keys of `[http]` and of the sink.
fn home(http: &str, sse: &str) -> Home {
    let config = Config::embedded().table("sinks.sse", &format!("kind = \"sse\"\n{sse}"));
    Home::with(
        &config
            .as_str()
            .replace("[http]\n", &format!("[http]\n{http}\n")),
    )
}

async fn emit(api: &Api, number: usize, padding: usize) -> String {
    let payload = json!({"number": number, "padding": "x".repeat(padding)});
    let event = json!({"tenantId": TENANT, "type": "k", "payload": payload});
    text(&api.post("/events", &event).await.expect(201), "eventId")
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_known_origins_may_ask_and_others_may_not() {
    let home = home(r#"origins = ["https://app.example.com"]"#, "");
    let herald = home.start().await;
    let ask = async |method, path, headers: &[(&str, &str)], body: &str| {
        let reply = herald.api.request(method, path, headers, body.to_owned());
        reply.await.expect("an answer")
    };
    let allowed = |reply: &Reply| {
        let value = |name| Some(reply.headers.get(name)?.to_str().ok()?.to_owned());
        (
            value("access-control-allow-origin"),
            value("access-control-allow-credentials"),
        )
    };
    let path = format!("/events?tenantId={TENANT}");
    let event = json!({"tenantId": TENANT, "type": "k", "payload": {}}).to_string();
    let app = ("origin", "https://app.example.com");
    let yes = (Some(app.1.to_owned()), Some("true".to_owned()));
    assert_eq!(allowed(&ask("GET", &path, &[app], "").await), yes);
    let posted = ask("POST", "/events", &[app], &event).await;
    assert_eq!((posted.status, allowed(&posted)), (201, yes.clone()));
    let preflight = [
        app,
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "last-event-id"),
    ];
    let preflight = ask("OPTIONS", "/sse", &preflight, "").await;
    assert_eq!((preflight.status, allowed(&preflight)), (200, yes.clone()));
    let headers = &preflight.headers["access-control-allow-headers"];
    assert!(headers.to_str().expect("text").contains("last-event-id"));

    let other = ("origin", "https://evil.example.com");
    assert_eq!(allowed(&ask("GET", &path, &[other], "").await).0, None);
    let refused = ask("POST", "/events", &[other], &event).await;
    assert_eq!((refused.status, allowed(&refused).0), (403, None));

    let query = format!("/sse?tenantId={TENANT}");
    let stream = herald.api.send("GET", &query, &[app], "").await;
    let headers = stream.expect("a stream").headers().clone();
    assert_eq!(headers["access-control-allow-origin"], app.1);
    assert_eq!(headers["access-control-allow-credentials"], "true");
}

/// Whether the stream goes on beyond its greeting.
async fn is_let_in(api: &Api, tenant: &str, forwarded: &str) -> Option<Sse> {
    let query = format!("/sse?tenantId={tenant}");
    let headers = [("x-forwarded-for", forwarded)];
    let response = api.send("GET", &query, &headers, "").await.expect("200");
    let mut stream = Sse::of(response, None);
    stream.greeting().await.then_some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_clients_of_a_tenant_and_from_an_address_are_let_in() {
    let sse = "max_clients_per_tenant = 2\nmax_clients_per_address = 3";
    let home = home(r#"trusted_proxies = ["127.0.0.1"]"#, sse);
    let herald = home.start().await;
    let api = &herald.api;
    let one = is_let_in(api, "a", "192.0.2.1").await.expect("room");
    let _two = is_let_in(api, "a", "192.0.2.1").await.expect("room");
    assert!(is_let_in(api, "a", "192.0.2.2").await.is_none(), "of a");
    let _three = is_let_in(api, "b", "192.0.2.1").await.expect("room");
    let full = is_let_in(api, "c", "192.0.2.1").await;
    assert!(full.is_none(), "from one address");
    let _four = is_let_in(api, "c", "192.0.2.2").await.expect("room");
    drop(one);
    eventually("a place is free", seconds(10), async || {
        is_let_in(api, "a", "192.0.2.1").await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_events_for_a_client_that_asks_and_move_no_cursor() {
    let home = home("", "heartbeat = \"1s\"");
    let herald = home.start().await;
    let query = format!("tenantId={TENANT}&ping=true");
    let mut stream = Sse::open(&herald.api, &query, None).await.expect("opens");
    assert!(stream.greeting().await);
    let id = stream.last_id.clone();
    let ping = within("a ping", seconds(10), stream.next()).await;
    let ping = ping.expect("goes on");
    assert_eq!(
        (ping.name.as_str(), ping.data.as_str()),
        ("herald.ping", "{}")
    );
    assert_eq!(stream.last_id, id);
    let reply = herald.api.get(&format!("/sse?{query}x")).await;
    reply.problem("a flag that is none", &[400]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_one_http2_connection_without_tls() {
    let home = home("", "");
    let herald = home.start().await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let uri = format!("{}/sse?tenantId={TENANT}&after=0", herald.api.base);
        let request = Request::get(uri).body(Full::default()).expect("valid");
        let response = client.request(request).await.expect("an answer");
        assert_eq!(
            (response.status(), response.version()),
            (200.try_into().expect("valid"), http::Version::HTTP_2)
        );
        streams.push(response.into_body());
    }
    let id = emit(&herald.api, 1, 10).await;
    for stream in &mut streams {
        let mut seen = String::new();
        let reading = async {
            while !seen.contains(&format!("id: {id}\ndata: ")) {
                let frame = stream.frame().await.expect("goes on").expect("no error");
                seen += std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8");
            }
        };
        within("the event", seconds(10), reading).await;
    }
    drop(streams);
    assert!(herald.terminate().await.success());
}

/// A client with as small a buffer as there is; of HTTP/1.0, so that no chunks are between events.
async fn slow_client(api: &Api, query: &str) -> TcpStream {
    let address = api.base.trim_start_matches("http://");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut connection = socket
        .connect(address.parse().expect("an address"))
        .await
        .expect("connects");
    let request = format!("GET /sse?{query} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    connection
        .write_all(request.as_bytes())
        .await
        .expect("writes");
    connection
}

/// The ids of the events in what was read whole.
fn ids(read: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(read);
    let blocks = text.split_inclusive("\n\n");
    let whole = blocks.filter(|block| block.ends_with("\n\n") && block.contains("data: "));
    let id = |block: &str| {
        Some(
            block
                .lines()
                .find_map(|l| l.strip_prefix("id: "))?
                .to_owned(),
        )
    };
    whole.filter_map(id).collect()
}

const EVENTS: usize = 300;
const LARGE: usize = 60_000;

/// Emits more than any kernel keeps for a client, while another client gets it at once.
async fn emit_past(herald: &Herald) -> Vec<String> {
    let query = format!("tenantId={TENANT}");
    let mut other = Sse::open(&herald.api, &query, None).await.expect("opens");
    assert!(other.greeting().await);
    let mut emitted = Vec::new();
    for number in 0..EVENTS {
        emitted.push(emit(&herald.api, number, LARGE).await);
        let message = within("the other client's event", seconds(10), other.next()).await;
        assert_eq!(message.expect("goes on").id, emitted[number]);
    }
    emitted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_gets_everything_and_nobody_waits_for_it() {
    let home = home("", "buffer = 8\nsend_timeout = \"1m\"");
    let herald = home.start().await;
    let mut slow = slow_client(&herald.api, &format!("tenantId={TENANT}&after=0")).await;
    let emitted = emit_past(&herald).await;
    let mut read = Vec::new();
    let reading = async {
        while ids(&read[read.len().saturating_sub(2 * LARGE)..]).last() != emitted.last() {
            let mut some = vec![0; 1 << 20];
            let count = slow.read(&mut some).await.expect("reads");
            assert!(count > 0, "it goes on");
            read.extend_from_slice(&some[..count]);
        }
    };
    within("all of it", seconds(60), reading).await;
    assert_eq!(ids(&read), emitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_sent_away_with_a_cursor_that_gives_it_the_rest() {
    let home = home("", "buffer = 8\nsend_timeout = \"1s\"");
    let herald = home.start().await;
    let mut slow = slow_client(&herald.api, &format!("tenantId={TENANT}&after=0")).await;
    let emitted = emit_past(&herald).await;
    let clients = async || {
        let metrics = herald.api.request("GET", "/metrics", &[], "").await.ok()?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        text.contains("herald_stream_clients{sink=\"sse\"} 0\n")
            .then_some(())
    };
    eventually("it is sent away", seconds(30), clients).await;
    let mut read = Vec::new();
    // What the kernel had for it still comes.
    let _ = within(
        "the end",
        Duration::from_secs(60),
        slow.read_to_end(&mut read),
    )
    .await;
    let mut seen = ids(&read);
    assert!(seen.len() < EVENTS, "it was cut off before the end");
    assert_eq!(seen, emitted[..seen.len()]);
    let query = format!("tenantId={TENANT}&after=0");
    let mut again = Sse::open(&herald.api, &query, seen.last().map(String::as_str))
        .await
        .expect("opens");
    while seen.len() < EVENTS {
        let message = within("the rest", seconds(10), again.next()).await;
        seen.push(message.expect("goes on").id);
    }
    assert_eq!(seen, emitted);
}
