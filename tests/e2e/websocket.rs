//! Clients that listen over WebSockets, to herald as it comes.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Api, Config, END, Heard, Herald, Home, WebSocket, seconds, seed, text, within,
};

const TENANT: &str = "acme";
const NIL: &str = "00000000000000000000000000";

async fn start() -> (Home, Herald) {
    let home = Home::new(&Config::embedded().sse());
    let herald = home.start().await;
    (home, herald)
}

fn event(kind: &str, number: usize) -> Value {
    json!({"tenantId": TENANT, "type": kind, "payload": {"number": number}})
}

/// Emits events of these kinds in one request, and returns their ids.
async fn emit(api: &Api, kinds: &[&str]) -> Vec<String> {
    let events = kinds.iter().enumerate().map(|(n, kind)| event(kind, n));
    let answer = api.post("/events", &events.collect()).await.expect(201);
    let made = answer.as_array().expect("a list");
    made.iter().map(|event| text(event, "eventId")).collect()
}

async fn assert_gets(socket: &mut WebSocket, ids: &[String]) {
    for id in ids {
        assert_eq!(socket.event().await["eventId"], *id);
    }
}

fn subscribed(types: &str, last: Option<&str>) -> Value {
    let mut said = json!({"herald": "subscribed", "tenantId": TENANT, "types": types});
    if let Some(last) = last {
        said["lastEventId"] = last.into();
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_subscribes_by_its_query_or_by_a_message_and_gets_what_rest_shows() {
    let (_home, herald) = start().await;
    let api = &herald.api;
    let (mut by_query, said) = WebSocket::subscribed(api, "tenantId=acme&types=order.*").await;
    assert_eq!(said, subscribed("order.*", Some(NIL)));
    let mut by_message = WebSocket::open(api, "").await.expect("a WebSocket");
    let ids = emit(api, &["order.created", "user.created", "order.paid"]).await;
    assert_gets(&mut by_query, &[ids[0].clone(), ids[2].clone()]).await;
    by_message
        .say(&json!({"subscribe": {"tenantId": TENANT, "after": 0}}))
        .await;
    assert_eq!(by_message.text().await, subscribed("*", Some(NIL)));
    for expected in api.feed(TENANT, 10).await {
        assert_eq!(by_message.event().await, expected);
    }

    by_message
        .say(&json!({"subscribe": {"tenantID": "a"}}))
        .await;
    let error = by_message.text().await;
    assert_eq!(error["herald"], "error");
    assert_eq!(error["field"], "subscribe.tenantID");
    by_message.say(&json!({"unsubscribe": {}})).await;
    assert_eq!(by_message.text().await, json!({"herald": "unsubscribed"}));
    let ids = emit(api, &["order.created"]).await;
    assert_gets(&mut by_query, &ids).await;
    by_message
        .say(&json!({"subscribe": {"tenantId": TENANT}}))
        .await;
    let said = subscribed("*", Some(&ids[0]));
    assert_eq!(by_message.text().await, said, "and not the event");
}

/// Reads until the connection is cut, or the last event has come.
async fn read(socket: &mut WebSocket, seen: &mut Vec<String>) -> bool {
    loop {
        match socket.next().await {
            Heard::Text(event) if event["type"] == END => return true,
            Heard::Text(event) => seen.push(text(&event, "eventId")),
            Heard::Ping => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_cut_at_any_moment_by_a_kill_too_goes_on_from_its_last_event() {
    const EVENTS: usize = 600;
    let mut random = StdRng::seed_from_u64(seed());
    let (home, mut herald) = start().await;
    let mut promised = Vec::new();
    let mut seen = Vec::new();
    let mut last = NIL.to_owned();
    while promised.len() < EVENTS {
        let batch: Vec<_> = (0..random.random_range(1..60))
            .map(|_| "order.created")
            .collect();
        let query = format!("tenantId={TENANT}&lastEventId={last}");
        let (mut socket, said) = WebSocket::subscribed(&herald.api, &query).await;
        assert_eq!(said["lastEventId"], last);
        promised.extend(emit(&herald.api, &batch).await);
        for _ in 0..random.random_range(0..promised.len() - seen.len() + 1) {
            seen.push(text(&socket.event().await, "eventId"));
        }
        last = seen.last().unwrap_or(&last).clone();
        if random.random_bool(0.2) {
            herald.kill().await;
            herald = home.start().await;
        }
    }
    emit(&herald.api, &[END]).await;
    let query = format!("tenantId={TENANT}&lastEventId={last}");
    let (mut socket, _) = WebSocket::subscribed(&herald.api, &query).await;
    assert!(read(&mut socket, &mut seen).await);
    assert_eq!(seen, promised);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_filters_in_the_middle_of_everything_loses_and_doubles_nothing() {
    const EVENTS: usize = 3_000;
    let mut random = StdRng::seed_from_u64(seed());
    let (_home, herald) = start().await;
    let api = herald.api.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..EVENTS / 30 {
            emit(&api, &["always", "at.times", "at.times"].repeat(10)).await;
        }
        emit(&api, &[END]).await;
    });
    let query = format!("tenantId={TENANT}&after=0&types=always,story.end");
    let (mut socket, _) = WebSocket::subscribed(&herald.api, &query).await;
    let (mut both, mut changes) = (false, 0);
    let mut got = Vec::new();
    loop {
        if changes < 100 && random.random_bool(0.05) {
            let types = match random.random_bool(0.5) {
                true => "always,story.end",
                false => "always,story.end,at.*",
            };
            socket
                .say(&json!({"subscribe": {"tenantId": TENANT, "types": types}}))
                .await;
            changes += 1;
        }
        let said = socket.text().await;
        if said["herald"] == "subscribed" {
            both = text(&said, "types").contains("at.");
        } else {
            let kind = text(&said, "type");
            if kind == END {
                break;
            }
            assert!(both || kind == "always", "{said}");
            got.push(text(&said, "eventId"));
        }
    }
    writer.await.expect("all is emitted");
    assert!(changes > 10, "{changes} changes");
    let unique: BTreeSet<_> = got.iter().collect();
    assert_eq!(unique.len(), got.len(), "no event comes twice");
    let feed = herald.api.feed(TENANT, 500).await;
    let mut rest = got.iter().peekable();
    for event in feed {
        let comes = rest.next_if(|id| event["eventId"] == **id).is_some();
        assert!(comes || event["type"] != "always", "{event} is missing");
    }
    assert_eq!(rest.next(), None, "the order is the feed's");
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_go_both_ways() {
    let home = Home::new(&Config::embedded().sse());
    let heartbeat = "HERALD_SINKS__SSE__HEARTBEAT=1s";
    let herald = home.start_as("herald", &[heartbeat]).await;
    let (mut socket, _) = WebSocket::subscribed(&herald.api, "tenantId=acme").await;
    let mut waiting = WebSocket::open(&herald.api, "").await.expect("a WebSocket");
    let (mut page, _) = WebSocket::subscribed(&herald.api, "tenantId=acme&ping=true").await;
    for _ in 0..2 {
        assert_eq!(socket.next().await, Heard::Ping);
        assert_eq!(waiting.next().await, Heard::Ping);
        assert_eq!(page.next().await, Heard::Text(json!({"herald": "ping"})));
    }
    socket.send(Message::Ping("there?".into())).await;
    let heard = loop {
        match socket.next().await {
            Heard::Ping => {}
            other => break other,
        }
    };
    assert_eq!(heard, Heard::Pong(b"there?".to_vec()));
    socket.send(Message::Close(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herald_that_stops_says_so_to_everybody_and_waits_for_nobody() {
    let (_home, herald) = start().await;
    let mut sockets = Vec::new();
    for query in ["tenantId=acme", "", "tenantId=acme&types=order.*"] {
        for _ in 0..5 {
            let mut socket = WebSocket::open(&herald.api, query).await.expect("open");
            if !query.is_empty() {
                socket.text().await;
            }
            sockets.push(socket);
        }
    }
    // One that does not even read.
    let address = herald.api.base.trim_start_matches("http://").to_owned();
    let (_deaf, _) = handshake(&address, "tenantId=acme", b"").await;
    let begin = Instant::now();
    let listening = tokio::spawn(async move {
        let mut reasons = BTreeSet::new();
        for mut socket in sockets {
            match socket.next().await {
                Heard::Close(1001, reason) => reasons.insert(reason),
                other => panic!("{other:?}"),
            };
            assert_eq!(socket.next().await, Heard::End);
        }
        reasons
    });
    assert!(herald.terminate().await.success());
    let took = begin.elapsed();
    assert!(took < seconds(10), "it took {took:?}");
    let reasons = listening.await.expect("all were told");
    assert!(reasons.len() > 10, "not all at once: {reasons:?}");
    assert!(
        reasons.iter().all(|r| r.starts_with("come back in ")),
        "{reasons:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_too_many_is_told_to_come_back_later() {
    let home = Home::new(&Config::embedded().sse());
    let most = "HERALD_SINKS__SSE__MAX_CLIENTS=2";
    let herald = home.start_as("herald", &[most]).await;
    let (_one, _) = WebSocket::subscribed(&herald.api, "tenantId=acme").await;
    let two = WebSocket::open(&herald.api, "").await.expect("a WebSocket");
    let mut three = WebSocket::open(&herald.api, "tenantId=acme")
        .await
        .expect("a WebSocket");
    let Heard::Close(code, reason) = three.next().await else {
        panic!("no close")
    };
    assert_eq!(code, 1013, "{reason}");
    drop(two);
    let again = crate::harness::eventually("there is room", seconds(30), async || {
        let mut socket = WebSocket::open(&herald.api, "tenantId=acme").await.ok()?;
        matches!(socket.next().await, Heard::Text(_)).then_some(socket)
    });
    again.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_900_kb_arrives_whole() {
    let home = Home::new(&Config::embedded().sse());
    let room = "HERALD_HTTP__MAX_PAYLOAD_BYTES=1000000";
    let herald = home.start_as("herald", &[room]).await;
    let (mut live, _) = WebSocket::subscribed(&herald.api, "tenantId=acme").await;
    let payload = "é\n\"".repeat(150_000);
    let large = json!({"tenantId": TENANT, "type": "large", "payload": payload});
    herald.api.post("/events", &large).await.expect(201);
    assert_eq!(live.event().await["payload"], payload);
    let (mut later, _) = WebSocket::subscribed(&herald.api, "tenantId=acme&after=0").await;
    assert_eq!(later.event().await["payload"], payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_clients_get_everything_each_in_order() {
    const CLIENTS: usize = 400;
    const EVENTS: usize = 500;
    let (_home, herald) = start().await;
    let mut readers = JoinSet::new();
    for number in 0..CLIENTS {
        // Some wait, some come late by their cursor, all of them read to the end.
        let query = match number % 3 {
            0 => "tenantId=acme",
            1 => "tenantId=acme&after=0",
            _ => "",
        };
        let mut socket = WebSocket::open(&herald.api, query)
            .await
            .expect("a WebSocket");
        if query.is_empty() {
            socket
                .say(&json!({"subscribe": {"tenantId": TENANT}}))
                .await;
        }
        let said = socket.text().await;
        assert_eq!(said["herald"], "subscribed", "{said}");
        readers.spawn(async move {
            let mut seen = Vec::new();
            read(&mut socket, &mut seen).await;
            seen
        });
    }
    let mut ids = Vec::new();
    for _ in 0..EVENTS / 50 {
        ids.extend(emit(&herald.api, &["k"; 50]).await);
    }
    emit(&herald.api, &[END]).await;
    while let Some(seen) = within("every client", seconds(60), readers.join_next()).await {
        assert!(seen.expect("no panic") == ids, "what one client got");
    }
}

/// Shakes hands by hand and sends this at once; the connection, and what was read after the head.
async fn handshake(address: &str, query: &str, at_once: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut connection = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: {address}\r\nUpgrade: WebSocket\r\n\
         Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let bytes = [head.as_bytes(), at_once].concat();
    connection.write_all(&bytes).await.expect("writes");
    let mut read = Vec::new();
    loop {
        let more = within("the head", seconds(30), connection.read_buf(&mut read)).await;
        assert!(
            more.expect("readable") > 0,
            "{}",
            String::from_utf8_lossy(&read)
        );
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            let head = String::from_utf8(read).expect("ASCII").to_lowercase();
            assert!(
                head.starts_with("http/1.1 101 switching protocols\r\n"),
                "{head}"
            );
            assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"));
            assert_eq!(head.matches("connection: ").count(), 1, "{head}");
            assert!(head.contains("connection: upgrade\r\n"), "{head}");
            return (connection, rest);
        }
    }
}

/// A frame whose mask is zero, so that it is as written.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length if length < 126 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_breaks_the_rules_gets_the_code_for_it_and_no_more() {
    let (_home, mut herald) = start().await;
    let address = herald.api.base.trim_start_matches("http://").to_owned();
    let mut random = StdRng::seed_from_u64(seed());
    let cases = [
        ("no mask", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved bit", frame(0xC1, b"{}"), 1002),
        ("no kind of frame", frame(0x8F, b""), 1002),
        ("binary", frame(0x82, b"{}"), 1003),
        ("no UTF-8", frame(0x81, b"\xFF\xFE"), 1007),
        ("too long", frame(0x81, &[b' '; 20_000]), 1009),
        ("a ping in pieces", frame(0x09, b""), 1002),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        (
            "a code for nobody",
            frame(0x88, &1006_u16.to_be_bytes()),
            1002,
        ),
        ("a goodbye", frame(0x88, &1000_u16.to_be_bytes()), 1000),
    ];
    for (what, bytes, code) in cases {
        // In one piece with the handshake, or byte by byte after it.
        for at_once in [true, false] {
            let begin = if at_once { &bytes[..] } else { b"" };
            let (mut connection, mut heard) = handshake(&address, "", begin).await;
            connection.set_nodelay(true).expect("a socket");
            if !at_once {
                for byte in &bytes {
                    // herald may have heard enough.
                    if connection.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
            }
            let rest = within(what, seconds(30), connection.read_to_end(&mut heard)).await;
            assert!(rest.is_ok() || !at_once, "{what}: {rest:?}");
            let said = heard
                .get(2..4)
                .map(|code| u16::from_be_bytes([code[0], code[1]]));
            assert_eq!(
                (heard.first(), said),
                (Some(&0x88), Some(code)),
                "{what}: {heard:?}"
            );
        }
    }
    for _ in 0..200 {
        let mut noise = vec![0; random.random_range(1..2_000)];
        random.fill(&mut noise[..]);
        let (mut connection, mut heard) = handshake(&address, "", &noise).await;
        let _ = connection.shutdown().await;
        let _ = timeout(seconds(10), connection.read_to_end(&mut heard)).await;
    }
    assert!(herald.is_running());
    let (mut socket, _) = WebSocket::subscribed(&herald.api, "tenantId=acme").await;
    let ids = emit(&herald.api, &["k"]).await;
    assert_gets(&mut socket, &ids).await;
    crate::harness::eventually("only one is left", seconds(30), async || {
        (herald.api.sink("sse").await["clients"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_and_pages_of_others_are_refused() {
    let (_home, herald) = start().await;
    let handshake = [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let ask = async |query: &str, headers: &[(&str, &str)]| {
        let path = format!("/ws?{query}");
        let reply = herald.api.request("GET", &path, headers, "").await;
        reply.expect("an answer")
    };
    let plain = ask("tenantId=acme", &[]).await;
    plain.problem("no handshake", &[426]);
    assert_eq!(plain.headers["sec-websocket-version"], "13");
    let mut old = handshake;
    old[2].1 = "8";
    let old = ask("tenantId=acme", &old).await;
    old.problem("an old version", &[426]);
    assert_eq!(old.headers["sec-websocket-version"], "13");
    let bad = ask("tenantId=acme&types=a*b", &handshake).await;
    bad.problem("bad types", &[422]);
    let own = herald.api.base.clone();
    for (origin, status) in [
        ("https://elsewhere.example", 403),
        ("http://127.0.0.1:1", 403),
        ("null", 403),
        (&own, 101),
    ] {
        let headers: Vec<_> = handshake.into_iter().chain([("origin", origin)]).collect();
        let reply = herald
            .api
            .send("GET", "/ws?tenantId=acme", &headers, "")
            .await;
        assert_eq!(reply.expect("an answer").status(), status, "{origin}");
    }
}
