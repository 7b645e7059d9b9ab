//! Processes that hang: stopped in the middle, replaced by another, and continued in the belief
//! that nothing has happened.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{
    Config, Database, END, Home, Smtp, eventually, follow, postgres, python, redis, seconds, text,
    within,
};

const TENANT: &str = "acme";

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_hung_with_a_full_queue_leaves_alone_what_another_took_over() {
    const EVENTS: usize = 600;
    const CONCURRENCY: usize = 4;
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(45), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).email(smtp.port));
    let concurrency = format!("HERALD_SINKS__EMAIL__CONCURRENCY={CONCURRENCY}");
    let settings = [concurrency.as_str(), "HERALD_BROKER__RECLAIM_IDLE=1s"];
    let one = home.start_as("one", &settings).await;
    smtp.delay(Duration::from_millis(50)).await;
    let payload = |n: usize| json!({"number": n, "email": format!("u{n}@{n}.example.test")});
    let ids = database.emit_orders(TENANT, (0..EVENTS).map(payload)).await;
    eventually("mail flows", seconds(30), async || {
        (smtp.count() >= 40).then_some(())
    })
    .await;
    one.signal("STOP");
    let before = smtp.count();
    let two = home.start_as("two", &settings).await;
    eventually(
        "the other has begun to take over",
        seconds(30),
        async || (smtp.count() >= before + 100).then_some(()),
    )
    .await;
    assert!(smtp.count() < EVENTS, "there is much to do yet");
    one.signal("CONT");
    eventually("every mail is recorded", seconds(60), async || {
        let sql = "SELECT count(*) FROM herald.deliveries WHERE state = 'delivered'";
        (database.number(sql).await == EVENTS as i64).then_some(())
    })
    .await;
    // What is under way twice would still come.
    assert!(one.terminate().await.success());
    assert!(two.terminate().await.success());

    let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mail in smtp.mails() {
        let ids = sent.entry(text(&mail, "eventId")).or_default();
        ids.push(text(&mail, "messageId"));
    }
    assert!(
        ids.iter().all(|id| sent.contains_key(id)),
        "nothing is lost"
    );
    let twice: Vec<_> = sent.values().filter(|mails| mails.len() > 1).collect();
    println!("{} of {EVENTS} mails went out twice", twice.len());
    assert!(
        twice.len() <= CONCURRENCY,
        "{} mails went out again, but at most {CONCURRENCY} were not recorded",
        twice.len()
    );
    for mails in twice {
        assert!(mails.len() == 2 && mails[0] == mails[1], "{mails:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_hangs_another_leads_and_the_hung_one_stands_by_when_it_is_back() {
    let (Some(server), Some(redis)) = (postgres(), redis(46)) else {
        return;
    };
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse());
    let one = home.start_as("one", &[]).await;
    let two = home.start_as("two", &[]).await;
    let metric = "herald_relay_leader";
    let first_leads = eventually("one of them leads", seconds(20), async || {
        let (first, second) = (one.api.metric(metric).await?, two.api.metric(metric).await?);
        (first + second == 1.0).then_some(first == 1.0)
    })
    .await;
    let (leader, other) = if first_leads { (one, two) } else { (two, one) };
    let mut clients = JoinSet::new();
    for server in [&leader, &other, &leader, &other] {
        clients.spawn(follow(vec![server.api.clone()], TENANT.into()));
    }
    let orders = |numbers: std::ops::Range<usize>| numbers.map(|n| json!({"number": n}));
    let mut committed = database.emit_orders(TENANT, orders(0..100)).await;
    let carried = async |id: &str, what: &str| {
        eventually(what, seconds(10), async || {
            other
                .api
                .feed_ids(TENANT)
                .await
                .iter()
                .any(|i| i == id)
                .then_some(())
        })
        .await;
    };
    carried(&committed[99], "what was before").await;

    for round in 0..2 {
        // In the middle of its work.
        for number in 0..20 {
            committed.extend(
                database
                    .emit_orders(TENANT, orders(number..number + 1))
                    .await,
            );
        }
        leader.signal("STOP");
        let begin = Instant::now();
        committed.extend(database.emit_orders(TENANT, orders(0..50)).await);
        let last = committed.last().expect("some");
        carried(last, "the other leads and carries new events").await;
        println!("round {round}: another led after {:?}", begin.elapsed());
        leader.signal("CONT");
        // The one that was stopped takes part: its clients get what comes.
        committed.extend(database.emit_orders(TENANT, orders(0..50)).await);
        eventually("one leads, the other stands by", seconds(10), async || {
            let was = leader.api.metric(metric).await?;
            let is = other.api.metric(metric).await?;
            (was == 0.0 && is == 1.0).then_some(())
        })
        .await;
        if round == 0 {
            // The lead goes back the same way.
            other.signal("STOP");
            eventually("the first one leads again", seconds(10), async || {
                (leader.api.metric(metric).await? == 1.0).then_some(())
            })
            .await;
            other.signal("CONT");
        }
    }
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
}
