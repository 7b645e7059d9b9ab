//! What is a cache may be lost: Redis is killed, stays away, and comes back empty.

use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{
    Config, Database, END, Home, OwnRedis, Smtp, eventually, follow, postgres, python, redis,
    seconds, text, within,
};

const TENANT: &str = "acme";

async fn emit(database: &Database, numbers: std::ops::Range<usize>) -> Vec<String> {
    let mut ids = Vec::new();
    for number in numbers {
        let payload = json!({"number": number, "email": "a@example.test"}).to_string();
        ids.push(database.emit(TENANT, "order.created", &payload).await);
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back_empty_costs_no_event_and_no_second_mail() {
    // The private Redis is not touched: that it is there says that redis-server is.
    let (Some(server), Some(_), Some(python)) = (postgres(), redis(0), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut own = OwnRedis::start(dir.path()).await;
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &own.url).sse().email(smtp.port));
    let herald = home.start().await;
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        clients.spawn(follow(vec![herald.api.clone()], TENANT.into()));
    }

    let mut committed = emit(&database, 0..200).await;
    for round in 1..4 {
        own.kill().await;
        // Producers notice nothing, and the record goes on.
        committed.extend(emit(&database, round * 200..round * 200 + 100).await);
        let event = json!({"tenantId": TENANT, "type": "order.created",
            "payload": {"number": 0, "email": "a@example.test"}});
        let answer = herald.api.post("/events", &event).await.expect(201);
        committed.push(text(&answer, "eventId"));
        own.restart().await;
        committed.extend(emit(&database, round * 200 + 100..round * 200 + 200).await);
    }
    database.emit(TENANT, END, "{}").await;

    let seen = within("every client sees the end", seconds(60), clients.join_all()).await;
    for client in seen {
        let differs = client.iter().zip(&committed).position(|(a, b)| a != b);
        assert!(
            client == committed,
            "{} of {} events, other from place {differs:?} on",
            client.len(),
            committed.len(),
        );
    }
    eventually("every mail is recorded", seconds(60), async || {
        let sql = "SELECT count(*) FROM herald.deliveries WHERE state = 'delivered'";
        let done: i64 = sqlx::query_scalar(sql)
            .fetch_one(&database.pool)
            .await
            .expect("counts");
        (done == committed.len() as i64).then_some(())
    })
    .await;
    assert!(herald.terminate().await.success());
    let mut sent: Vec<_> = smtp.mails().iter().map(|m| text(m, "eventId")).collect();
    sent.sort();
    committed.sort();
    assert!(
        sent == committed,
        "{} mails for {} events",
        sent.len(),
        committed.len()
    );
}
