//! What a stream carries, and how it ends.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use herald_contract::{Broadcast as _, StreamStats};
use herald_routes::{Access, Authority, Refusal};
use herald_sse::Config;
use herald_testkit::{event, event_id as id};
use http_body_util::BodyExt as _;
use support::Server;
use tokio::time::Instant;
use tower::ServiceExt as _;

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..=to).collect()
}

#[tokio::test(start_paused = true)]
async fn the_headers_and_the_frame_are_the_documented_ones() {
    let server = Server::new(Config::default());
    let mut source = server.connect("tenantId=a").await;
    assert_eq!(source.headers["content-type"], "text/event-stream");
    assert_eq!(source.headers["cache-control"], "no-cache, no-transform");
    assert_eq!(source.headers["x-accel-buffering"], "no");
    assert!((1_000..=3_000).contains(&source.retry), "{}", source.retry);
    let event = event(1, "a", "order.created", r#"{"id":1}"#);
    server.emit(std::slice::from_ref(&event));
    let frame = source.raw().await.expect("a frame");
    let expected = format!("id: {}\ndata: {}\n\n", id(1), event.to_json());
    assert_eq!(frame, expected.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn clients_share_one_buffer_for_an_event() {
    let server = Server::new(Config::default());
    let mut one = server.connect("tenantId=a").await;
    let mut two = server.connect("tenantId=a").await;
    server.emit_range(1, 1);
    let (one, two) = (one.raw().await, two.raw().await);
    assert_eq!(
        one.expect("a frame").as_ptr(),
        two.expect("a frame").as_ptr()
    );
}

#[tokio::test(start_paused = true)]
async fn events_have_their_type_as_name_only_when_asked_for() {
    let server = Server::new(Config::default());
    server.emit(&[event(1, "a", "order.created", "{}")]);
    for query in ["tenantId=a&after=0&named=true", "tenantId=a&after=0"] {
        let mut source = server.connect(query).await;
        server.emit(&[event(2, "a", "order.paid", "{}")]);
        let names = [source.next().await, source.next().await].map(|m| m.expect("two").name);
        let expected = match query.contains("named") {
            true => ["order.created", "order.paid"],
            false => ["", ""],
        };
        assert_eq!(names, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_its_own_tenants_events_of_the_types_it_wants() {
    let server = Server::new(Config::default());
    let batch = |from: i64| {
        [
            event(from, "a", "order.created", "{}"),
            event(from + 1, "b", "order.created", "{}"),
            event(from + 2, "a", "user.created", "{}"),
            event(from + 3, "a", "invoice.sent", "{}"),
        ]
    };
    server.emit(&batch(1));
    let mut source = server
        .connect("tenantId=a&after=0&types=order.*,invoice.sent")
        .await;
    server.emit(&batch(5));
    assert_eq!(source.seqs(4).await, [1, 4, 5, 8]);
    server.sse.close();
    assert!(source.rest().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_payload_with_line_breaks_arrives_as_the_same_json() {
    let server = Server::new(Config::default());
    let mut source = server.connect("tenantId=a").await;
    server.emit(&[event(1, "a", "k", "{\r\n \"a\":\r1,\n\"b\":\n\r[2]}")]);
    let message = source.next().await.expect("a message");
    let json: serde_json::Value = serde_json::from_str(&message.data).expect("JSON");
    assert_eq!(json["payload"], serde_json::json!({"a": 1, "b": [2]}));
}

#[tokio::test(start_paused = true)]
async fn a_client_too_slow_for_the_ring_gets_everything_once_and_in_order() {
    let server = Server::new(Config {
        buffer: 2,
        replay_page: 7,
        ..Config::default()
    });
    let mut source = server.connect("tenantId=a").await;
    server.emit_range(1, 50);
    assert_eq!(source.seqs(20).await, range(1, 20));
    server.emit_range(51, 100);
    assert_eq!(source.seqs(80).await, range(21, 100));
    assert!(server.memory.pages.load(Ordering::Relaxed) > 1);
    server.sse.close();
    assert!(source.rest().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_ready_together_go_out_in_chunks_of_at_most_64_kib() {
    let server = Server::new(Config::default());
    let mut source = server.connect("tenantId=a").await;
    let payload = format!("\"{}\"", "x".repeat(10_000));
    let events: Vec<_> = (1..=40).map(|seq| event(seq, "a", "k", &payload)).collect();
    server.emit(&events);
    assert_eq!(source.seqs(40).await, range(1, 40));
    assert!(source.largest_chunk > 32 * 1024, "frames are gathered");
    assert!(
        source.largest_chunk <= 64 * 1024,
        "{}",
        source.largest_chunk
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_to_every_client_at_the_same_tick() {
    let server = Server::new(Config::default());
    let begin = Instant::now();
    let mut one = server.connect("tenantId=a").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut two = server.connect("tenantId=b").await;
    one.pull().await;
    two.pull().await;
    assert_eq!((one.comments, two.comments), (1, 1));
    assert_eq!(begin.elapsed().as_secs(), 15);
    one.pull().await;
    assert_eq!((one.comments, begin.elapsed().as_secs()), (2, 30));
}

#[tokio::test(start_paused = true)]
async fn closing_ends_every_stream_after_what_was_published_and_spreads_the_return() {
    let server = Server::new(Config::default());
    let mut sources = Vec::new();
    for _ in 0..20 {
        sources.push(server.connect("tenantId=a").await);
    }
    server.emit_range(1, 3);
    server.sse.close();
    let mut waits = Vec::new();
    for source in &mut sources {
        assert_eq!(source.rest().await, [1, 2, 3]);
        assert!((2_000..=10_000).contains(&source.retry), "{}", source.retry);
        waits.push(source.retry);
    }
    waits.dedup();
    assert!(waits.len() > 10, "not all at once: {waits:?}");
    let late = server.connect("tenantId=a").await;
    assert!((2_000..=10_000).contains(&late.retry));
}

#[tokio::test(start_paused = true)]
async fn clients_that_cannot_be_served_now_are_told_when_to_return() {
    let server = Server::new(Config {
        max_clients: 1,
        ..Config::default()
    });
    let only = server.connect("tenantId=a").await;
    let mut refused = server.connect("tenantId=a").await;
    assert!((2_000..=10_000).contains(&refused.retry));
    assert_eq!(
        (refused.next().await, refused.last_event_id.as_str()),
        (None, "")
    );
    drop(only);
    let admitted = server.connect("tenantId=a").await;
    assert_ne!(admitted.last_event_id, "");

    let server = Server::not_started(Config::default());
    let mut early = server.connect("tenantId=a").await;
    assert_eq!(
        (early.next().await, early.last_event_id.as_str()),
        (None, "")
    );
}

#[tokio::test(start_paused = true)]
async fn the_counts_follow_clients_and_events() {
    let server = Server::new(Config::default());
    let mut one = server.connect("tenantId=a").await;
    let two = server.connect("tenantId=b").await;
    server.emit_range(1, 3);
    one.seqs(3).await;
    let stats = |clients, events| StreamStats { clients, events };
    assert_eq!(server.sse.stats(), stats(2, 3));
    drop(one);
    assert_eq!(server.sse.stats(), stats(1, 3));
    drop(two);
    assert_eq!(server.sse.stats(), stats(0, 3));
}

#[tokio::test(start_paused = true)]
async fn head_is_answered_without_a_stream() {
    let server = Server::new(Config::default());
    let request = Request::head("/sse?tenantId=a").body(Body::empty());
    let response = server.request(request.expect("valid request")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = response.into_body().collect().await.expect("a body");
    assert!(body.to_bytes().is_empty());
    assert_eq!(server.sse.stats().clients, 0);
}

#[tokio::test(start_paused = true)]
async fn a_replay_waits_out_a_short_absence_of_the_database() {
    let server = Server::new(Config {
        buffer: 2,
        ..Config::default()
    });
    let mut source = server.connect("tenantId=a").await;
    server.emit_range(1, 20);
    server.memory.away.store(true, Ordering::Relaxed);
    let memory = server.memory.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        memory.away.store(false, Ordering::Relaxed);
    });
    assert_eq!(source.seqs(20).await, range(1, 20));
}

#[tokio::test(start_paused = true)]
async fn a_long_absence_of_the_database_ends_the_stream_and_the_client_resumes_later() {
    let server = Server::new(Config {
        buffer: 2,
        replay_page: 5,
        ..Config::default()
    });
    let mut source = server.connect("tenantId=a").await;
    server.emit_range(1, 20);
    assert_eq!(source.seqs(3).await, [1, 2, 3]);
    server.memory.away.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    assert_eq!(source.rest().await, [4, 5]);
    assert_eq!(begin.elapsed().as_secs(), 30);
    assert!((2_000..=10_000).contains(&source.retry));

    let id = source.last_event_id.clone();
    let mut refused = server.connect_with("tenantId=a", &id).await;
    assert_eq!(refused.next().await, None, "told to come back");
    server.memory.away.store(false, Ordering::Relaxed);
    let mut again = server.connect_with("tenantId=a", &id).await;
    assert_eq!(again.seqs(15).await, range(6, 20));
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_database_that_is_away() {
    let server = Server::new(Config {
        buffer: 2,
        ..Config::default()
    });
    let mut source = server.connect("tenantId=a").await;
    server.emit_range(1, 20);
    server.memory.away.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let sse = server.sse.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sse.close();
    });
    assert!(source.rest().await.is_empty());
    assert_eq!(begin.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_what_is_published_is_filled_from_history() {
    let server = Server::new(Config::default());
    let mut source = server.connect("tenantId=a").await;
    let events: Vec<_> = (1..=9).map(|seq| event(seq, "a", "k", "{}")).collect();
    server.memory.commit(&events);
    server.sse.publish(&events[..2]);
    server.sse.publish(&events[6..]);
    assert_eq!(source.seqs(9).await, range(1, 9));
}

fn with(access: Option<Access>, last_event_id: &str) -> Request<Body> {
    let mut request = Request::get("/sse?tenantId=a&access_token=old");
    if !last_event_id.is_empty() {
        request = request.header("last-event-id", last_event_id);
    }
    if let Some(access) = access {
        request = request.extension(access);
    }
    request.body(Body::empty()).expect("a request")
}

#[tokio::test(start_paused = true)]
async fn a_body_ends_with_its_clients_token_in_the_middle_of_whatever_it_waits_for() {
    let server = Server::new(Config::default());
    let began = Instant::now();
    let access = Access {
        expires_at: Some(began + Duration::from_secs(90)),
        ..Access::unrestricted()
    };
    let response = server.request(with(Some(access), "")).await;
    server.emit_range(1, 1);
    let body = response.into_body().collect().await.expect("no error");
    let text = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
    let end = "event: herald.expired\ndata: {\"reason\":\"token expired\"}\n\n";
    assert!(text.ends_with(end), "{text}");
    assert!(text.contains(&id(1).to_string()), "{text}");
    let lasted = began.elapsed().as_secs();
    assert!((90..=92).contains(&lasted), "{lasted}");
    assert_eq!(server.sse.stats().clients, 0);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_an_expired_token_is_told_to_stop_and_who_comes_is_told_why() {
    let server = Server::new(Config::default());
    let ask = async |refusal: Refusal, last_event_id: &str| {
        let mut request = with(None, last_event_id);
        let authority = Authority::new(move |_| Err(refusal));
        request.extensions_mut().insert(authority);
        let routes = server.sse.routes();
        routes.oneshot(request).await.expect("infallible").status()
    };
    let last = id(1).to_string();
    assert_eq!(ask(Refusal::Expired, &last).await, 204);
    assert_eq!(ask(Refusal::Expired, "").await, 401);
    assert_eq!(ask(Refusal::Invalid("no"), &last).await, 401);
}

/// As over HTTP/2, where a client that opens no window keeps what it was sent from being asked for.
#[tokio::test(start_paused = true)]
async fn a_client_whose_server_asks_for_nothing_more_is_sent_away() {
    let server = Server::new(Config {
        compression: true,
        ..Config::default()
    });
    let mut takes = server.connect("tenantId=a").await;
    let mut stuck = server.open_in("tenantId=a", "", "gzip").await;
    stuck.pull().await;
    assert_eq!(server.sse.stats().clients, 2);
    // Heartbeats are taken by the one and wait for the other.
    for _ in 0..12 {
        takes.pull().await;
    }
    assert_eq!(server.sse.stats().clients, 1);
    server.emit_range(1, 2);
    assert_eq!(takes.seqs(2).await, [1, 2]);
    // Should it take something after all, its stream ends in order, and says when to come back.
    while !stuck.ended {
        stuck.pull().await;
    }
    assert!((2_000..=10_000).contains(&stuck.retry), "{}", stuck.retry);
}
