//! herald's own client in a browser: tabs come and go, share one connection, and each has every event
//! once, in order, whatever becomes of the connection.

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::browser::{Browser, chromium, firefox};
use crate::harness::{Api, Config, Home, Turns, given, seconds, text};
use crate::odd_data::{Odd, small};
use crate::tabs::{Tab, Tabs, Way};

const TENANT: &str = "acme";
/// Cuts while tabs come and go.
const CUTS: usize = 6;
/// What keeps tabs from sharing by a worker, and by one of them.
const WORKER: &str = "SharedWorker";
const BUS: &str = "BroadcastChannel";

fn options(more: Value) -> Value {
    let mut options = json!({"tenantId": TENANT, "silence": 3_000});
    let object = options.as_object_mut().expect("an object");
    object.extend(more.as_object().expect("an object").clone());
    options
}

fn is_open(tab: &Tab) -> bool {
    tab.states
        .last()
        .is_some_and(|state| state.starts_with("open"))
}

/// Signs of life each second, so that it is soon noticed when there are none.
fn home(config: &Config) -> Home {
    let heartbeat = "kind = \"sse\"\nheartbeat = \"1s\"\n";
    Home::with(&config.as_str().replace("kind = \"sse\"\n", heartbeat))
}

async fn emit(api: &Api, count: usize) -> Vec<String> {
    let event =
        json!({"tenantId": TENANT, "type": "order.paid", "payload": {"padding": "x".repeat(200)}});
    let answer = api.post("/events", &json!(vec![event; count])).await;
    let events = answer.expect(201);
    let events = events.as_array().expect("a list").iter();
    events.map(|event| text(event, "eventId")).collect()
}

/// A story in a browser with a herald behind it.
async fn story(launch: impl FnOnce(&TempDir, &str) -> Browser) {
    let home = home(&Config::embedded().sse());
    let herald = home.start().await;
    let mut tabs = Tabs::start(&herald.api, launch).await;
    tabs_share_one_connection(&mut tabs, &herald.api).await;
    without_workers_one_tab_leads(&mut tabs, &herald.api).await;
    a_tab_may_be_alone(&mut tabs, &herald.api).await;
    what_hangs_is_given_up(&mut tabs, &herald.api).await;
    a_hidden_page_goes_on_where_it_was(&mut tabs, &herald.api).await;
    a_page_is_told_what_it_cannot_have(&mut tabs).await;
}

async fn tabs_share_one_connection(tabs: &mut Tabs, api: &Api) {
    let mut all = emit(api, 20).await;
    let newest = api
        .get(&format!("/events?tenantId={TENANT}&order=desc&limit=1"))
        .await;
    let newest = &newest.expect(200)["events"][0]["aggregateId"];
    tabs.go(Way::Cut);
    tabs.open("oldest", options(json!({"after": 0})), &[BUS])
        .await;
    tabs.open("page", options(json!({"after": newest})), &[BUS])
        .await;
    tabs.open("shut", options(json!({"after": newest})), &[BUS])
        .await;
    tabs.open("live", options(json!({})), &[BUS]).await;
    let mut turns = Turns::new("they come back each time", seconds(90));
    while tabs.cuts() < CUTS {
        turns.next().await;
        all.extend(emit(api, 5).await);
        if tabs.cuts() == CUTS / 2 {
            tabs.tell(json!({"does": "shut", "name": "shut"})).await;
            // A tab that is loaded again goes on with what it remembers.
            tabs.open("page", options(json!({})), &[BUS]).await;
        }
    }
    tabs.go(Way::Open);
    // Those that the other half of the story can read, too.
    let is_read = |odd: &Odd| serde_json::from_str::<Value>(&odd.payload).is_ok();
    for odd in small().into_iter().filter(is_read) {
        let event = api.request("POST", "/events", &[], odd.request()).await;
        all.push(text(&event.expect("an answer").expect(201), "eventId"));
    }
    tabs.open("late", options(json!({"after": 0})), &[BUS])
        .await;
    all.extend(emit(api, 20).await);
    for name in ["oldest", "late"] {
        let tab = tabs.until(name, "it has all", |tab| tab.events.len() >= all.len());
        assert_eq!(tab.await.events, all, "{name}");
    }
    let page = tabs.until("page", "it has the last", |tab| {
        tab.events.last() == all.last()
    });
    assert_eq!(page.await.events, all[20..]);
    let live = tabs.until("live", "it has the last", |tab| {
        tab.events.last() == all.last()
    });
    let live = live.await.events;
    assert_eq!(live, all[all.len() - live.len()..]);
    let shut = tabs.look("shut").await.events;
    assert_eq!(shut, all[20..20 + shut.len()]);
    tabs.has_streams(1).await;
    for name in ["oldest", "page", "live", "late"] {
        tabs.tell(json!({"does": "close", "name": name})).await;
    }
    tabs.has_streams(0).await;
}

