//! Where a stream begins.

mod support;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use herald_contract::Broadcast as _;
use herald_sse::Config;
use herald_testkit::{aggregate_id as aggregate, event, event_id as id};
use http_body_util::BodyExt as _;
use support::Server;

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..=to).collect()
}

#[tokio::test(start_paused = true)]
async fn without_a_cursor_the_stream_is_live_and_has_an_id_at_once() {
    let server = Server::new(Config::default());
    let mut early = server.connect("tenantId=a").await;
    assert_eq!(early.last_event_id, "00000000000000000000000000");
    server.emit_range(1, 3);
    server.emit(&[event(4, "b", "k", "{}")]);
    let mut late = server.connect("tenantId=a&after=&lastEventId=").await;
    assert_eq!(late.last_event_id, id(3).to_string());
    server.emit_range(5, 6);
    assert_eq!(early.seqs(5).await, [1, 2, 3, 5, 6]);
    assert_eq!(late.seqs(2).await, [5, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_client_dropped_before_its_first_event_misses_nothing() {
    for before in [0, 2] {
        let server = Server::new(Config::default());
        server.emit_range(1, before);
        let first = server.connect("tenantId=a").await;
        let id = first.last_event_id.clone();
        drop(first);
        server.emit_range(before + 1, before + 3);
        let mut again = server.connect_with("tenantId=a", &id).await;
        assert_eq!(again.seqs(3).await, range(before + 1, before + 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_resumes_after_the_event_it_names_and_goes_on_live() {
    let server = Server::new(Config {
        replay_page: 2,
        ..Config::default()
    });
    server.emit_range(1, 9);
    for mut source in [
        server
            .connect(&format!("tenantId=a&after={}", aggregate(4)))
            .await,
        server
            .connect(&format!("tenantId=a&lastEventId={}", id(4)))
            .await,
        server.connect_with("tenantId=a", &id(4).to_string()).await,
    ] {
        assert_eq!(source.seqs(5).await, range(5, 9));
    }
    let mut source = server.connect("tenantId=a&after=0").await;
    assert_eq!(source.seqs(9).await, range(1, 9));
    server.emit_range(10, 11);
    assert_eq!(source.seqs(2).await, [10, 11]);
}

#[tokio::test(start_paused = true)]
async fn of_several_cursors_the_furthest_wins_and_one_that_resolves_beats_unknown_ones() {
    let server = Server::new(Config::default());
    server.emit_range(1, 9);
    let unknown = id(99);
    for (after, parameter, header, first) in [
        (aggregate(2), id(4), id(6), 7),
        (aggregate(6), id(2), id(4), 7),
        (aggregate(4), id(6), id(2), 7),
        (999, id(5), unknown, 6),
        (aggregate(5), unknown, unknown, 6),
        (999, unknown, id(5), 6),
    ] {
        let query = format!("tenantId=a&after={after}&lastEventId={parameter}");
        let mut source = server.connect_with(&query, &header.to_string()).await;
        let message = source.next().await.expect("a message");
        assert_eq!(
            (message.name.as_str(), message.seq()),
            ("", first),
            "{query}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_nobodys_or_of_another_tenants_event_resets_to_live() {
    let server = Server::new(Config::default());
    server.emit(&[event(1, "a", "k", "{}"), event(2, "b", "k", "{}")]);
    for query in [
        "tenantId=a&after=77".to_owned(),
        format!("tenantId=a&after={}", aggregate(2)),
        format!("tenantId=a&lastEventId={}", id(2)),
    ] {
        let mut source = server.connect(&query).await;
        let reset = source.next().await.expect("a message");
        assert_eq!(reset.name, "herald.reset");
        assert_eq!(reset.data, r#"{"reason":"unknown cursor"}"#);
        assert_eq!(source.last_event_id, id(1).to_string());
        // The old cursor is still in the URL; the id that came with the reset outweighs it.
        let mut again = server.connect_with(&query, &source.last_event_id).await;
        drop(source);
        assert_eq!(again.last_event_id, id(1).to_string());
        again.ended = true;
        assert_eq!(again.next().await, None, "no second reset");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_ahead_of_this_process_waits_for_what_follows_it() {
    let server = Server::new(Config::default());
    let events: Vec<_> = (1..=4).map(|seq| event(seq, "a", "k", "{}")).collect();
    server.memory.commit(&events);
    let mut source = server
        .connect(&format!("tenantId=a&lastEventId={}", id(3)))
        .await;
    server.sse.publish(&events);
    assert_eq!(source.seqs(1).await, [4]);
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_a_problem_that_names_the_field() {
    let server = Server::new(Config::default());
    for (query, header, status, field) in [
        ("tenantId=a&after=x", "", 400, "after"),
        ("tenantId=a&after=-1", "", 400, "after"),
        ("tenantId=a&after=1.5", "", 400, "after"),
        ("tenantId=a&lastEventId=nonsense", "", 400, "lastEventId"),
        ("tenantId=a", "nonsense", 400, "lastEventId"),
        (
            "tenantId=a&lastEventId=80000000000000000000000000",
            "",
            400,
            "lastEventId",
        ),
        ("tenantId=a&types=a*b", "", 422, "types"),
        ("tenantId=a&named=perhaps", "", 400, "named"),
        ("tenantId=", "", 400, "tenantId"),
        ("", "", 400, "tenantId"),
    ] {
        let mut request = Request::get(format!("/sse?{query}"));
        if !header.is_empty() {
            request = request.header("Last-Event-ID", header);
        }
        let response = server
            .request(request.body(Body::empty()).expect("valid request"))
            .await;
        assert_eq!(
            response.status(),
            StatusCode::from_u16(status).expect("valid"),
            "{query}"
        );
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(problem["field"], field, "{query}");
    }
    assert_eq!(server.sse.stats().clients, 0);
}
