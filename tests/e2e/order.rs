//! `ordering = "key"`: everything of one key comes to a recipient in the feed's order, whatever
//! fails or dies, and one key does not hold up another.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Api, Config, Database, Home, Smtp, eventually, postgres, python, redis, seconds, text,
};

const TENANT: &str = "acme";
const KEYS: usize = 5;
const EACH: usize = 15;

const SETTINGS: [&str; 8] = [
    "HERALD_SINKS__EMAIL__ORDERING=key",
    "HERALD_SINKS__EMAIL__ORDERING_KEY=payload.orderId",
    // What a killed process had taken is due again after twice this, and half a minute.
    "HERALD_SINKS__EMAIL__ATTEMPT_TIMEOUT=1s",
    "HERALD_SINKS__EMAIL__RETRY__MAX_ATTEMPTS=50",
    "HERALD_SINKS__EMAIL__RETRY__MAX_DELAY=500ms",
    "HERALD_SINKS__EMAIL__BREAKER__OPEN=200ms",
    "HERALD_SINKS__EMAIL__BREAKER__MAX_OPEN=500ms",
    "HERALD_BROKER__RECLAIM_IDLE=1s",
];

/// Orders that change again and again, by turns, each told to two recipients.
fn payloads() -> impl Iterator<Item = Value> {
    (0..KEYS * EACH).map(|number| {
        let key = number % KEYS;
        let email = format!("a@key{key}.test, b@key{key}.test");
        json!({"orderId": key, "number": number / KEYS, "email": email})
    })
}

/// The ids of the mails to a recipient, in the order in which they came. What came twice in a row
/// (its process died before it was recorded) counts once.
fn received(smtp: &Smtp) -> BTreeMap<String, Vec<String>> {
    let mut lanes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mail in smtp.mails() {
        let lane = lanes.entry(text(&mail, "rcpt")).or_default();
        lane.push(text(&mail, "eventId"));
        lane.dedup();
    }
    lanes
}

/// Waits until all mail is out, and compares the order of every lane with the feed's.
async fn in_order(smtp: &Smtp, feed: &[String]) {
    let wanted = 2 * KEYS * EACH;
    eventually("all mail is out", seconds(80), async || {
        let lanes = received(smtp);
        (lanes.values().map(Vec::len).sum::<usize>() >= wanted).then_some(())
    })
    .await;
    let lanes = received(smtp);
    assert_eq!(lanes.len(), 2 * KEYS);
    for (recipient, lane) in lanes {
        let key: usize = recipient[5..recipient.len() - 5].parse().expect("a key");
        let expected: Vec<_> = feed.iter().skip(key).step_by(KEYS).cloned().collect();
        assert!(lane == expected, "{recipient}: {lane:?}, not {expected:?}");
    }
}

/// Waits until all mails have come but those of one key.
async fn all_but(smtp: &Smtp, key: usize) {
    eventually("the other keys are through", seconds(60), async || {
        let lanes = received(smtp);
        let through = lanes.values().filter(|lane| lane.len() == EACH).count();
        (through == 2 * (KEYS - 1)).then_some(())
    })
    .await;
    let end = format!("@key{key}.test");
    let held = received(smtp).into_keys().find(|to| to.ends_with(&end));
    assert_eq!(held, None, "what is refused did not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_keep_the_order_of_a_key_that_fails_and_one_of_them_is_killed() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(43), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).email(smtp.port));
    let one = home.start_as("one", &SETTINGS).await;
    let two = home.start_as("two", &SETTINGS).await;

    smtp.fail_at(20, "@key3.test", "451 4.3.0 try later").await;
    // So that something is under way at any moment, sent and not recorded.
    smtp.delay(Duration::from_millis(30)).await;
    let emitted = database.emit_orders(TENANT, payloads()).await;
    eventually("mail flows", seconds(30), async || {
        (smtp.count() >= KEYS * EACH / 2).then_some(())
    })
    .await;
    one.kill().await;
    let feed = two.api.feed_ids(TENANT).await;
    assert_eq!(feed, emitted);
    in_order(&smtp, &feed).await;
    assert_eq!(smtp.refused().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_fails_holds_up_itself_alone_between_two_processes() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(44), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).email(smtp.port));
    let one = home.start_as("one", &SETTINGS).await;
    let two = home.start_as("two", &SETTINGS).await;
    smtp.fail_at(1_000_000, "@key2.test", "450 4.2.0 mailbox busy")
        .await;
    let emitted = database.emit_orders(TENANT, payloads()).await;
    all_but(&smtp, 2).await;
    smtp.heal().await;
    in_order(&smtp, &emitted).await;
    assert!(one.terminate().await.success());
    assert!(two.terminate().await.success());
    assert_eq!(smtp.count(), 2 * KEYS * EACH, "each once");
}

async fn emit(api: &Api) -> Vec<String> {
    let event = |payload| json!({"tenantId": TENANT, "type": "order.created", "payload": payload});
    let events: Vec<Value> = payloads().map(event).collect();
    let answer = api.post("/events", &events.into()).await.expect(201);
    let made = answer.as_array().expect("a list");
    made.iter().map(|event| text(event, "eventId")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_without_servers_keeps_the_order_over_a_kill() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().email(smtp.port));
    let herald = home.start_as("herald", &SETTINGS).await;
    smtp.fail_at(1_000_000, "@key2.test", "451 4.3.0 try later")
        .await;
    let feed = emit(&herald.api).await;
    all_but(&smtp, 2).await;
    // What waits for another attempt is in the ledger, and those behind it with it.
    herald.kill().await;
    smtp.heal().await;
    let _herald = home.start_as("herald", &SETTINGS).await;
    in_order(&smtp, &feed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_at_the_head_of_a_key_lets_the_key_go_on() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().email(smtp.port));
    let herald = home.start_as("herald", &SETTINGS).await;
    smtp.fail_at(1, "a@key1.test", "550 5.1.1 no such user")
        .await;
    let feed = emit(&herald.api).await;
    eventually("all other mail is out", seconds(60), async || {
        (smtp.count() >= 2 * KEYS * EACH - 1).then_some(())
    })
    .await;
    let lane = received(&smtp).remove("a@key1.test").expect("a lane");
    let behind: Vec<_> = feed.iter().skip(1 + KEYS).step_by(KEYS).cloned().collect();
    assert_eq!(lane, behind, "in order, without the first");
    let dead = herald.api.get("/dead").await.expect(200);
    let letters = dead["dead"].as_array().expect("a list");
    assert_eq!(letters.len(), 1, "{dead}");
    assert_eq!(text(&letters[0], "eventId"), feed[1]);
}