async fn without_workers_one_tab_leads(tabs: &mut Tabs, api: &Api) {
    for name in ["leader", "second", "third"] {
        tabs.open(name, options(json!({})), &[WORKER]).await;
        tabs.until(name, "it is open", is_open).await;
    }
    tabs.has_streams(1).await;
    let mut all = emit(api, 5).await;
    for name in ["leader", "second", "third"] {
        let tab = tabs.until(name, "it has all", |tab| tab.events.len() >= all.len());
        assert_eq!(tab.await.events, all, "{name}");
    }
    tabs.tell(json!({"does": "shut", "name": "leader"})).await;
    all.extend(emit(api, 5).await);
    for name in ["second", "third"] {
        let tab = tabs.until(name, "it has all", |tab| tab.events.len() >= all.len());
        assert_eq!(tab.await.events, all, "{name}");
    }
    tabs.has_streams(1).await;
    for name in ["second", "third"] {
        tabs.tell(json!({"does": "close", "name": name})).await;
    }
    tabs.has_streams(0).await;
}

async fn a_tab_may_be_alone(tabs: &mut Tabs, api: &Api) {
    for name in ["alone", "as alone"] {
        tabs.open(name, options(json!({})), &[WORKER, BUS]).await;
        tabs.until(name, "it is open", is_open).await;
    }
    tabs.has_streams(2).await;
    let all = emit(api, 5).await;
    for name in ["alone", "as alone"] {
        let tab = tabs.until(name, "it has all", |tab| tab.events.len() >= all.len());
        assert_eq!(tab.await.events, all, "{name}");
        tabs.tell(json!({"does": "close", "name": name})).await;
    }
    tabs.has_streams(0).await;
}

async fn what_hangs_is_given_up(tabs: &mut Tabs, api: &Api) {
    tabs.go(Way::SseHangs);
    tabs.open("patient", options(json!({"after": 0})), &[])
        .await;
    let open = |tab: &Tab| tab.states.iter().any(|state| state == "open: websocket");
    tabs.until("patient", "it has another transport", open)
        .await;
    let before = tabs.until("patient", "it has some", |tab| !tab.events.is_empty());
    let before = before.await.states.len();
    tabs.go(Way::Hangs);
    let all = emit(api, 5).await;
    tabs.until("patient", "it gave up", |tab| tab.states.len() > before)
        .await;
    tabs.go(Way::Open);
    let tab = tabs.until("patient", "it has the last", |tab| {
        tab.events.last() == all.last()
    });
    let feed = api.feed(TENANT, 1_000).await;
    let feed: Vec<_> = feed.iter().map(|event| text(event, "eventId")).collect();
    assert_eq!(tab.await.events, feed);
    tabs.tell(json!({"does": "close", "name": "patient"})).await;
}

async fn a_hidden_page_goes_on_where_it_was(tabs: &mut Tabs, api: &Api) {
    tabs.open("hidden", options(json!({"pauseWhenHidden": true})), &[])
        .await;
    tabs.until("hidden", "it is open", is_open).await;
    let mut all = emit(api, 2).await;
    tabs.until("hidden", "it has all", |tab| tab.events.len() == 2)
        .await;
    tabs.tell(json!({"does": "hide", "name": "hidden", "hidden": true}))
        .await;
    tabs.has_streams(0).await;
    all.extend(emit(api, 2).await);
    let tab = tabs.look("hidden").await;
    assert_eq!(tab.states.last().map(String::as_str), Some("paused"));
    assert_eq!(tab.events.len(), 2);
    tabs.tell(json!({"does": "hide", "name": "hidden", "hidden": false}))
        .await;
    let tab = tabs.until("hidden", "it has all", |tab| tab.events.len() >= all.len());
    assert_eq!(tab.await.events, all);
    tabs.tell(json!({"does": "close", "name": "hidden"})).await;
}

