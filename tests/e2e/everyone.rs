//! The whole way, at once: many producers, every kind of sink, each event everywhere once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use ulid::Ulid;

use crate::harness::{
    Api, Config, Database, END, Home, Push, Smtp, emit, eventually, follow, postgres, python,
    redis, seconds, text, within,
};

const TENANT: &str = "acme";
const EVENTS: usize = 10_000;
const PRODUCERS: usize = 8;
const CLIENTS: usize = 50;
const PHONES: usize = 2;

fn address(number: usize) -> String {
    format!("user{number}@example.test")
}

fn payload(number: usize) -> Value {
    json!({"number": number, "email": address(number)})
}

/// (event id, number) of what was committed.
type Emitted = Vec<(String, usize)>;

/// Emits by HTTP, `batch` at a time, as a careful producer does: with ids of its own, so that it
/// may ask again when it is told to (503).
async fn produce_by_http(api: Api, numbers: Vec<usize>, batch: usize) -> Emitted {
    let mut emitted = Vec::new();
    let mut pause = interval(Duration::from_millis(5));
    for chunk in numbers.chunks(batch) {
        let ids: Vec<_> = chunk.iter().map(|_| Ulid::generate().to_string()).collect();
        let mut events = ids.iter().zip(chunk).map(|(id, number)| {
            json!({"tenantId": TENANT, "type": "order.created", "eventId": id,
                "payload": payload(*number)})
        });
        let body = match batch {
            1 => events.next().expect("one"),
            _ => events.collect(),
        };
        let mut reply = api.post("/events", &body).await;
        while reply.status == 503 {
            pause.tick().await;
            reply = api.post("/events", &body).await;
        }
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        emitted.extend(ids.into_iter().zip(chunk.iter().copied()));
    }
    emitted
}

/// Emits by SQL in transactions of ten, and between them rolls some back.
async fn produce_by_sql(database: Database, numbers: Vec<usize>) -> Emitted {
    let mut emitted = Vec::new();
    for (turn, chunk) in numbers.chunks(10).enumerate() {
        if turn % 5 == 0 {
            let mut tx = database.begin().await;
            for number in chunk {
                emit(
                    &mut tx,
                    TENANT,
                    "order.regretted",
                    &payload(*number).to_string(),
                )
                .await;
            }
            tx.rollback().await.expect("rolls back");
        }
        let mut tx = database.begin().await;
        for number in chunk {
            let id = emit(
                &mut tx,
                TENANT,
                "order.created",
                &payload(*number).to_string(),
            )
            .await;
            emitted.push((id, *number));
        }
        tx.commit().await.expect("commits");
    }
    emitted
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_from_eight_producers_reach_every_client_mailbox_and_phone_once() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(1), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let mut push = Push::start(&python, dir.path(), PHONES).await;
    let config = Config::new(&database.url, &redis)
        .sse()
        .email(smtp.port)
        .push();
    let home = Home::new(&config);
    let herald = home.start().await;
    push.subscribe_all(&herald.api, TENANT).await;

    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(follow(vec![herald.api.clone()], TENANT.into()));
    }

    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let numbers = (producer..EVENTS).step_by(PRODUCERS).collect();
        match producer % 4 {
            0 => producers.spawn(produce_by_http(herald.api.clone(), numbers, 1)),
            1 => producers.spawn(produce_by_http(herald.api.clone(), numbers, 100)),
            _ => producers.spawn(produce_by_sql(database.clone(), numbers)),
        };
    }
    let emitted: Emitted = within("everything is emitted", seconds(120), producers.join_all())
        .await
        .concat();
    assert_eq!(emitted.len(), EVENTS);
    println!("emitted: {:?}", begin.elapsed());

    // Streams: the end is the last event of the feed, so nothing of before can come after it.
    database.emit(TENANT, END, "{}").await;
    let seen = within(
        "every client sees the end",
        seconds(120),
        clients.join_all(),
    )
    .await;
    println!("streamed: {:?}", begin.elapsed());
    let mut feed = herald.api.feed_ids(TENANT).await;
    feed.pop().expect("the end itself");
    let ids: BTreeSet<&str> = emitted.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(
        feed.len(),
        EVENTS,
        "the feed has each event once, and none rolled back"
    );
    assert_eq!(
        feed.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        ids
    );
    for client in &seen {
        assert!(
            *client == feed,
            "a client saw another order, a gap or a double"
        );
    }

    eventually(
        "all mail and all pushes are out",
        seconds(150),
        async || (smtp.count() >= EVENTS && push.count() >= EVENTS * PHONES).then_some(()),
    )
    .await;
    println!("mailed and pushed: {:?}", begin.elapsed());
    // Whatever comes twice is on its way while any delivery is unsettled.
    eventually("nothing is unsettled", seconds(30), async || {
        let sql = "SELECT count(*) FROM herald.deliveries WHERE state <> 'delivered'";
        let unsettled: i64 = sqlx::query_scalar(sql)
            .fetch_one(&database.pool)
            .await
            .expect("counts");
        (unsettled == 0).then_some(())
    })
    .await;

    let mut mails: Vec<_> = smtp
        .mails()
        .iter()
        .map(|m| (text(m, "eventId"), text(m, "rcpt")))
        .collect();
    mails.sort();
    let mut expected: Vec<_> = emitted
        .iter()
        .map(|(id, n)| (id.clone(), address(*n)))
        .collect();
    expected.sort();
    assert!(
        mails == expected,
        "{} mails for {EVENTS} events",
        mails.len()
    );

    let mut pushes: Vec<_> = push
        .messages()
        .iter()
        .map(|m| (text(m, "eventId"), m["subscription"].as_u64()))
        .collect();
    pushes.sort();
    let mut expected: Vec<_> = ids
        .iter()
        .flat_map(|id| (0..PHONES as u64).map(|phone| ((*id).to_owned(), Some(phone))))
        .collect();
    expected.sort();
    assert!(
        pushes == expected,
        "{} pushes for {EVENTS} events",
        pushes.len()
    );
    assert_eq!(
        push.refused().await,
        0,
        "every push was signed and sealed well"
    );
}
