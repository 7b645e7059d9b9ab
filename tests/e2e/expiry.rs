//! Events that become too old to be of use: dropped as expired, said so, and never sent late.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Api, Config, Home, Push, Smtp, eventually, python, seconds, text};

const TENANT: &str = "acme";

async fn emit(api: &Api) -> String {
    let event = json!({"tenantId": TENANT, "type": "order.created",
        "payload": {"email": "a@example.test"}});
    text(&api.post("/events", &event).await.expect(201), "eventId")
}

/// Waits until the event's delivery has this state, as `herald events show` tells it.
async fn shown(home: &Home, id: &str, state: &str) -> Value {
    eventually(&format!("{id} is {state}"), seconds(30), async || {
        let printed = home.succeed(&["events", "show", id, "--json"]).await;
        let shown: Value = serde_json::from_str(&printed).expect("JSON");
        let deliveries = shown["deliveries"].as_array().expect("a list").clone();
        deliveries.into_iter().find(|d| d["state"] == state)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_is_refused_for_too_long_expires_and_is_not_sent_late() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().email(smtp.port));
    let herald = home
        .start_as(
            "herald",
            &[
                "HERALD_SINKS__EMAIL__EXPIRES_AFTER=2s",
                // With full jitter a few attempts may be over in no time.
                "HERALD_SINKS__EMAIL__RETRY__MAX_ATTEMPTS=100",
            ],
        )
        .await;
    smtp.fail("450 4.2.0 mailbox busy").await;
    let old = emit(&herald.api).await;
    let delivery = shown(&home, &old, "skipped").await;
    let cause = text(&delivery, "cause");
    assert!(cause.starts_with("expired"), "{cause}");
    assert!(cause.contains("450 4.2.0 mailbox busy"), "{cause}");
    let attempts = delivery["attempts"].as_u64().expect("a number");
    assert_eq!(attempts, smtp.refused().await as u64, "{delivery}");
    let table = home.succeed(&["events", "show", &old]).await;
    assert!(
        table.contains("skipped") && table.contains("expired"),
        "{table}"
    );

    smtp.heal().await;
    let new = emit(&herald.api).await;
    shown(&home, &new, "delivered").await;
    let mails = smtp.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert_eq!(text(&mails[0], "eventId"), new);
    let metric = r#"herald_deliveries_total{outcome="expired",sink="email"}"#;
    assert_eq!(herald.api.metric(metric).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_waited_too_long_for_its_turn_expires_without_an_attempt() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().email(smtp.port));
    // The first takes the rate's only place for longer than the others are of use.
    let settings = [
        "HERALD_SINKS__EMAIL__EXPIRES_AFTER=1s",
        "HERALD_SINKS__EMAIL__RATE=20/m",
    ];
    let herald = home.start_as("herald", &settings).await;
    let first = emit(&herald.api).await;
    let second = emit(&herald.api).await;
    shown(&home, &first, "delivered").await;
    let delivery = shown(&home, &second, "skipped").await;
    let cause = text(&delivery, "cause");
    assert!(
        cause.starts_with("expired") && cause.ends_with("older than 1s"),
        "{cause}"
    );
    assert_eq!(delivery["attempts"], 0, "{delivery}");
    assert_eq!(smtp.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_past_its_ttl_is_dropped_as_expired() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut push = Push::start(&python, dir.path(), 1).await;
    let home = Home::new(&Config::embedded().push());
    let herald = home
        .start_as("herald", &["HERALD_SINKS__PUSH__TTL=3s"])
        .await;
    push.subscribe_all(&herald.api, TENANT).await;
    // It says `Retry-After: 1`, too.
    push.fail_next(1_000_000, 503).await;
    let old = emit(&herald.api).await;
    let delivery = shown(&home, &old, "skipped").await;
    let cause = text(&delivery, "cause");
    assert!(
        cause.starts_with("expired") && cause.contains("503"),
        "{cause}"
    );

    push.heal().await;
    let new = emit(&herald.api).await;
    shown(&home, &new, "delivered").await;
    let messages = push.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(text(&messages[0], "eventId"), new);
    let left = messages[0]["ttl"].as_u64().expect("a number");
    assert!(left <= 3, "the push service keeps it no longer: {left}");
}