async fn a_page_is_told_what_it_cannot_have(tabs: &mut Tabs) {
    tabs.open("wrong", json!({"tenantId": TENANT, "types": "a*b"}), &[])
        .await;
    let failed = |tab: &Tab| {
        tab.states
            .last()
            .is_some_and(|s| s.starts_with("failed: types"))
    };
    tabs.until("wrong", "it is told why", failed).await;
    tabs.open("unknown", options(json!({"after": 999_999})), &[])
        .await;
    let reset = tabs.until("unknown", "it is told", |tab| !tab.resets.is_empty());
    assert_eq!(reset.await.resets, ["unknown cursor"]);
    tabs.tell(json!({"does": "close", "name": "unknown"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_chromium_have_every_event_once_by_one_connection() {
    if let Some(path) = given("Chromium", "HERALD_TEST_CHROMIUM") {
        story(|profile, url| chromium(&path, profile, url)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_firefox_have_every_event_once_by_one_connection() {
    if let Some(path) = given("Firefox", "HERALD_TEST_FIREFOX") {
        story(|profile, url| firefox(&path, profile, url)).await;
    }
}

/// Tokens of two seconds, for a tab by SSE and one by WebSocket.
async fn story_of_tokens(launch: impl FnOnce(&TempDir, &str) -> Browser) {
    let auth =
        "mode = \"jwt\"\nleeway = \"0s\"\nsecret = \"a secret of more than thirty-two bytes\"";
    let home = home(&Config::embedded().sse().table("auth", auth));
    let herald = home.start().await;
    let token = async |scope, ttl| {
        let args = ["token", "--tenant", TENANT, "--scope", scope, "--ttl", ttl];
        home.succeed(&args).await.trim().to_owned()
    };
    let bearer = format!("Bearer {}", token("publish", "1h").await);
    let headers = [("authorization", bearer.as_str())];
    let emit = async || {
        let event = json!({"tenantId": TENANT, "type": "order.paid", "payload": {}});
        let body = event.to_string();
        let answer = herald.api.request("POST", "/events", &headers, body).await;
        text(&answer.expect("an answer").expect(201), "eventId")
    };
    let mut tabs = Tabs::start(&herald.api, launch).await;
    tabs.give(token("subscribe", "2s").await);
    let options = |by: &str| options(json!({"token": true, "after": 0, "transports": [by]}));
    tabs.open("sse", options("sse"), &[]).await;
    tabs.open("websocket", options("websocket"), &[]).await;
    let mut all = Vec::new();
    let mut turns = Turns::new("they ask for other tokens", seconds(60));
    while tabs.tokens() < 6 {
        turns.next().await;
        tabs.give(token("subscribe", "2s").await);
        all.push(emit().await);
    }
    tabs.give(token("subscribe", "1h").await);
    all.push(emit().await);
    for name in ["sse", "websocket"] {
        let tab = tabs.until(name, "it has all", |tab| tab.events.len() >= all.len());
        let tab = tab.await;
        assert_eq!(tab.events, all, "{name}");
        assert_eq!(tab.resets, [""; 0], "{name}");
    }
    tabs.open("without", json!({"tenantId": TENANT}), &[]).await;
    let failed = |tab: &Tab| {
        tab.states
            .last()
            .is_some_and(|state| state.starts_with("failed"))
    };
    tabs.until("without", "it is told why", failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_chromium_go_on_with_another_token() {
    if let Some(path) = given("Chromium", "HERALD_TEST_CHROMIUM") {
        story_of_tokens(|profile, url| chromium(&path, profile, url)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_firefox_go_on_with_another_token() {
    if let Some(path) = given("Firefox", "HERALD_TEST_FIREFOX") {
        story_of_tokens(|profile, url| firefox(&path, profile, url)).await;
    }
}

#[tokio::test]
async fn the_types_of_the_client_allow_what_it_takes_and_nothing_else() {
    let Some(peers) = given("Node.js peers", "HERALD_TEST_NODE_PEERS") else {
        return;
    };
    let checked = Command::new("node")
        .arg(format!("{peers}/node_modules/typescript/bin/tsc"))
        .args(["--noEmit", "--strict", "--target", "es2023"])
        .args(["--lib", "es2023,dom", "--module", "nodenext"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/peers/client_types.ts"
        ))
        .output();
    let checked = checked.await.expect("node starts");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
}
