//! Producers at a steady pace: by HTTP, asking again until they are answered, and by SQL, with
//! transactions that commit, roll back, or stay open for seconds first.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::books::{Books, Planned};
use crate::harness::Api;

/// After this long a producer takes an answer for lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// By which PostgreSQL knows the connections of producers.
pub const APPLICATION: &str = "producer";

/// How a producer works.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Between the begins of two transactions or requests.
    pub every: Duration,
    /// Events in one.
    pub batch: usize,
    /// How many of a hundred transactions are rolled back.
    pub rolled_back: u32,
    /// How long a transaction stays open at most, in milliseconds.
    pub open: u64,
}

/// What every producer has.
#[derive(Clone)]
pub struct Producer {
    pub books: Arc<Books>,
    pub tenants: Vec<String>,
    pub habits: Habits,
    pub seed: u64,
    pub stop: CancellationToken,
}

impl Producer {
    /// Emits by HTTP until it is stopped. Each id is chosen before it is asked for, so that asking
    /// again, at another server, does no harm; what is begun is brought to its end.
    pub async fn by_http(self, servers: Vec<Api>) {
        let mut pace = self.pace();
        while let Some(events) = self.next(&mut pace).await {
            let mut body: Value = events.iter().map(request).collect();
            if events.len() == 1 {
                body = body[0].take();
            }
            let mut pause = interval(Duration::from_millis(100));
            for turn in 0.. {
                pause.tick().await;
                let server = &servers[turn % servers.len()];
                match timeout(PATIENCE, server.try_post("/events", &body)).await {
                    Ok(Ok(reply)) if matches!(reply.status, 200 | 201) => break,
                    Ok(Ok(reply)) if reply.status < 500 => panic!("{reply:?}"),
                    _ => {}
                }
            }
            self.books.commit(events);
        }
    }

    /// Emits by SQL until it is stopped. Where the answer to a COMMIT is lost, the books say so.
    pub async fn by_sql(self, url: String) {
        let url = format!("{url}?application_name={APPLICATION}");
        let mut connection = None;
        let mut pace = self.pace();
        while let Some(events) = self.next(&mut pace).await {
            let regret = pace.random.random_range(0..100) < self.habits.rolled_back;
            let open = Duration::from_millis(pace.random.random_range(0..=self.habits.open));
            if connection.is_none() {
                let connect = timeout(PATIENCE, PgConnection::connect(&url)).await;
                connection = connect.ok().and_then(Result::ok);
            }
            // Without a connection nothing is emitted, and nothing stands in the books.
            if let Some(ready) = connection.take() {
                connection = self.transact(ready, events, regret, open).await;
            }
        }
    }

    /// One transaction; the connection if it is of further use.
    async fn transact(
        &self,
        mut connection: PgConnection,
        events: Vec<Planned>,
        regret: bool,
        open: Duration,
    ) -> Option<PgConnection> {
        if !patiently(run(&mut connection, "BEGIN")).await
            || !patiently(emit(&mut connection, &events)).await
        {
            // Without a COMMIT there is no doubt: the connection ends here.
            self.books.roll_back(events);
            return None;
        }
        sleep(open).await;
        if regret {
            self.books.roll_back(events);
            return patiently(run(&mut connection, "ROLLBACK"))
                .await
                .then_some(connection);
        }
        if patiently(run(&mut connection, "COMMIT")).await {
            self.books.commit(events);
            Some(connection)
        } else {
            self.books.doubt(events);
            None
        }
    }

    fn pace(&self) -> Pace {
        let mut ticks = interval(self.habits.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let random = StdRng::seed_from_u64(self.seed);
        Pace { ticks, random }
    }

    /// The next batch, of one tenant, when it is time; `None` when it is stopped.
    async fn next(&self, pace: &mut Pace) -> Option<Vec<Planned>> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            _ = pace.ticks.tick() => {}
        }
        let tenant = &self.tenants[pace.random.random_range(0..self.tenants.len())];
        let events = (0..self.habits.batch).map(|_| self.books.plan(tenant));
        Some(events.collect())
    }
}

/// When a producer emits, and what it leaves to chance.
struct Pace {
    ticks: Interval,
    random: StdRng,
}

fn request(event: &Planned) -> Value {
    json!({"tenantId": event.tenant, "type": "order.created", "eventId": event.id,
        "payload": event.payload()})
}

async fn emit(connection: &mut PgConnection, events: &[Planned]) -> Result<(), sqlx::Error> {
    for event in events {
        sqlx::query("SELECT herald.emit($1, 'order.created', $2, event_id => $3)")
            .bind(&event.tenant)
            .bind(event.payload().to_string())
            .bind(&event.id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(drop)
}

/// Whether it succeeded, and in time.
async fn patiently(what: impl Future<Output = Result<(), sqlx::Error>>) -> bool {
    matches!(timeout(PATIENCE, what).await, Ok(Ok(())))
}
