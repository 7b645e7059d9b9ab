//! Browsers that subscribe to Web Push, and that are gone one day.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Api, Config, Home, Push, eventually, python, seconds, text};

const TENANT: &str = "acme";

async fn emit(api: &Api) -> String {
    let event =
        json!({"tenantId": TENANT, "type": "order.created", "payload": {"message": "hello"}});
    text(&api.post("/events", &event).await.expect(201), "eventId")
}

/// Waits until the event has `count` deliveries, and returns their states, sorted.
async fn states(api: &Api, id: &str, count: usize) -> Vec<String> {
    let path = format!("/events/{id}/deliveries?tenantId={TENANT}");
    eventually(
        &format!("{count} final deliveries of {id}"),
        seconds(30),
        async || {
            let answer = api.get(&path).await.expect(200);
            let list = answer["deliveries"].as_array().expect("a list");
            let mut states: Vec<_> = list.iter().map(|d| text(d, "state")).collect();
            states.sort();
            (states.len() == count && !states.contains(&"pending".to_owned())).then_some(states)
        },
    )
    .await
}

fn received(push: &Push, id: &str) -> Vec<u64> {
    let messages = push.messages();
    let own = messages.iter().filter(|m| m["eventId"] == id);
    let mut phones: Vec<_> = own.filter_map(|m| m["subscription"].as_u64()).collect();
    phones.sort_unstable();
    phones
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_gone_is_forgotten_and_one_that_unsubscribed_gets_nothing() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut push = Push::start(&python, dir.path(), 3).await;
    let home = Home::new(&Config::embedded().sse().push());
    let herald = home.start().await;
    let api = &herald.api;
    let key = api.get("/push/key").await.expect(200);
    assert!(key.to_string().len() > 80, "a VAPID public key: {key}");
    push.subscribe_all(api, TENANT).await;
    // A page that is loaded again subscribes again, which makes no second one.
    push.subscribe_all(api, TENANT).await;
    push.subscribe_one(api, "another-tenant", 0).await;

    let first = emit(api).await;
    assert_eq!(states(api, &first, 3).await, ["delivered"; 3]);
    assert_eq!(received(&push, &first), [0, 1, 2]);
    let message: Value = push.messages()[0]["payload"].clone();
    assert_eq!(message["title"], "order.created", "{message}");
    assert_eq!(message["body"], "hello", "{message}");

    push.unsubscribe(1).await;
    let second = emit(api).await;
    assert_eq!(
        states(api, &second, 3).await,
        ["delivered", "delivered", "gone"]
    );

    let body = json!({"tenantId": TENANT, "endpoint": push.subscriptions[2]["endpoint"]});
    let json = [("content-type", "application/json")];
    let removed = api
        .request("DELETE", "/push/subscriptions", &json, body.to_string())
        .await;
    let status = removed.expect("answers").status;
    assert!((200..300).contains(&status), "{status}");
    let third = emit(api).await;
    assert_eq!(states(api, &third, 1).await, ["delivered"]);
    assert_eq!(received(&push, &third), [0]);
    assert_eq!(push.refused().await, 1, "the gone one, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_service_that_is_overloaded_is_asked_again_when_it_says() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut push = Push::start(&python, dir.path(), 1).await;
    let home = Home::new(&Config::embedded().sse().push());
    let herald = home.start().await;
    push.subscribe_all(&herald.api, TENANT).await;
    push.fail_next(2, 429).await;
    let begin = std::time::Instant::now();
    let id = emit(&herald.api).await;
    assert_eq!(states(&herald.api, &id, 1).await, ["delivered"]);
    assert!(
        begin.elapsed() >= seconds(2),
        "Retry-After: 1 was kept, twice"
    );
    assert_eq!(received(&push, &id), [0]);
    assert_eq!(push.refused().await, 2);
}
