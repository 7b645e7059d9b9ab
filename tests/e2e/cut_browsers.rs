//! Real browsers' EventSource behind a proxy that cuts its connections at random.
//!
//! The browser comes back by itself, with its old URL (so the old `after`) and the new
//! `Last-Event-ID`, and has each event once in the end.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tempfile::TempDir;

use crate::browser::{Browser, chromium, firefox};
use crate::harness::{
    Config, Database, END, Home, emit, eventually, given, postgres, redis, seconds, seed, text,
    within,
};
use crate::proxy::Proxy;

const TENANT: &str = "acme";
/// Cuts before the stream is left alone.
const CUTS: usize = 8;

/// What the browser runs. It tells what it has when the last event arrives, or when it gives up.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>story</title><script>
const got = [];
let errors = 0;
const report = end => fetch("/result", {method: "POST", body: JSON.stringify({got, errors, end})});
const source = new EventSource("/sse?" + location.search.slice(1));
source.onmessage = e => {
  const event = JSON.parse(e.data);
  got.push(event.eventId);
  if (e.lastEventId !== event.eventId) report("lastEventId is " + e.lastEventId);
  if (event.type === "story.end") { source.close(); report("end"); }
};
source.addEventListener("herald.reset", () => report("reset"));
source.onerror = () => {
  errors += 1;
  if (source.readyState === EventSource.CLOSED) report("closed for good");
};
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn chromium_that_is_cut_again_and_again_has_each_event_once_in_the_end() {
    let path = given("Chromium", "HERALD_TEST_CHROMIUM");
    let (Some(path), Some(server), Some(redis)) = (path, postgres(), redis(3)) else {
        return;
    };
    story(server, redis, |profile, url| chromium(&path, profile, url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_that_is_cut_again_and_again_has_each_event_once_in_the_end() {
    let path = given("Firefox", "HERALD_TEST_FIREFOX");
    let (Some(path), Some(server), Some(redis)) = (path, postgres(), redis(6)) else {
        return;
    };
    story(server, redis, |profile, url| firefox(&path, profile, url)).await;
}

async fn story(server: String, redis: String, start: impl FnOnce(&TempDir, &str) -> Browser) {
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse());
    let herald = home.start().await;

    // What the page has by REST before it opens its stream.
    for _ in 0..20 {
        database.emit(TENANT, "order.before", "{}").await;
    }
    let before = eventually(
        "the first events are in the feed",
        seconds(10),
        async || {
            let path = format!("/events?tenantId={TENANT}&order=desc&limit=100");
            let page = herald.api.get(&path).await.expect(200);
            let events = page["events"].as_array().expect("a list").clone();
            (events.len() == 20).then_some(events)
        },
    )
    .await;
    let after = &before[0]["aggregateId"];

    let random = StdRng::seed_from_u64(seed());
    let mut proxy = Proxy::start(&herald.api.base, PAGE, random).await;
    let profile = TempDir::new().expect("a temporary folder");
    let url = format!("{}/test-page?tenantId={TENANT}&after={after}", proxy.base);
    let _browser = start(&profile, &url);

    // Events come for as long as it is cut, some of them in transactions that commit late.
    eventually("the browser opens its stream", seconds(60), async || {
        (proxy.streams() > 0).then_some(())
    })
    .await;
    eventually(
        "the browser came back each time",
        seconds(120),
        async || {
            let mut late = database.begin().await;
            emit(&mut late, TENANT, "order.late", "{}").await;
            for number in 0..10 {
                let payload = format!(r#"{{"number":{number},"padding":"{}"}}"#, "x".repeat(200));
                database.emit(TENANT, "order.created", &payload).await;
            }
            late.commit().await.expect("commits");
            (proxy.cuts() >= CUTS).then_some(())
        },
    )
    .await;
    proxy.leave_alone();
    database.emit(TENANT, END, "{}").await;

    let result = within("the browser's result", seconds(60), proxy.result()).await;
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result["end"], "end", "{result}");
    assert!(
        result["errors"].as_u64() >= Some(CUTS as u64),
        "it noticed each cut: {result}"
    );
    let got: Vec<_> = result["got"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let feed = herald.api.feed(TENANT, 500).await;
    let live: Vec<_> = feed[before.len()..]
        .iter()
        .map(|e| text(e, "eventId"))
        .collect();
    let differs = got.iter().zip(&live).position(|(a, b)| a != b);
    assert!(
        got == live,
        "the browser has {} events of {}, other from place {differs:?} on",
        got.len(),
        live.len(),
    );
}
