//! The same story with herald as it comes: one process, one SQLite file, no other server, and
//! `kill -9` above all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::arrivals::{mail, recipients};
use crate::books::Books;
use crate::checker::{Evidence, judge};
use crate::clients::watch;
use crate::far::{Far, Window};
use crate::harness::{Api, Config, END, Smtp, eventually, python, seconds, seed, within};
use crate::member::{Blow, CONCURRENCY, Member};
use crate::producers::{Habits, Producer};
use crate::proxy::{Proxy, Target};
use crate::schedule::now;
use crate::{duration, report, say};

const TENANTS: [&str; 2] = ["acme", "globex"];
const CLIENTS: usize = 3;
const PRODUCERS: u64 = 4;
const REST: Duration = seconds(120);

#[tokio::test(flavor = "multi_thread")]
async fn one_process_that_is_killed_again_and_again_loses_nothing_either() {
    let Some(python) = python() else { return };
    let seed = seed();
    say(&format!("embedded: HERALD_TEST_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let target = Target::default();
    let config = Config::embedded().sse().email(smtp.port);
    let data = dir.path().join("data");
    let mut herald = Member::start("herald", None, &config, &data, Some(target.clone()));
    herald.listen().await;
    let proxy = Proxy::start(&target).await;
    let api = Api::new(proxy.base());

    let mut clients = JoinSet::new();
    for tenant in TENANTS.iter().cycle().take(TENANTS.len() * CLIENTS) {
        clients.spawn(watch(vec![Api::new(proxy.base())], (*tenant).into()));
    }
    let (books, stop) = (Arc::new(Books::default()), CancellationToken::new());
    let producers = produce(&proxy, &books, &stop, random.random());
    let windows = break_it(&mut herald, &proxy, &mut smtp, &mut random).await;
    let [blows, starts] = [windows.len(), herald.said("is listening on")];

    stop.cancel();
    within("the producers end", seconds(60), producers.join_all()).await;
    eventually("the outbox is empty", REST, async || {
        let state = api.get("/sinks").await.expect(200);
        (state["feed"]["pending"] == 0).then_some(())
    })
    .await;
    for tenant in TENANTS {
        let end = json!({"tenantId": tenant, "type": END, "payload": {}});
        api.post("/events", &end).await.expect(201);
    }
    let watched = within("every client sees the end", REST, clients.join_all()).await;
    eventually("all is settled", REST, async || {
        settled(&api.get("/sinks").await.expect(200)).then_some(())
    })
    .await;

    let mut feed = BTreeMap::new();
    for tenant in TENANTS {
        let mut ids = api.feed_ids(tenant).await;
        ids.pop().expect("the end itself");
        feed.insert(tenant.to_owned(), ids);
    }
    herald.terminate().await;
    let reconnects = watched.iter().map(|w| w.reconnects).sum::<usize>();
    let committed = books.committed();
    say(&format!(
        "embedded: {blows} blows, {starts} starts, {} events",
        committed.len()
    ));
    say(&format!(
        "embedded: {} SSE clients, {reconnects} reconnects",
        watched.len()
    ));
    let email = Far {
        recipients: recipients(&committed, |event| [event.address()].into()),
        arrivals: smtp.mails().iter().map(mail).collect(),
        windows,
        in_flight: CONCURRENCY,
        at_once: 1,
    };
    let verdict = judge(&Evidence {
        committed,
        feed,
        streams: watched.into_iter().map(|w| w.stream).collect(),
        email,
        ..Evidence::default()
    });
    report("embedded", &verdict);
}

fn produce(proxy: &Proxy, books: &Arc<Books>, stop: &CancellationToken, seed: u64) -> JoinSet<()> {
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        let batch = if number == 0 { 10 } else { 1 };
        let habits = Habits {
            every: Duration::from_millis(50 * batch),
            batch: batch as usize,
            rolled_back: 0,
            open: 0,
        };
        let producer = Producer {
            books: books.clone(),
            tenants: TENANTS.map(str::to_owned).into(),
            habits,
            seed: seed.wrapping_add(number),
            stop: stop.clone(),
        };
        producers.spawn(producer.by_http(vec![Api::new(proxy.base())]));
    }
    producers
}

/// Kills it, mostly, and returns when that may have kept a mail from being recorded.
async fn break_it(
    herald: &mut Member,
    proxy: &Proxy,
    smtp: &mut Smtp,
    random: &mut StdRng,
) -> Vec<Window> {
    let end = Instant::now() + duration(4);
    let mut windows = Vec::new();
    while Instant::now() < end {
        sleep(Duration::from_millis(random.random_range(100..2_000))).await;
        let lasts = Duration::from_millis(random.random_range(0..1_500));
        let from = now();
        let what = random.random_range(0..10);
        match what {
            0 => proxy.cut(),
            1 => {
                smtp.fail("451 4.3.0 try again later").await;
                sleep(lasts).await;
                smtp.heal().await;
            }
            2 => herald.suffer(Blow::Stop, lasts).await,
            3 => herald.suffer(Blow::Restart, lasts).await,
            _ => herald.suffer(Blow::Kill, lasts).await,
        }
        windows.push(Window {
            what: ["cut", "refused", "SIGSTOP", "SIGTERM", "kill -9"][what.min(4)].into(),
            from,
            // Once it is killed nothing more is caught.
            to: if what > 3 { from } else { now() },
        });
    }
    herald.assert_running();
    windows
}

/// Whether `GET /sinks` says that nothing is to be done any more.
fn settled(state: &Value) -> bool {
    let sinks = state["sinks"].as_array().expect("a list");
    let email = sinks.iter().find(|sink| sink["name"] == "email");
    let email = email.expect("the email sink");
    let none = |field: &str| email[field] == 0;
    none("lag") && none("retrying") && none("dead") && none("inFlight")
}
