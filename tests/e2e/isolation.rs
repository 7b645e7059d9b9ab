//! Far ends that are dead: each costs a handful of attempts, holds up nobody else, and gets
//! everything once when it works again.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::harness::{
    Api, Config, Database, END, Herald, Home, Push, Smtp, eventually, follow, postgres, python,
    redis, seconds, text, within,
};

const TENANT: &str = "acme";

/// How long a breaker stays open at first, in these stories.
const OPEN: Duration = Duration::from_millis(500);

/// How many failures open it.
const FAILURES: i64 = 5;

/// So that a story ends soon, and no delivery dies of its probes. `sink` is in capitals.
fn breaker(sink: &str) -> Vec<String> {
    [
        format!("BREAKER__FAILURES={FAILURES}"),
        format!("BREAKER__OPEN={}ms", OPEN.as_millis()),
        "BREAKER__MAX_OPEN=1s".to_owned(),
        "RETRY__MAX_ATTEMPTS=50".to_owned(),
    ]
    .map(|setting| format!("HERALD_SINKS__{sink}__{setting}"))
    .into()
}

/// How many attempts may have been spent on what is dead since `begin`: those that open the
/// breaker, those under way at that moment, and one now and then that finds out.
fn few(concurrency: i64, begin: Instant) -> i64 {
    let probes = begin.elapsed().as_millis() / OPEN.as_millis();
    FAILURES + concurrency + 1 + i64::try_from(probes).expect("a short story")
}

async fn start(home: &Home, settings: &[String]) -> Herald {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    home.start_as("herald", &settings).await
}

/// Waits until a metric of the process has this value.
async fn shows(api: &Api, metric: &str, value: f64) {
    eventually(&format!("{metric} is {value}"), seconds(20), async || {
        (api.metric(metric).await? == value).then_some(())
    })
    .await;
}

/// What came to (event, recipient), sorted, to be compared.
fn sorted(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    pairs.sort();
    pairs
}

fn mailed(smtp: &Smtp) -> Vec<(String, String)> {
    let mails = smtp.mails();
    let pairs = mails.iter().map(|m| (text(m, "eventId"), text(m, "rcpt")));
    sorted(pairs.collect())
}

/// A folder for a peer's file, below the story's.
fn folder(dir: &TempDir, name: &str) -> PathBuf {
    let folder = dir.path().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    folder
}

