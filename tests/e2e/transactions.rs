//! What a producer's transaction means: rolled back is never notified, held open holds up nobody.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::harness::{
    Config, Database, END, Home, Sse, emit, eventually, follow, postgres, seconds, within,
};

const TENANT: &str = "acme";

/// How long the transaction is held open.
fn held() -> Duration {
    let text = std::env::var("HERALD_TEST_HELD_SECONDS").unwrap_or_default();
    Duration::from_secs(text.parse().unwrap_or(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_rolled_back_is_never_notified() {
    let Some(server) = postgres() else { return };
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, "embedded:").sse());
    let herald = home.start().await;

    let mut committed = Vec::new();
    for number in 0..50 {
        let mut regretted = database.begin().await;
        let id = emit(&mut regretted, TENANT, "order.regretted", "{}").await;
        committed.push(
            database
                .emit(TENANT, "order.kept", &number.to_string())
                .await,
        );
        // Plain INSERTs are as good as herald.emit, also when they are taken back.
        sqlx::query(
            "WITH e AS (INSERT INTO herald.events (tenant_id, type, payload)
                        VALUES ($1, 'order.regretted', '{}') RETURNING id, event_id)
             INSERT INTO herald.outbox (aggregate_id, event_id) SELECT id, event_id FROM e",
        )
        .bind(TENANT)
        .execute(&mut *regretted)
        .await
        .expect("inserts");
        regretted.rollback().await.expect("rolls back");
        let reply = herald
            .api
            .get(&format!("/events/{id}?tenantId={TENANT}"))
            .await;
        assert_eq!(reply.status, 404, "what was rolled back is not there");
    }
    database.emit(TENANT, END, "{}").await;
    let seen = follow(vec![herald.api.clone()], TENANT.into());
    let seen = within("the end", seconds(30), seen).await;
    assert_eq!(
        seen, committed,
        "each commit came after the one before had returned"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_held_open_for_a_minute_delays_nobody_and_arrives_once() {
    let Some(server) = postgres() else { return };
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, "embedded:").sse());
    let herald = home.start().await;
    let query = format!("tenantId={TENANT}&after=0");
    let mut stream = Sse::open(&herald.api, &query, None)
        .await
        .expect("a stream");

    let mut open = database.begin().await;
    let mut own = HashSet::new();
    for _ in 0..10 {
        own.insert(emit(&mut open, TENANT, "order.held", "{}").await);
    }
    let begin = Instant::now();
    let mut pace = interval(Duration::from_millis(200));
    let mut others = 0;
    while begin.elapsed() < held() {
        pace.tick().await;
        let id = database.emit(TENANT, "order.other", "{}").await;
        let next = within("another's event, not delayed", seconds(2), stream.next()).await;
        assert_eq!(next.expect("the stream goes on").id, id);
        others += 1;
    }
    assert!(others > 0);
    open.commit().await.expect("commits");

    let late = within("the held events", seconds(5), stream.take(own.len())).await;
    let late: HashSet<_> = late.into_iter().map(|m| m.id).collect();
    assert_eq!(late, own, "each of the held events, once");

    // A client that saw the others before, and comes back now, is told of the held ones as well.
    let last = database.emit(TENANT, END, "{}").await;
    let next = within("the end", seconds(5), stream.next())
        .await
        .expect("the stream goes on");
    assert_eq!(next.id, last, "nothing comes twice");
    let feed = herald.api.feed_ids(TENANT).await;
    assert_eq!(feed.len(), others + own.len() + 1);
    eventually("the outbox is empty", seconds(5), async || {
        let sql = "SELECT count(*) FROM herald.outbox";
        let left: i64 = sqlx::query_scalar(sql)
            .fetch_one(&database.pool)
            .await
            .expect("counts");
        (left == 0).then_some(())
    })
    .await;
}
