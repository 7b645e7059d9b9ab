//! The database is put back to an older state while herald, Redis and clients go on: what the backup
//! holds and what is emitted from then on is delivered, and nothing stands in its way.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::harness::{
    Config, Database, END, Home, Smtp, Sse, eventually, follow, postgres, python, redis, seconds,
    text, within,
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

/// Runs SQL about databases, outside of them.
async fn admin(server: &str, sql: &[String]) {
    let mut admin = PgConnection::connect(server).await.expect("connects");
    for sql in sql {
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut admin)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

/// Ends every connection to a database and lets nobody in, as its replacement begins.
fn lock_out(name: &str) -> [String; 2] {
    [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_put_back_to_a_backup_goes_on_from_what_the_backup_holds() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(31), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let name = database.url.rsplit('/').next().expect("a name").to_owned();
    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse().email(smtp.port));
    let one = home.start_as("one", &[]).await;
    let two = home.start_as("two", &[]).await;

    let kept = emit(&database, 0..50).await;
    eventually("the first mails are out", seconds(30), async || {
        (smtp.count() >= kept.len()).then_some(())
    })
    .await;
    // A backup is a copy at rest. Some events wait in it, of which the stream will know more than
    // it: in the history that is about to be lost they are sequenced and delivered.
    one.terminate().await;
    two.terminate().await;
    let waiting = emit(&database, 50..60).await;
    database.pool.close().await;
    let backup = format!("{name}_backup");
    let [forbid, end] = lock_out(&name);
    let copy = format!("CREATE DATABASE {backup} TEMPLATE {name}");
    let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    admin(&server, &[forbid, end, copy, allow]).await;

    let database = database.again().await;
    let one = home.start_as("one", &[]).await;
    let two = home.start_as("two", &[]).await;
    let lost = emit(&database, 60..100).await;
    eventually("what will be lost is delivered", seconds(30), async || {
        (smtp.count() >= 100).then_some(())
    })
    .await;
    let query = format!("tenantId={TENANT}&after=0");
    let mut stream = Sse::open(&two.api, &query, None).await.expect("a stream");
    within("all so far", seconds(20), stream.take(100)).await;

    // Put back while everybody runs. More is emitted at once than was lost, so that the feed is
    // longer than the stream before anybody can compare their lengths.
    database.pool.close().await;
    let [forbid, end] = lock_out(&name);
    let aside = format!("ALTER DATABASE {name} RENAME TO {name}_lost");
    let back = format!("ALTER DATABASE {backup} RENAME TO {name}");
    admin(&server, &[forbid, end, aside]).await;
    let restored = {
        let (base, _) = database.url.rsplit_once('/').expect("a URL");
        Database::at(&format!("{base}/{backup}")).await
    };
    let new = {
        let mut tx = restored.begin().await;
        let mut ids = Vec::new();
        for number in 100..250 {
            let payload = json!({"number": number, "email": "a@example.test"}).to_string();
            ids.push(crate::harness::emit(&mut tx, TENANT, "order.created", &payload).await);
        }
        tx.commit().await.expect("commits");
        ids
    };
    restored.pool.close().await;
    admin(&server, &[back]).await;
    let database = database.again().await;
    let late = emit(&database, 250..260).await;
    database.emit(TENANT, END, "{}").await;

    let expected = [kept, waiting, new, late].concat();
    for herald in [&one, &two] {
        let seen = follow(vec![herald.api.clone()], TENANT.into());
        let seen = within("the whole restored stream", seconds(60), seen).await;
        assert!(
            seen == expected,
            "{} of {} events",
            seen.len(),
            expected.len()
        );
    }
    eventually("every mail is recorded", seconds(60), async || {
        let sql = "SELECT count(*) FROM herald.deliveries WHERE state = 'delivered'";
        let done: i64 = sqlx::query_scalar(sql)
            .fetch_one(&database.pool)
            .await
            .expect("counts");
        (done >= expected.len() as i64).then_some(())
    })
    .await;
    let mails = smtp.mails();
    for id in &expected {
        let own = mails.iter().filter(|m| text(m, "eventId") == *id).count();
        assert!(own >= 1, "{id} was never mailed");
    }
    for id in &lost {
        let reply = one
            .api
            .get(&format!("/events/{id}?tenantId={TENANT}"))
            .await;
        assert_eq!(reply.status, 404, "what the backup has not is gone");
    }
    let count = |ids: &[String]| {
        mails
            .iter()
            .filter(|m| ids.contains(&text(m, "eventId")))
            .count()
    };
    assert_eq!(count(&lost), lost.len(), "and was mailed once, before");
    assert!(one.terminate().await.success() && two.terminate().await.success());
}
