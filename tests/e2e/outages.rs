//! Far ends that are away for long: what waits for them arrives once when they are back, and does
//! not fill Redis in the meantime. `benches/outage` tells the same with large numbers.

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    Config, Database, Home, OwnRedis, Smtp, eventually, postgres, python, redis, seconds, text,
};

const TENANT: &str = "acme";

/// What a story needs; `None` where a part is missing.
struct Parts {
    database: Database,
    redis: OwnRedis,
    smtp: Smtp,
    _dir: TempDir,
}

impl Parts {
    async fn start() -> Option<Self> {
        // The private Redis is not touched: that it is there says that redis-server is.
        let (server, _, python) = (postgres()?, redis(0)?, python()?);
        let dir = TempDir::new().expect("a temporary folder");
        Some(Self {
            database: Database::create(&server).await,
            redis: OwnRedis::start(dir.path()).await,
            smtp: Smtp::start(&python, dir.path()).await,
            _dir: dir,
        })
    }

    fn home(&self) -> Home {
        Home::new(&Config::new(&self.database.url, &self.redis.url).email(self.smtp.port))
    }

    /// Emits mail to the recipients 1 to `count`, in one transaction.
    async fn emit(&self, count: i32, domains: i32) {
        sqlx::query(
            "SELECT count(herald.emit($1, 'order.created', json_build_object(
                 'number', n, 'email', n || '@d' || n % $3 || '.test')))
             FROM generate_series(1, $2) AS n",
        )
        .bind(TENANT)
        .bind(count)
        .bind(domains)
        .execute(&self.database.pool)
        .await
        .expect("emits");
    }

    /// Deliveries in this state.
    async fn deliveries(&self, state: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM herald.deliveries WHERE state = $1")
            .bind(state)
            .fetch_one(&self.database.pool)
            .await
            .expect("counts")
    }

    /// The numbers of the recipients, in the order of the mails.
    fn received(&self) -> Vec<i32> {
        let mails = self.smtp.mails();
        let number = |mail| {
            let address = text(mail, "rcpt");
            let (local, _) = address.split_once('@').expect("an address");
            local.parse().expect("a number")
        };
        mails.iter().map(number).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_that_a_server_defers_wait_in_the_ledger_and_arrive_once_when_it_recovers() {
    const COUNT: i32 = 300;
    let Some(mut parts) = Parts::start().await else {
        return;
    };
    parts.smtp.fail("451 4.3.0 try later").await;
    let home = parts.home();
    let breaker = "HERALD_SINKS__EMAIL__BREAKER__OPEN=500ms";
    let _herald = home.start_as("herald", &[breaker]).await;
    parts.emit(COUNT, 3).await;
    eventually("all wait in the ledger", seconds(60), async || {
        (parts.deliveries("pending").await == i64::from(COUNT)).then_some(())
    })
    .await;
    assert!(parts.received().is_empty());

    parts.smtp.heal().await;
    eventually("all are delivered", seconds(60), async || {
        (parts.deliveries("delivered").await == i64::from(COUNT)).then_some(())
    })
    .await;
    let mut received = parts.received();
    received.sort_unstable();
    assert!(received.iter().copied().eq(1..=COUNT), "{received:?}");
}

/// A sink that is held back while more passes than the stream may hold. One that `began` has its
/// group in Redis, and a checkpoint; another has neither.
async fn falls_behind(began: bool) {
    const COUNT: i32 = 5_000;
    const CEILING: u64 = 1_000;
    let Some(parts) = Parts::start().await else {
        return;
    };
    let home = parts.home();
    home.succeed(&["migrate"]).await;
    if !began {
        let paused = "INSERT INTO herald.checkpoints (sink, seq, paused) VALUES ('email', 0, true)";
        let done = sqlx::query(paused).execute(&parts.database.pool).await;
        done.expect("a checkpoint");
    }
    let settings = [
        "HERALD_BROKER__MAX_LEN=1000",
        "HERALD_RELAY__TRIM_EVERY=100ms",
        "HERALD_SINKS__EMAIL__CONCURRENCY=1",
    ];
    let herald = home.start_as("herald", &settings).await;
    if began {
        let payload = r#"{"number": 0, "email": "0@d.test"}"#;
        parts.database.emit(TENANT, "order.created", payload).await;
        eventually("it has begun", seconds(30), async || {
            (parts.deliveries("delivered").await == 1).then_some(())
        })
        .await;
        herald
            .api
            .post("/sinks/email/pause", &json!({}))
            .await
            .expect(200);
    }
    parts.emit(COUNT, 100).await;
    let total = i64::from(COUNT) + i64::from(began);
    let client = ::redis::Client::open(parts.redis.url.as_str()).expect("a URL");
    let mut redis = client
        .get_multiplexed_async_connection()
        .await
        .expect("Redis answers");
    eventually("the stream is trimmed", seconds(60), async || {
        let mut keys = ::redis::cmd("KEYS");
        let streams: Vec<String> = keys
            .arg("herald:*:stream")
            .query_async(&mut redis)
            .await
            .expect("Redis answers");
        let stream = streams.first()?;
        let length: u64 = ::redis::cmd("XLEN")
            .arg(stream)
            .query_async(&mut redis)
            .await
            .expect("Redis answers");
        let last: Vec<(String, Vec<String>)> = ::redis::cmd("XREVRANGE")
            .arg(stream)
            .arg(&["+", "-", "COUNT", "1"])
            .query_async(&mut redis)
            .await
            .expect("Redis answers");
        (length <= CEILING && last.first()?.0 == format!("{total}-0")).then_some(())
    })
    .await;

    let resumed = herald.api.post("/sinks/email/resume", &json!({})).await;
    resumed.expect(200);
    eventually("all are delivered", seconds(180), async || {
        (parts.deliveries("delivered").await == total).then_some(())
    })
    .await;
    let received = parts.received();
    let wrong = received
        .iter()
        .zip(i32::from(!began)..)
        .find(|(a, b)| *a != b);
    assert!(
        received.len() as i64 == total && wrong.is_none(),
        "{} of {total}, in order but for {wrong:?}",
        received.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_held_back_for_longer_than_redis_remembers_gets_all_in_order() {
    falls_behind(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_has_not_begun_keeps_nothing_in_redis_and_gets_all_in_order() {
    falls_behind(false).await;
}
