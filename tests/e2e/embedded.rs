//! herald as it comes: the committed `config.toml`, one process, one SQLite file, no servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Api, END, Herald, Home, eventually, follow, seconds, text, within};

const TENANT: &str = "demo";
const WRITERS: usize = 4;

/// A folder with the committed configuration.
fn home() -> Home {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    Home::with(&fs::read_to_string(file).expect("config.toml is there"))
}

async fn start(home: &Home) -> Herald {
    home.start_as("herald", &["HERALD_HTTP__LISTEN=127.0.0.1:0"])
        .await
}

fn event(kind: &str, number: usize) -> Value {
    let payload = json!({"number": number, "email": format!("user{number}@example.test")});
    json!({"tenantId": TENANT, "type": kind, "payload": payload})
}

/// Emits until the server is gone, and returns the ids that it promised with a 201.
async fn emit_until_killed(api: Api, first: usize) -> Vec<String> {
    let mut promised = Vec::new();
    for number in (first..).step_by(WRITERS) {
        match api
            .try_post("/events", &event("order.created", number))
            .await
        {
            Ok(reply) => promised.push(text(&reply.expect(201), "eventId")),
            Err(_) => break,
        }
    }
    promised
}

/// How often each event is in the mailbox.
async fn mailbox(api: &Api) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let page = api.get("/mailbox.json?limit=1000").await.expect(200);
    for mail in page["mails"].as_array().expect("a list") {
        *counts.entry(text(mail, "eventId")).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_before_a_kill_is_on_the_stream_and_in_the_mailbox_once() {
    let home = home();
    let mut promised = Vec::new();
    for round in 0..3 {
        let herald = start(&home).await;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(emit_until_killed(
                herald.api.clone(),
                round * 1_000 + writer,
            ));
        }
        // In the middle of a stream of emits, as the feed's length shows.
        let goal = (round + 1) * 60;
        eventually("events flow", seconds(30), async || {
            (herald.api.feed_ids(TENANT).await.len() >= goal).then_some(())
        })
        .await;
        herald.kill().await;
        let ids = within("the writers notice", seconds(60), writers.join_all()).await;
        promised.extend(ids.into_iter().flatten());
    }

    let herald = start(&home).await;
    herald.api.post("/events", &event(END, 0)).await.expect(201);
    let seen = follow(vec![herald.api.clone()], TENANT.into());
    let seen = within("the whole stream", seconds(60), seen).await;
    let mut unique = seen.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), seen.len(), "no event comes twice");
    for id in &promised {
        assert!(
            unique.binary_search(id).is_ok(),
            "{id} was promised and is not on the stream"
        );
    }

    // A crash between sending and recording may repeat a mail; its Message-ID is the same, and
    // the mailbox, like any mail store that knows it, keeps one.
    let mails = eventually("the mailbox has every event", seconds(60), async || {
        let mails = mailbox(&herald.api).await;
        seen.iter()
            .all(|id| mails.contains_key(id))
            .then_some(mails)
    })
    .await;
    let twice: Vec<_> = mails.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "in the mailbox more than once: {twice:?}");
    assert!(
        herald.terminate().await.success(),
        "SIGTERM drains and exits 0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_emitted_from_the_command_line_reach_the_stream_of_a_running_herald() {
    let home = home();
    let herald = start(&home).await;
    let mut emitted = Vec::new();
    for number in 0..5 {
        let payload = json!({"number": number, "email": "a@example.test"}).to_string();
        let args = [
            "emit",
            "--tenant",
            TENANT,
            "--type",
            "order.created",
            "--payload",
            &payload,
        ];
        let printed = home.succeed(&args).await;
        let mut words = printed.split_whitespace();
        emitted.push(words.next().expect("an eventId").to_owned());
        let number: i64 = words
            .next()
            .expect("an aggregateId")
            .parse()
            .expect("a number");
        assert!(number > 0);
    }
    herald.api.post("/events", &event(END, 0)).await.expect(201);
    let seen = follow(vec![herald.api.clone()], TENANT.into());
    let seen = within("the whole stream", seconds(60), seen).await;
    assert_eq!(seen, emitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_id_gets_the_first_answer_and_is_notified_once() {
    let home = home();
    let herald = start(&home).await;
    let mut first = event("order.created", 1);
    first["eventId"] = "01JD5Z00000000000000000001".into();
    let answer = herald.api.post("/events", &first).await.expect(201);
    let again = herald.api.post("/events", &first).await.expect(200);
    assert_eq!(answer, again);

    let keyed = event("order.created", 2).to_string();
    let key = [("idempotency-key", "order-2")];
    let one = herald
        .api
        .request("POST", "/events", &key, keyed.clone())
        .await
        .expect("answers");
    let two = herald
        .api
        .request("POST", "/events", &key, keyed)
        .await
        .expect("answers");
    let (one, two) = (one.expect(201), two.expect(200));
    assert_eq!(one, two);

    herald.api.post("/events", &event(END, 0)).await.expect(201);
    let seen = follow(vec![herald.api.clone()], TENANT.into());
    let seen = within("the whole stream", seconds(60), seen).await;
    assert_eq!(seen, [text(&answer, "eventId"), text(&one, "eventId")]);
}
