//! Tokens that expire, and others that take their place.

use std::time::Duration;

use herald_routes::{Access, Authority, Refusal, Scope};
use serde_json::json;
use tokio::time::Instant;

use super::peer::Peer;
use super::*;

/// What these tokens stand for: `TENANT SECONDS`.
fn bearer(token: &str) -> Result<Access, Refusal> {
    let (tenant, seconds) = token.split_once(' ').ok_or(Refusal::Invalid("no token"))?;
    let seconds: u64 = seconds.parse().map_err(|_| Refusal::Expired)?;
    Ok(Access {
        tenant: Some(tenant.to_owned()),
        scopes: vec![Scope::Subscribe],
        expires_at: Some(Instant::now() + Duration::from_secs(seconds)),
    })
}

fn connect(server: &Server, token: &str, query: &str) -> Peer {
    let access = bearer(token).expect("a good token");
    server.connect_by(Some(Authority::new(bearer)), access, query)
}

/// Passes over signs of life.
async fn last_words(peer: &mut Peer) -> [Heard; 3] {
    loop {
        match peer.next().await {
            Heard::Ping => {}
            first => return [first, peer.next().await, peer.next().await],
        }
    }
}

fn expired() -> [Heard; 3] {
    [
        Heard::Text(json!({"herald": "expired", "reason": "token expired"})),
        Heard::Close(3000, "token expired".into()),
        Heard::End,
    ]
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_token_whatever_it_does() {
    let server = Server::new(Config::default());
    let began = Instant::now();
    let mut idle = connect(&server, "a 60", "");
    idle.hears(subscribed("*", NIL)).await;
    let mut waits = connect(&server, "a 60", "");
    waits.hears(subscribed("*", NIL)).await;
    waits.say(&json!({"unsubscribe": {}}));
    waits.hears(json!({"herald": "unsubscribed"})).await;
    server.emit(1, "k");
    idle.gets([1]).await;
    for peer in [&mut idle, &mut waits] {
        assert_eq!(last_words(peer).await, expired());
    }
    let lasted = began.elapsed().as_secs();
    assert!((60..=62).contains(&lasted), "{lasted}");
    // It goes on where it was, with another token.
    drop((idle, waits));
    assert_eq!(server.clients(), 0);
    server.emit(2, "k");
    let last = event_id(1).to_string();
    let mut again = connect(&server, "a 60", &format!("lastEventId={last}"));
    again.hears(subscribed("*", &last)).await;
    again.gets([2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_token_of_the_same_tenant_takes_the_place_of_the_one_before() {
    let server = Server::new(Config::default());
    let mut peer = connect(&server, "a 60", "");
    peer.hears(subscribed("*", NIL)).await;
    let began = Instant::now();
    peer.say(&json!({"renew": {"token": "a 300"}}));
    peer.hears(json!({"herald": "renewed"})).await;
    for (token, detail) in [
        ("b 900", "another tenant's"),
        ("a then", "has expired"),
        ("x", "no token"),
    ] {
        peer.say(&json!({"renew": {"token": token}}));
        peer.is_told(detail, json!("renew.token")).await;
    }
    server.emit(1, "k");
    peer.gets([1]).await;
    assert_eq!(last_words(&mut peer).await, expired());
    let lasted = began.elapsed().as_secs();
    assert!((300..=302).contains(&lasted), "{lasted}");
}

#[tokio::test(start_paused = true)]
async fn where_no_token_is_needed_there_is_nothing_to_renew() {
    let server = Server::new(Config::default());
    let mut peer = server.connect("tenantId=a");
    peer.hears(subscribed("*", NIL)).await;
    peer.say(&json!({"renew": {"token": "a 60"}}));
    peer.is_told("no token is needed", json!("renew")).await;
    server.emit(1, "k");
    peer.gets([1]).await;
}
