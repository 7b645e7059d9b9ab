//! herald by HTTPS, with whoever speaks HTTP/2 and whoever does not.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::harness::{
    Api, Heard, Home, WebSocket, eventually, given, seconds, seed, signal, text, within,
};
use crate::tls_client::{Curl, Https, Pair, home, write};

const TENANT: &str = "acme";

fn events(count: usize, size: usize) -> String {
    let payload = "x".repeat(size);
    let event = json!({"tenantId": TENANT, "type": "order.created", "payload": payload});
    Value::from(vec![event; count]).to_string()
}

fn curl() -> Option<String> {
    given("curl", "HERALD_TEST_CURL")
}

/// Emits by HTTPS, and returns the ids.
async fn emit(curl: &Curl<'_>, count: usize, size: usize) -> Vec<String> {
    let (status, made) = curl.ask("/events", &[], &events(count, size)).await;
    assert!(status.starts_with("201 "), "{status} {made}");
    let made = made.as_array().expect("a list");
    made.iter().map(|event| text(event, "eventId")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_asks_and_follows_by_either_http_and_resumes_where_it_was_cut() {
    let Some(program) = curl() else { return };
    let mut random = StdRng::seed_from_u64(seed());
    let home = home(&Pair::make());
    let https = Https::start(&home, &[]).await;
    let mut emitted = Vec::new();
    for (version, number) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let curl = Curl {
            program: &program,
            home: &home,
            version,
            address: &https.address,
        };
        emitted.extend(emit(&curl, 200, 500).await);
        let (status, page) = curl.ask("/events?tenantId=acme&limit=1", &[], "").await;
        assert_eq!(status, format!("200 {number}"), "{page}");

        let mut seen: Vec<String> = Vec::new();
        let mut cuts = 0;
        while seen.len() < emitted.len() {
            let last = seen.last().map(String::as_str);
            let (curl, mut lines) = curl.follow("tenantId=acme&after=0", last);
            let (until, mut id) = (seen.len() + random.random_range(1..60), String::new());
            while seen.len() < until.min(emitted.len()) {
                let line = within("more of the stream", seconds(30), lines.next_line()).await;
                let line = line.expect("reads").expect("the stream goes on");
                match line.split_once(": ") {
                    Some(("id", value)) => id = value.to_owned(),
                    Some(("data", _)) => seen.push(std::mem::take(&mut id)),
                    _ => {}
                }
            }
            drop(curl);
            cuts += 1;
        }
        assert_eq!(seen, emitted, "after {cuts} cuts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_page_asks_is_known_over_http2_too() {
    let Some(program) = curl() else { return };
    let home = home(&Pair::make());
    let https = Https::start(&home, &[]).await;
    let curl = Curl {
        program: &program,
        home: &home,
        version: "--http2",
        address: &https.address,
    };
    let own = format!("Origin: https://{}", https.address);
    let (status, _) = curl
        .ask("/events", &["--header", &own], &events(1, 1))
        .await;
    assert_eq!(status, "201 2");
    for (header, refused) in [
        ("Origin: https://evil.example", "403 2"),
        ("Host: evil.example", "421 2"),
    ] {
        // Without a body: curl takes an answer that comes before its end for none.
        let args = ["--request", "POST", "--header", header];
        let (status, problem) = curl.ask("/events", &args, "").await;
        assert_eq!(status, refused, "{header}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_asleep_does_not_hold_up_the_stop() {
    let Some(program) = curl() else { return };
    let home = home(&Pair::make());
    let https = Https::start(&home, &["HERALD_HTTP__DRAIN=10m"]).await;
    let curl = Curl {
        program: &program,
        home: &home,
        version: "--http2",
        address: &https.address,
    };
    let (child, mut lines) = curl.follow("tenantId=acme", None);
    let line = within("the stream begins", seconds(30), lines.next_line()).await;
    assert!(line.expect("reads").is_some());
    signal("STOP", child.id().expect("it runs"));
    let stopped = within("it stops", seconds(30), https.herald.terminate()).await;
    assert!(stopped.success(), "{stopped}");
}

/// One configuration serves all processes, and whoever renews the certificate tells all of them.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_needs_no_certificate_and_outlives_a_hangup() {
    let home = home(&Pair::make());
    for file in ["certificate.pem", "key.pem"] {
        std::fs::remove_file(home.path().join(file)).expect("removes");
    }
    let relay = home.start_as("relay", &["--only", "relay"]).await;
    relay.signal("HUP");
    let ended = relay.terminate().await;
    assert!(ended.success(), "{ended}");
    let emit = ["emit", "--tenant", TENANT, "--type", "k", "--payload", "{}"];
    home.succeed(&emit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_tls_gets_events_answers_and_an_end_in_order() {
    let Some(program) = curl() else { return };
    let pair = Pair::make();
    let home = home(&pair);
    let https = Https::start(&home, &[]).await;
    let curl = Curl {
        program: &program,
        home: &home,
        version: "--http1.1",
        address: &https.address,
    };
    let url = format!("wss://{}/ws?tenantId=acme", https.address);
    let open = async || {
        let connection = https.connect(&pair, "http/1.1").await.expect("a handshake");
        let mut socket = WebSocket::over(connection, &url)
            .await
            .expect("a WebSocket");
        assert_eq!(socket.text().await["herald"], "subscribed");
        socket
    };
    let (mut stays, mut leaves) = (open().await, open().await);
    // Larger than what is kept encrypted, and larger than a message of TLS.
    let mut ids = emit(&curl, 20, 100_000).await;
    ids.extend(emit(&curl, 20, 1).await);
    for id in &ids {
        assert_eq!(stays.event().await["eventId"], *id);
        assert_eq!(leaves.event().await["eventId"], *id);
    }
    leaves.say(&json!({"unsubscribe": {}})).await;
    assert_eq!(leaves.text().await, json!({"herald": "unsubscribed"}));
    let goodbye = CloseFrame {
        code: 1000.into(),
        reason: "".into(),
    };
    leaves.send(Message::Close(Some(goodbye))).await;
    // Without a close_notify this is an error.
    assert_eq!(leaves.next().await, Heard::Close(1000, String::new()));
    assert_eq!(leaves.next().await, Heard::End);

    assert!(https.herald.terminate().await.success());
    let Heard::Close(1001, reason) = stays.next().await else {
        panic!("no goodbye");
    };
    assert!(reason.starts_with("come back in "), "{reason}");
    assert_eq!(stays.next().await, Heard::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herald_that_stops_ends_every_stream_in_order_and_waits_for_nobody() {
    let Some(program) = curl() else { return };
    let pair = Pair::make();
    let home = home(&pair);
    let https = Https::start(&home, &[]).await;
    let mut streams = Vec::new();
    for version in ["--http2", "--http1.1"] {
        let curl = Curl {
            program: &program,
            home: &home,
            version,
            address: &https.address,
        };
        let (child, mut lines) = curl.follow("tenantId=acme", None);
        within("the beginning", seconds(30), lines.next_line())
            .await
            .expect("reads")
            .expect("a line");
        streams.push((version, child, lines));
    }
    // One that does not even read, one that has not asked, and one that has not shaken hands.
    let _deaf = https.stream(&pair, "tenantId=acme").await;
    let _idle = https.connect(&pair, "h2").await.expect("a handshake");
    let mut shaking = TcpStream::connect(&https.address).await.expect("connects");
    shaking.write_all(&[22, 3, 1]).await.expect("writes");
    let stopping = within("its end", seconds(10), https.herald.terminate());
    assert!(stopping.await.success());
    for (version, mut child, mut lines) in streams {
        while lines.next_line().await.expect("reads").is_some() {}
        // curl says when a stream or its TLS was cut off.
        let ended = within("curl's end", seconds(10), child.wait()).await;
        assert!(ended.expect("a child").success(), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_over_tls_is_sent_away_and_others_get_it_all() {
    let Some(program) = curl() else { return };
    let pair = Pair::make();
    let home = home(&pair);
    let send_timeout = "HERALD_SINKS__SSE__SEND_TIMEOUT=1s";
    let https = Https::start(&home, &[send_timeout]).await;
    let curl = Curl {
        program: &program,
        home: &home,
        version: "--http1.1",
        address: &https.address,
    };
    let mut deaf = https.stream(&pair, "tenantId=acme").await;
    let clients = async |count: f64| {
        let metric = "herald_stream_clients{sink=\"sse\"}";
        let shown = https.herald.api.metric(metric).await;
        (shown == Some(count)).then_some(())
    };
    eventually("it is there", seconds(30), async || clients(1.0).await).await;
    let mut reader = https.stream(&pair, "tenantId=acme&after=0").await;
    let reading = async {
        let (mut read, mut events) = (Vec::new(), 0);
        while events < 300 {
            let begin = read.len();
            assert!(reader.read_buf(&mut read).await.expect("reads") > 0);
            // What may have been cut.
            let begin = begin.saturating_sub("\ndata: ".len() - 1);
            events += String::from_utf8_lossy(&read[begin..])
                .matches("\ndata: ")
                .count();
        }
        read.len()
    };
    let emitting = async {
        for _ in 0..6 {
            emit(&curl, 50, 60_000).await;
        }
    };
    let both = async { tokio::join!(reading, emitting).0 };
    let whole = within("all of it", seconds(60), both).await;
    eventually("one is sent away", seconds(30), async || clients(1.0).await).await;
    // What the kernel had for it comes, and then it was cut off.
    let mut rest = Vec::new();
    let ended = within("the end", seconds(30), deaf.read_to_end(&mut rest)).await;
    assert!(ended.is_err() && rest.len() < whole, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_for_new_connections_and_streams_go_on() {
    let Some(program) = curl() else { return };
    let (old, new) = (Pair::make(), Pair::make());
    let home = home(&old);
    let https = Https::start(&home, &[]).await;
    let mut stream = https.stream(&old, "tenantId=acme").await;
    assert!(https.connect(&new, "h2").await.is_err());

    // Half a renewal changes nothing, but is said.
    write(&home, &new.certificate, &old.key);
    https.herald.signal("HUP");
    eventually("the log says so", seconds(30), async || {
        let said = https.herald.said();
        said.contains("the certificate is not renewed: http.tls.key_file: key.pem is not the key")
            .then_some(())
    })
    .await;
    assert!(https.connect(&old, "h2").await.is_ok());

    write(&home, &new.certificate, &new.key);
    https.herald.signal("HUP");
    eventually("the new one is there", seconds(30), async || {
        https.connect(&new, "h2").await.ok()
    })
    .await;
    assert!(https.connect(&old, "h2").await.is_err());
    let curl = Curl {
        program: &program,
        home: &home,
        version: "--http2",
        address: &https.address,
    };
    let id = emit(&curl, 1, 1).await.pop().expect("an event");
    let mut read = Vec::new();
    let event = async {
        while !String::from_utf8_lossy(&read).contains(&format!("\"eventId\":\"{id}\"")) {
            assert!(stream.read_buf(&mut read).await.expect("reads") > 0);
        }
    };
    within("the event", seconds(30), event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_without_tls_is_told_so_and_nobody_hangs() {
    let home = home(&Pair::make());
    let https = Https::start(&home, &[]).await;
    let api = Api::new(format!("http://{}", https.address));
    for path in ["/", "/healthz", "/sse?tenantId=acme"] {
        let problem = api.get(path).await.problem(path, &[400]);
        assert!(text(&problem, "detail").contains("https://"), "{problem}");
    }
    // Neither nonsense nor a handshake that does not go on holds a connection.
    for begin in [&b"\0\0\0"[..], &[22, 3, 1, 0, 200, 1]] {
        let mut socket = TcpStream::connect(&https.address).await.expect("connects");
        socket.write_all(begin).await.expect("writes");
        let mut rest = Vec::new();
        let _ = within("its end", seconds(30), socket.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn check_says_which_file_is_at_fault() {
    let (pair, other) = (Pair::make(), Pair::make());
    let home = home(&pair);
    home.succeed(&["check"]).await;
    let said = async |home: &Home| {
        let output = home.run(&["check"]).await;
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let config = std::fs::read_to_string(home.path().join("config.toml")).expect("reads");
    let line = |key: &str| {
        config
            .lines()
            .take_while(|line| !line.starts_with(key))
            .count()
            + 1
    };
    let key = format!(
        "config.toml:{}: http.tls.key_file: key.pem ",
        line("key_file")
    );

    write(&home, &pair.certificate, &other.key);
    let mismatch = said(&home).await;
    assert!(
        mismatch.starts_with(&format!("{key}is not the key of")),
        "{mismatch}"
    );
    std::fs::remove_file(home.path().join("key.pem")).expect("removes");
    let missing = said(&home).await;
    assert!(
        missing.starts_with(&format!("{key}cannot be read")),
        "{missing}"
    );

    let alone = config.replace("key_file = \"key.pem\"\n", "");
    let alone = said(&Home::with(&alone)).await;
    assert!(alone.contains(": http.tls.key_file: is missing"), "{alone}");
}
