//! Deliveries that fail: retried while there is hope, dead letters when there is none, replayed
//! when the far end is well again.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Api, Config, Herald, Home, Smtp, eventually, python, seconds, text};

const TENANT: &str = "acme";

struct Story {
    smtp: Smtp,
    home: Home,
    herald: Herald,
    _dir: TempDir,
}

async fn begin() -> Option<Story> {
    let python = python()?;
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::embedded().sse().email(smtp.port));
    let herald = home.start().await;
    Some(Story {
        smtp,
        home,
        herald,
        _dir: dir,
    })
}

async fn emit(api: &Api, number: usize) -> String {
    let payload = json!({"number": number, "email": format!("user{number}@example.test")});
    let event = json!({"tenantId": TENANT, "type": "order.created", "payload": payload});
    text(&api.post("/events", &event).await.expect(201), "eventId")
}

/// Waits until the event's one delivery by mail is in this state.
async fn delivery(api: &Api, id: &str, state: &str) -> Value {
    let path = format!("/events/{id}/deliveries?tenantId={TENANT}");
    eventually(&format!("{id} is {state}"), seconds(30), async || {
        let answer = api.get(&path).await.expect(200);
        let list = answer["deliveries"].as_array().expect("a list").clone();
        list.into_iter()
            .find(|d| d["sink"] == "email" && d["state"] == state)
    })
    .await
}

/// The ids in the mailbox of the far end, in no order.
fn received(smtp: &Smtp) -> Vec<String> {
    let mut ids: Vec<_> = smtp.mails().iter().map(|m| text(m, "eventId")).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_is_deferred_is_retried_and_delivered_once() {
    let Some(mut story) = begin().await else {
        return;
    };
    story.smtp.fail_next(3, "451 4.3.0 try later").await;
    let id = emit(&story.herald.api, 1).await;
    let delivery = delivery(&story.herald.api, &id, "delivered").await;
    assert_eq!(delivery["attempts"], 4, "{delivery}");
    assert_eq!(story.smtp.refused().await, 3);
    assert_eq!(received(&story.smtp), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_is_refused_becomes_a_dead_letter_that_the_command_line_replays() {
    let Some(mut story) = begin().await else {
        return;
    };
    let api = story.herald.api.clone();
    story.smtp.fail("550 5.1.1 no such user").await;
    let mut ids = vec![emit(&api, 1).await, emit(&api, 2).await];
    for id in &ids {
        let dead = delivery(&api, id, "dead").await;
        assert_eq!(dead["attempts"], 1, "a refusal is final: {dead}");
        assert!(text(&dead, "cause").contains("550"), "{dead}");
    }

    let list = story.home.succeed(&["dead", "list", "--json"]).await;
    let letters = list
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let mut listed: Vec<_> = letters
        .map(|letter: Value| text(&letter, "eventId"))
        .collect();
    listed.sort();
    ids.sort();
    assert_eq!(listed, ids);

    story.smtp.heal().await;
    story
        .home
        .succeed(&["dead", "replay", "--sink", "email", "--yes"])
        .await;
    for id in &ids {
        delivery(&api, id, "delivered").await;
    }
    assert_eq!(
        received(&story.smtp),
        ids,
        "each once, under its own event_id"
    );
    let list = api.get("/dead").await.expect(200);
    assert!(dead_letters(&list).is_empty(), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_is_refused_becomes_a_dead_letter_that_http_replays_or_drops() {
    let Some(mut story) = begin().await else {
        return;
    };
    let api = story.herald.api.clone();
    story.smtp.fail("550 5.1.1 no such user").await;
    let (replayed, dropped) = (emit(&api, 1).await, emit(&api, 2).await);
    for id in [&replayed, &dropped] {
        delivery(&api, id, "dead").await;
    }
    // A healthy recipient is not held up by the dead ones.
    story.smtp.heal().await;
    let healthy = emit(&api, 3).await;
    delivery(&api, &healthy, "delivered").await;
    assert_eq!(dead_letters(&api.get("/dead").await.expect(200)).len(), 2);

    let answer = api
        .post(
            "/dead/replay",
            &json!({"sink": "email", "eventId": replayed}),
        )
        .await;
    assert_eq!(answer.expect(200)["replayed"], 1);
    delivery(&api, &replayed, "delivered").await;
    let answer = api
        .post("/dead/drop", &json!({"sink": "email", "eventId": dropped}))
        .await;
    assert_eq!(answer.expect(200)["dropped"], 1);
    assert!(dead_letters(&api.get("/dead").await.expect(200)).is_empty());

    let mut expected = [healthy, replayed];
    expected.sort();
    assert_eq!(received(&story.smtp), expected);
}

/// The letters of an answer.
fn dead_letters(answer: &Value) -> &[Value] {
    answer["dead"].as_array().expect("a list")
}
