//! Limits that an operator sets: rates, and sinks that are paused.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{
    Api, Config, Database, Home, Smtp, eventually, postgres, python, redis, seconds, text,
};

const TENANT: &str = "acme";

/// Emits an order for each address in one request, and returns the ids.
async fn emit(api: &Api, addresses: &[String]) -> Vec<String> {
    let events: Vec<Value> = addresses
        .iter()
        .map(|email| json!({"tenantId": TENANT, "type": "order.created", "payload": {"email": email}}))
        .collect();
    let answer = api.post("/events", &events.into()).await.expect(201);
    let made = answer.as_array().expect("a list");
    made.iter().map(|event| text(event, "eventId")).collect()
}

async fn all_out(smtp: &Smtp, ids: &[String]) {
    eventually("all mail is out", seconds(60), async || {
        (smtp.count() >= ids.len()).then_some(())
    })
    .await;
    each_once(smtp, ids);
}

fn each_once(smtp: &Smtp, ids: &[String]) {
    let mut sent: Vec<_> = smtp.mails().iter().map(|m| text(m, "eventId")).collect();
    sent.sort();
    let mut expected = ids.to_vec();
    expected.sort();
    assert!(sent == expected, "{} mails for {}", sent.len(), ids.len());
}

/// How long `count` attempts take at so many a second. What fits into a tenth of a second may come
/// at once.
fn at_least(count: u32, rate: u32) -> Duration {
    Duration::from_secs(1) * (count - 1) / rate - Duration::from_millis(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_makes_no_more_attempts_than_its_rate_allows() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().email(smtp.port));
    let herald = home
        .start_as("herald", &["HERALD_SINKS__EMAIL__RATE=20/s"])
        .await;
    // Those that fail count as well.
    smtp.fail_next(10, "450 4.2.0 mailbox busy").await;
    let addresses: Vec<_> = (0..60).map(|n| format!("u{n}@{n}.example.test")).collect();
    let begin = Instant::now();
    let ids = emit(&herald.api, &addresses).await;
    all_out(&smtp, &ids).await;
    let took = begin.elapsed();
    assert!(took >= at_least(70, 20), "70 attempts in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_for_each_destination_slows_only_the_one_that_has_much_to_get() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().email(smtp.port));
    let rate = "HERALD_SINKS__EMAIL__DESTINATION__RATE=2/s";
    let herald = home.start_as("herald", &[rate]).await;
    let addresses: Vec<_> = (0..24)
        .map(|number: usize| match number.is_multiple_of(2) {
            true => format!("u{number}@slow.test"),
            false => format!("u@{number}.example.test"),
        })
        .collect();
    let begin = Instant::now();
    let ids = emit(&herald.api, &addresses).await;
    all_out(&smtp, &ids).await;
    let took = begin.elapsed();
    assert!(took >= at_least(12, 2), "12 attempts at one in {took:?}");
    let mails = smtp.mails();
    let is_other = |mail: &Value| !text(mail, "rcpt").ends_with("@slow.test");
    let last = mails.iter().rposition(is_other).expect("some");
    assert!(
        last < mails.len() - 4,
        "the last of the others was number {last} of {}",
        mails.len()
    );
}

/// Waits until no mail has come for a second, and returns how many there are.
async fn quiet(smtp: &Smtp) -> usize {
    let mut last = (smtp.count(), Instant::now());
    eventually("no more mail comes", seconds(20), async || {
        let count = smtp.count();
        if count != last.0 {
            last = (count, Instant::now());
        }
        (last.1.elapsed() >= seconds(1)).then_some(count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_paused_with_a_full_queue_stops_and_loses_and_repeats_nothing() {
    const EVENTS: usize = 1_000;
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(47), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).email(smtp.port));
    // Paused for longer than a reader may be silent: who holds what must stay known.
    let settings = [
        "HERALD_BROKER__RECLAIM_IDLE=500ms",
        "HERALD_SINKS__EMAIL__CONCURRENCY=4",
    ];
    let one = home.start_as("one", &settings).await;
    smtp.delay(Duration::from_millis(40)).await;
    // Some have two recipients, so that a pause may come between them.
    let two_each = |n: usize| n.is_multiple_of(10);
    let payload = |n: usize| match two_each(n) {
        true => json!({"email": format!("a{n}@one.test, b{n}@two.test")}),
        false => json!({"email": format!("a{n}@{n}.test")}),
    };
    let ids = database.emit_orders(TENANT, (0..EVENTS).map(payload)).await;
    let again = ids.iter().step_by(10).cloned();
    let expected: Vec<_> = ids.iter().cloned().chain(again).collect();
    eventually("mail flows", seconds(30), async || {
        (smtp.count() > 0).then_some(())
    })
    .await;
    let two = home.start_as("two", &settings).await;
    for round in 1..=2 {
        eventually("mail flows", seconds(30), async || {
            (smtp.count() >= round * 100).then_some(())
        })
        .await;
        let path = "/sinks/email/pause";
        let answer = one.api.post(path, &json!({})).await.expect(200);
        assert_eq!(answer["paused"], true);
        let count = quiet(&smtp).await;
        println!("paused at {count} of {} mails", expected.len());
        assert!(count < expected.len() / 2, "it went on all the same");
        assert_eq!(two.api.sink("email").await["paused"], true);
        two.api
            .post("/sinks/email/resume", &json!({}))
            .await
            .expect(200);
    }
    smtp.heal().await;
    eventually("every mail is recorded", seconds(60), async || {
        let sql = "SELECT count(*) FROM herald.deliveries WHERE state = 'delivered'";
        (database.number(sql).await == expected.len() as i64).then_some(())
    })
    .await;
    // What is under way twice would still come.
    assert!(one.terminate().await.success());
    assert!(two.terminate().await.success());
    each_once(&smtp, &expected);
}
