//! More than one herald: refused on one SQLite file, sharing the work on PostgreSQL.

use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{
    Config, Database, END, Home, Smtp, emit, eventually, follow, postgres, python, redis, seconds,
    text, within,
};

const TENANT: &str = "acme";

#[tokio::test(flavor = "multi_thread")]
async fn a_second_herald_on_the_same_sqlite_file_stops_with_a_clear_error() {
    let home = Home::new(&Config::embedded().sse());
    let mut herald = home.start().await;
    let second = home.run(&["run"]).await;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("herald.db"), "names the file: {said}");
    assert!(said.contains("another"), "says that another has it: {said}");
    assert!(!said.contains("panicked"), "{said}");

    assert!(herald.is_running());
    let event = json!({"tenantId": TENANT, "type": "order.created", "payload": {}});
    herald.api.post("/events", &event).await.expect(201);
    herald.kill().await;
    // The lock dies with its holder.
    let herald = home.start().await;
    herald.api.post("/events", &event).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_the_other_goes_on_within_seconds_and_nothing_is_lost() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(4), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse().email(smtp.port));
    let one = home.start_as("one", &[]).await;
    let two = home.start_as("two", &[]).await;
    let first_leads = eventually("one of them leads", seconds(20), async || {
        let first = one.api.metric("herald_relay_leader").await?;
        let second = two.api.metric("herald_relay_leader").await?;
        (first + second == 1.0).then_some(first == 1.0)
    })
    .await;
    let (leader, other) = if first_leads { (one, two) } else { (two, one) };

    // Streams on both, which come back to whichever is alive.
    let (api, survivor) = (leader.api.clone(), other.api.clone());
    let mut clients = JoinSet::new();
    for turn in 0..6 {
        let mut servers = vec![api.clone(), survivor.clone()];
        servers.rotate_left(turn % 2);
        clients.spawn(follow(servers, TENANT.into()));
    }
    let mut committed = Vec::new();
    for number in 0..400 {
        let payload = json!({"number": number, "email": format!("user{number}@example.test")});
        committed.push(
            database
                .emit(TENANT, "order.created", &payload.to_string())
                .await,
        );
    }
    leader.kill().await;
    let payload = json!({"number": 400, "email": "user400@example.test"}).to_string();
    let next = database.emit(TENANT, "order.created", &payload).await;
    eventually(
        "the other leads and carries new events",
        seconds(10),
        async || {
            survivor
                .feed_ids(TENANT)
                .await
                .contains(&next)
                .then_some(())
        },
    )
    .await;
    committed.push(next);
    database.emit(TENANT, END, "{}").await;

    let seen = within("all clients see the end", seconds(60), clients.join_all()).await;
    for client in seen {
        assert!(
            client == committed,
            "{} of {} events",
            client.len(),
            committed.len()
        );
    }
    // What the dead one had taken and not recorded is taken over. It may have been sent already:
    // then it is sent once more, with the same Message-ID, and never more often than that.
    eventually("all mail is out", seconds(90), async || {
        let sql =
            "SELECT count(*) FROM herald.deliveries WHERE sink = 'email' AND state = 'delivered'";
        let done: i64 = sqlx::query_scalar(sql)
            .fetch_one(&database.pool)
            .await
            .expect("counts");
        (done == committed.len() as i64).then_some(())
    })
    .await;
    let mails = smtp.mails();
    for id in &committed {
        let mut own: Vec<_> = mails.iter().filter(|m| text(m, "eventId") == *id).collect();
        assert!(matches!(own.len(), 1 | 2), "{id}: {} mails", own.len());
        own.dedup_by_key(|m| text(m, "messageId"));
        assert_eq!(own.len(), 1, "a repeated mail has the same Message-ID");
    }
    assert!(other.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_heralds_share_a_slow_sink_and_no_mail_goes_out_twice() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(5), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse().email(smtp.port));
    // One mail at a time, so that entries wait far longer than it takes to give a reader up.
    let slow = [
        "HERALD_SINKS__EMAIL__CONCURRENCY=1",
        "HERALD_BROKER__RECLAIM_IDLE=300ms",
    ];
    let one = home.start_as("one", &slow).await;
    let two = home.start_as("two", &slow).await;
    let mut expected = Vec::new();
    let mut tx = database.begin().await;
    for number in 0..2_000 {
        let payload = json!({"number": number, "email": "a@example.test"}).to_string();
        expected.push(emit(&mut tx, TENANT, "order.created", &payload).await);
    }
    tx.commit().await.expect("commits");
    eventually("every mail is recorded", seconds(120), async || {
        let sql = "SELECT count(*) FROM herald.deliveries WHERE state = 'delivered'";
        let done: i64 = sqlx::query_scalar(sql)
            .fetch_one(&database.pool)
            .await
            .expect("counts");
        (done == expected.len() as i64).then_some(())
    })
    .await;
    // What is under way twice would still come.
    assert!(one.terminate().await.success());
    assert!(two.terminate().await.success());
    let mut sent: Vec<_> = smtp.mails().iter().map(|m| text(m, "eventId")).collect();
    sent.sort();
    expected.sort();
    assert!(
        sent == expected,
        "{} mails for {} events",
        sent.len(),
        expected.len()
    );
}
