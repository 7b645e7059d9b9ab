//! Deliveries that fail: retried while there is hope, dead letters when there is none, replayed
//! when the far end is well again.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Api, Config, Database, Herald, Home, Smtp, eventually, postgres, python, redis, seconds, text,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_and_the_dead_letter_stream_are_told_of_each_dead_letter() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(30), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    // The operators' mailbox is a sink like any other.
    let mailbox = r#"kind = "email"
types = ["herald.dead_letter"]"#;
    let template = r#"to = "ops@example.test"
subject = "{{ payload.sink }}: {{ payload.cause }}"
text = "{{ payload.recipient }}""#;
    let config = Config::new(&database.url, &redis)
        .table("dead_letters", "tenant = \"operators\"")
        .email(smtp.port)
        .table("sinks.alerts", mailbox)
        .table("[sinks.alerts.templates]", template);
    let home = Home::new(&config);
    let herald = home.start().await;
    smtp.fail("550 5.1.1 no such user").await;
    let id = emit(&herald.api, 1).await;
    delivery(&herald.api, &id, "dead").await;

    let mail = eventually("the operators have mail", seconds(20), async || {
        let page = herald.api.get("/mailbox.json?limit=10").await.expect(200);
        page["mails"].as_array().expect("a list").first().cloned()
    })
    .await;
    let subject = text(&mail, "subject");
    assert!(
        subject.starts_with("email: ") && subject.contains("550"),
        "{subject}"
    );
    let events = herald
        .api
        .get("/events?tenantId=operators&types=herald.*")
        .await
        .expect(200);
    let [event] = events["events"].as_array().expect("a list").as_slice() else {
        panic!("one event for one death: {events}");
    };
    let letter = &event["payload"];
    assert_eq!(letter["eventId"], id.as_str());
    assert_eq!(letter["recipient"], "user1@example.test");
    assert_eq!(letter["history"].as_array().map(Vec::len), Some(1));

    let stream = dead_letter_stream(&redis).await;
    let [entry] = stream.as_slice() else {
        panic!("one entry for one death: {stream:?}");
    };
    let told: Value = serde_json::from_str(entry).expect("JSON");
    assert_eq!(&told, letter, "both are what the ledger holds");
}

/// The `json` of each entry of the dead-letter stream.
async fn dead_letter_stream(redis: &str) -> Vec<String> {
    let client = ::redis::Client::open(redis).expect("a Redis URL");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("Redis answers");
    let keys: Vec<String> = ::redis::cmd("KEYS")
        .arg("herald:*:dead")
        .query_async(&mut connection)
        .await
        .expect("answers");
    let mut told = Vec::new();
    for key in keys {
        let entries: ::redis::streams::StreamRangeReply = ::redis::cmd("XRANGE")
            .arg(key)
            .arg("-")
            .arg("+")
            .query_async(&mut connection)
            .await
            .expect("answers");
        told.extend(entries.ids.iter().filter_map(|entry| entry.get("json")));
    }
    told
}

/// The letters of an answer.
fn dead_letters(answer: &Value) -> &[Value] {
    answer["dead"].as_array().expect("a list")
}
