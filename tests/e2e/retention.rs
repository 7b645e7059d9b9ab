//! Events that have had their time go, and nobody who still needs one misses it unawares.

use std::fs;

use serde_json::{Value, json};
use sqlx::Row as _;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Api, Config, Database, END, Home, OwnRedis, Smtp, Sse, eventually, follow, postgres, python,
    redis, seconds, text, within,
};

const TENANT: &str = "acme";

fn order(number: usize) -> Value {
    let payload = json!({"number": number, "email": "a@example.test"});
    json!({"tenantId": TENANT, "type": "order.created", "payload": payload})
}

/// A figure of `/metrics`, by its name.
async fn figure(api: &Api, name: &str) -> f64 {
    let reply = api.get("/metrics").await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.trim().parse().expect("a number")
}

async fn is_gone(api: &Api, id: &str) -> bool {
    api.get(&format!("/events/{id}")).await.status == 404
}

/// Emits until `stop`, and then says what.
fn produce(
    database: &Database,
    tenant: &'static str,
    stop: CancellationToken,
) -> JoinHandle<Vec<String>> {
    let database = database.clone();
    tokio::spawn(async move {
        let mut ids = Vec::new();
        while !stop.is_cancelled() {
            let emitted = database.emit(tenant, "order.created", "{}");
            ids.push(within("a producer's commit", seconds(10), emitted).await);
        }
        ids
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_too_far_behind_is_told_and_goes_on_while_producers_notice_nothing() {
    let Some(server) = postgres() else { return };
    let database = Database::create(&server).await;
    let config = Config::new(&database.url, "embedded:")
        .table("sinks.sse", "kind = \"sse\"\nreplay_page = 5")
        .table("retention", "events = \"60s\"");
    let home = Home::new(&config);
    let herald = home.start().await;
    let api = &herald.api;

    // More than the sockets between herald and a client that does not read can hold.
    let padding = "x".repeat(200_000);
    let mut ids = Vec::new();
    for number in 0..100 {
        let payload = json!({"number": number, "padding": padding}).to_string();
        ids.push(database.emit(TENANT, "order.created", &payload).await);
    }
    eventually("all are in the feed", seconds(30), async || {
        (figure(api, "herald_feed_seq ").await >= 100.0).then_some(())
    })
    .await;
    let mut slow = Sse::open(api, &format!("tenantId={TENANT}&after=0"), None)
        .await
        .expect("a stream");
    let first = within("the first event", seconds(10), slow.take(1)).await;
    let first = first[0].json();
    assert_eq!(text(&first, "eventId"), ids[0]);

    let mut live = Sse::open(api, "tenantId=other", None)
        .await
        .expect("a stream");
    assert!(live.greeting().await);
    let stop = CancellationToken::new();
    let producer = produce(&database, "other", stop.clone());
    sqlx::query(
        "UPDATE herald.events SET created_at = now() - interval '1 hour' WHERE event_id = ANY ($1)",
    )
    .bind(&ids[..95])
    .execute(&database.pool)
    .await
    .expect("an hour passes");
    eventually("95 are deleted", seconds(30), async || {
        (figure(api, "herald_feed_oldest_seq ").await == 96.0).then_some(())
    })
    .await;
    stop.cancel();
    let produced = producer.await.expect("the producer is well");
    let seen = within(
        "all of the others' events",
        seconds(30),
        live.take(produced.len()),
    )
    .await;
    let seen: Vec<_> = seen.into_iter().map(|message| message.id).collect();
    assert_eq!(seen, produced, "{} events", produced.len());

    // The slow client reads what it was sent, is told, and gets the oldest that are kept.
    let mut expected = 1;
    let reset = loop {
        let message = within("the next event", seconds(10), slow.next()).await;
        let message = message.expect("the stream goes on");
        if message.name != "message" {
            break message;
        }
        assert_eq!(message.id, ids[expected], "in order, and none is left out");
        expected += 1;
    };
    assert_eq!(reset.name, "herald.reset");
    assert_eq!(reset.json()["reason"], "events expired");
    assert!(expected < 95, "told after {expected}");
    let rest = within("the kept ones", seconds(10), slow.take(5)).await;
    let rest: Vec<_> = rest.into_iter().map(|message| message.id).collect();
    assert_eq!(rest, ids[95..]);

    // Whoever comes back with the id of one that is gone is told as well.
    assert!(is_gone(api, &ids[0]).await);
    let after = format!("/events?tenantId={TENANT}&after={}", first["aggregateId"]);
    api.get(&after).await.problem("an expired place", &[404]);
    assert_eq!(api.feed_ids(TENANT).await, ids[95..]);
    let mut late = Sse::open(api, &format!("tenantId={TENANT}"), Some(&ids[0]))
        .await
        .expect("a stream");
    let told = within("a reset", seconds(10), late.take(1)).await;
    assert_eq!(told[0].name, "herald.reset");
    let new = database.emit(TENANT, "order.created", "{}").await;
    for stream in [&mut late, &mut slow] {
        let next = within("a live event", seconds(10), stream.take(1)).await;
        assert_eq!(next[0].id, new);
    }

    let row = sqlx::query(
        "SELECT count(*) = max(seq) - min(seq) + 1, count(*) = (SELECT count(*) FROM herald.events)
         FROM herald.feed",
    )
    .fetch_one(&database.pool)
    .await
    .expect("counted");
    assert!(row.get::<bool, _>(0), "the feed has no hole");
    assert!(row.get::<bool, _>(1), "an event for each place");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stays_as_long_as_its_mail_is_still_tried() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let config = Config::embedded()
        .sse()
        .email(smtp.port)
        .table("retention", "events = \"1s\"");
    let home = Home::new(&config);
    let herald = home
        .start_as("herald", &["HERALD_RETRY__MAX_ATTEMPTS=100"])
        .await;
    let api = &herald.api;
    smtp.fail("451 4.3.0 try later").await;
    let id = text(&api.post("/events", &order(1)).await.expect(201), "eventId");
    eventually(
        "its time has been up for a while",
        seconds(30),
        async || {
            let late = figure(api, "herald_retention_overdue_seconds ").await;
            (late > 2.0).then_some(())
        },
    )
    .await;
    assert!(!is_gone(api, &id).await);
    eventually(
        "the oldest pending delivery is told",
        seconds(30),
        async || {
            let oldest = figure(api, "herald_retrying_oldest_seconds{sink=\"email\"} ").await;
            (oldest > 1.0).then_some(())
        },
    )
    .await;
    smtp.heal().await;
    eventually("it goes", seconds(30), async || {
        is_gone(api, &id).await.then_some(())
    })
    .await;
    assert_eq!(smtp.count(), 1, "and was delivered first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_removed_holds_events_until_it_is_forgotten() {
    let mail = "kind = \"email\"\ntypes = [\"order.*\"]";
    let template = "to = \"{{ payload.email }}\"\nsubject = \"s\"\ntext = \"t\"";
    let with = Config::embedded()
        .sse()
        .table("sinks.email", mail)
        .table("[sinks.email.templates]", template);
    let home = Home::new(&with);
    home.start().await.terminate().await;

    let without = Config::embedded()
        .sse()
        .table("retention", "events = \"1s\"");
    fs::write(home.path().join("config.toml"), without.as_str()).expect("writes");
    let herald = home.start().await;
    let api = &herald.api;
    let id = text(&api.post("/events", &order(1)).await.expect(201), "eventId");
    let log = eventually("the log says what holds it", seconds(30), async || {
        let log = fs::read_to_string(home.path().join("herald.log")).expect("a log");
        log.contains("nothing more is deleted").then_some(log)
    })
    .await;
    assert!(log.contains("herald sinks forget email"), "{log}");
    assert!(!is_gone(api, &id).await);

    let list = home.succeed(&["sinks", "list", "--json"]).await;
    let sink: Value = serde_json::from_str(&list).expect("one line of JSON");
    let expected =
        json!({"sink": "email", "checkpoint": 0, "lag": 1, "paused": false, "configured": false});
    assert_eq!(sink, expected);
    assert!(
        !home
            .run(&["sinks", "forget", "email"])
            .await
            .status
            .success(),
        "asks first"
    );
    assert!(
        !home
            .run(&["sinks", "forget", "sms", "--yes"])
            .await
            .status
            .success(),
        "there is none"
    );
    home.succeed(&["sinks", "forget", "email", "--yes"]).await;
    eventually("it goes", seconds(30), async || {
        is_gone(api, &id).await.then_some(())
    })
    .await;
    assert!(herald.terminate().await.success());
    fs::write(home.path().join("config.toml"), with.as_str()).expect("writes");
    home.start().await.terminate().await;
    let refused = home.run(&["sinks", "forget", "email", "--yes"]).await;
    assert!(!refused.status.success(), "it is configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_away_for_longer_than_events_are_kept_begins_anew() {
    let (Some(server), Some(_)) = (postgres(), redis(0)) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let own = OwnRedis::start(dir.path()).await;
    let with_redis = Home::new(&Config::new(&database.url, &own.url).sse());
    let herald = with_redis.start().await;
    database.emit(TENANT, "order.created", "{}").await;
    let caught_up = async |api: &Api, seq: f64| {
        eventually("the stream has it", seconds(30), async || {
            (figure(api, "herald_stream_seq ").await == seq).then_some(())
        })
        .await;
    };
    caught_up(&herald.api, 1.0).await;
    herald.terminate().await;

    let config = Config::new(&database.url, "embedded:").table("retention", "events = \"1s\"");
    let without_redis = Home::new(&config);
    let herald = without_redis.start().await;
    for _ in 0..5 {
        database.emit(TENANT, "order.created", "{}").await;
    }
    eventually("all are deleted", seconds(30), async || {
        (figure(&herald.api, "herald_feed_oldest_seq ").await == 7.0).then_some(())
    })
    .await;
    herald.terminate().await;

    let herald = with_redis.start().await;
    // A new epoch ends the streams that were open; clients come back and go on.
    let id = database.emit(TENANT, "order.created", "{}").await;
    database.emit(TENANT, END, "{}").await;
    let seen = follow(vec![herald.api.clone()], TENANT.into());
    assert_eq!(within("the end", seconds(30), seen).await, [id]);
    caught_up(&herald.api, 8.0).await;
}