/// Waits until each subscription of the service has had each event, and nothing twice.
async fn pushed(push: &Push, ids: &[String]) {
    let wanted = ids.len() * push.subscriptions.len();
    eventually("everything is pushed", seconds(60), async || {
        (push.count() >= wanted).then_some(())
    })
    .await;
    let pair = |m: &Value| (text(m, "eventId"), m["subscription"].to_string());
    let got = sorted(push.messages().iter().map(pair).collect());
    let each = |id: &String| {
        let id = id.clone();
        (0..push.subscriptions.len()).map(move |phone| (id.clone(), phone.to_string()))
    };
    let expected = sorted(ids.iter().flat_map(each).collect());
    assert!(got == expected, "{} of {wanted} pushes", got.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_push_service_does_not_hold_up_another_and_gets_everything_when_it_is_back() {
    const PHONES: usize = 2;
    const EVENTS: usize = 250;
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(40), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut dead = Push::start(&python, &folder(&dir, "dead"), PHONES).await;
    let mut alive = Push::start(&python, &folder(&dir, "alive"), PHONES).await;
    let home = Home::new(&Config::new(&database.url, &redis).push());
    let herald = start(&home, &breaker("PUSH")).await;
    let api = &herald.api;
    dead.subscribe_all(api, TENANT).await;
    alive.subscribe_all(api, TENANT).await;

    dead.fail_next(usize::MAX >> 1, 503).await;
    let begin = Instant::now();
    let payloads = (0..EVENTS).map(|number| json!({"number": number}));
    let ids = database.emit_orders(TENANT, payloads).await;
    pushed(&alive, &ids).await;
    println!("the living one has everything after {:?}", begin.elapsed());

    let pending = "SELECT count(*) FROM herald.deliveries WHERE state = 'pending'";
    eventually("the dead one's wait", seconds(30), async || {
        (database.number(pending).await == (EVENTS * PHONES) as i64).then_some(())
    })
    .await;
    let spent = "SELECT sum(attempts)::bigint FROM herald.deliveries WHERE state = 'pending'";
    let (spent, few) = (database.number(spent).await, few(32, begin));
    assert!(
        spent <= few,
        "{spent} attempts at the dead one, {few} at most"
    );
    assert!(dead.refused().await as i64 <= few);
    let endpoint = text(&dead.subscriptions[0], "endpoint");
    let host = endpoint.split('/').nth(2).expect("a host");
    assert_eq!(api.sink("push").await["openDestinations"], json!([host]));
    assert_eq!(api.sink("push").await["breaker"], "closed");
    let open = r#"herald_open_destinations{sink="push"}"#;
    shows(api, open, 1.0).await;

    dead.heal().await;
    pushed(&dead, &ids).await;
    shows(api, open, 0.0).await;
    assert_eq!(alive.refused().await, 0);
    assert_eq!(
        alive.count(),
        EVENTS * PHONES,
        "nothing came again meanwhile"
    );
}

/// A port that nobody listens on, and that nobody else is given.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mail_server_is_down_events_wait_in_the_stream_and_streams_go_on() {
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(41), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let port = closed_port().await;
    let home = Home::new(&Config::new(&database.url, &redis).sse().email(port));
    let mut settings = breaker("EMAIL");
    settings.push("HERALD_SINKS__EMAIL__CONCURRENCY=4".to_owned());
    let herald = start(&home, &settings).await;
    let api = &herald.api;
    let client = tokio::spawn(follow(vec![api.clone()], TENANT.into()));

    let begin = Instant::now();
    let payloads =
        (0..300).map(|n| json!({"number": n, "email": format!("u@{}.example.test", n % 30)}));
    let ids = database.emit_orders(TENANT, payloads).await;
    database.emit(TENANT, END, "{}").await;
    let seen = within("the client sees the end", seconds(30), client).await;
    assert_eq!(seen.expect("no panic"), ids);
    let open = r#"herald_breaker_open{sink="email"}"#;
    shows(api, open, 1.0).await;
    assert_eq!(api.sink("email").await["breaker"], "open");

    // Another event on the stream shows that the process is at work while the sink waits.
    database
        .emit(TENANT, "order.created", r#"{"email": ""}"#)
        .await;
    let spent = "SELECT coalesce(sum(attempts), 0)::bigint FROM herald.deliveries";
    let (spent, few) = (database.number(spent).await, few(4, begin));
    assert!(
        (1..=few).contains(&spent),
        "{spent} attempts, {few} at most"
    );
    let lag = api.metric(r#"herald_sink_lag{sink="email"}"#).await;
    assert!(lag.is_some_and(|lag| lag >= 200.0), "{lag:?}");

    let dir = TempDir::new().expect("a temporary folder");
    let smtp = Smtp::start_at(&python, dir.path(), port).await;
    eventually("all mail is out", seconds(60), async || {
        (smtp.count() >= ids.len()).then_some(())
    })
    .await;
    shows(api, open, 0.0).await;
    shows(api, r#"herald_sink_lag{sink="email"}"#, 0.0).await;
    let numbered = ids.iter().enumerate();
    let expected = numbered.map(|(n, id)| (id.clone(), format!("u@{}.example.test", n % 30)));
    assert!(mailed(&smtp) == sorted(expected.collect()), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_domain_that_is_refused_does_not_hold_up_the_others() {
    const DEAD: &str = "user@example.dead";
    let (Some(server), Some(redis), Some(python)) = (postgres(), redis(42), python()) else {
        return;
    };
    let database = Database::create(&server).await;
    let dir = TempDir::new().expect("a temporary folder");
    let mut smtp = Smtp::start(&python, dir.path()).await;
    let home = Home::new(&Config::new(&database.url, &redis).email(smtp.port));
    let herald = start(&home, &breaker("EMAIL")).await;
    let api = &herald.api;

    smtp.fail_at(1_000_000, "@example.dead", "451 4.3.0 try later")
        .await;
    let address = |number: usize| match number % 2 {
        0 => DEAD.to_owned(),
        _ => format!("user{number}@example.test"),
    };
    let begin = Instant::now();
    let payloads = (0..400).map(|n| json!({"number": n, "email": address(n)}));
    let ids = database.emit_orders(TENANT, payloads).await;
    let expected: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| (id.clone(), address(number)))
        .collect();
    eventually("the others have their mail", seconds(30), async || {
        (smtp.count() >= 200).then_some(())
    })
    .await;
    println!("the others have everything after {:?}", begin.elapsed());
    let living = expected.iter().filter(|(_, to)| to != DEAD).cloned();
    assert!(mailed(&smtp) == sorted(living.collect()));

    let pending = "SELECT count(*) FROM herald.deliveries WHERE state = 'pending'";
    eventually("the refused ones wait", seconds(30), async || {
        (database.number(pending).await == 200).then_some(())
    })
    .await;
    let few = few(32, begin);
    let refused = smtp.refused().await as i64;
    assert!(refused <= few, "{refused} attempts, {few} at most");
    let sink = api.sink("email").await;
    assert_eq!(sink["openDestinations"], json!(["example.dead"]));
    assert_eq!(sink["breaker"], "closed");

    smtp.heal().await;
    eventually("all mail is out", seconds(60), async || {
        (smtp.count() >= expected.len()).then_some(())
    })
    .await;
    assert!(mailed(&smtp) == sorted(expected), "each once");
    shows(api, r#"herald_open_destinations{sink="email"}"#, 0.0).await;
}
