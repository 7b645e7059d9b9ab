//! Several servers behind nginx, with the sample that teams copy: a rolling restart is something no
//! client notices but by a new connection.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::harness::{
    Api, Config, Database, END, Herald, Home, Sse, eventually, postgres, redis, seconds, text,
    within,
};
use crate::nginx::{Nginx, program};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const CLIENTS: usize = 30;
const ONLY: [&str; 2] = ["--only", "http"];
/// The longest that a client waits before it comes back.
const PATIENCE: Duration = Duration::from_millis(200);
/// The name that the sample gives to the clients.
const NAME: &str = "events.example.com";

/// A port that nobody is given by chance while its server is away: those begin at 32768.
fn port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::random_range(20_000..32_000));
    ports.find(free).expect("there is one")
}

async fn serve(home: &Home, port: u16, more: &[&str]) -> Herald {
    let listen = format!("HERALD_HTTP__LISTEN=127.0.0.1:{port}");
    let args = [&[listen.as_str()], more].concat();
    home.start_as(&format!("http-{port}"), &args).await
}

/// Emits through nginx at a steady pace, with ids of its own, so that it may ask again.
async fn produce_by_http(api: Api, tenant: &str, stop: CancellationToken) -> Vec<String> {
    let mut emitted = Vec::new();
    let mut pace = interval(Duration::from_millis(20));
    while !stop.is_cancelled() {
        let id = Ulid::generate().to_string();
        let body = json!({"tenantId": tenant, "type": "order.created", "eventId": id,
            "payload": {"number": emitted.len()}});
        loop {
            pace.tick().await;
            match api.try_post("/events", &body).await {
                Ok(reply) if matches!(reply.status, 200 | 201) => break,
                // Its server went away in the middle.
                Ok(reply) => assert!(reply.status >= 500, "{reply:?}"),
                Err(_) => {}
            }
        }
        emitted.push(id);
    }
    emitted
}

async fn produce_by_sql(database: Database, tenant: &str, stop: CancellationToken) -> Vec<String> {
    let mut emitted = Vec::new();
    let mut pace = interval(Duration::from_millis(20));
    while !stop.is_cancelled() {
        pace.tick().await;
        emitted.push(database.emit(tenant, "order.created", "{}").await);
    }
    emitted
}

/// Follows a tenant as a browser does, which comes back when its stream ends but gives up for good
/// when it is answered anything but one. It only is less patient: told to wait for seconds, it does
/// not, and meets servers that are not ready yet. Returns what it has seen before the last event,
/// and over how many connections.
async fn watch(api: Api, tenant: &str) -> (Vec<String>, usize) {
    let query = format!("tenantId={tenant}&after=0");
    let (mut seen, mut last) = (Vec::new(), None::<String>);
    let mut wait = Duration::ZERO;
    for opened in 1.. {
        sleep(wait).await;
        let mut stream = Sse::open(&api, &query, last.as_deref())
            .await
            .expect("there is always a stream");
        while let Some(message) = stream.next().await {
            assert_eq!(message.name, "message", "{}", message.data);
            if message.ends() {
                return (seen, opened);
            }
            assert_eq!(message.id, text(&message.json(), "eventId"));
            seen.push(message.id);
        }
        wait = Duration::from_millis(stream.retry.unwrap_or_default()).min(PATIENCE);
        last = (!stream.last_id.is_empty()).then_some(stream.last_id);
    }
    unreachable!("the connections do not end")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rolling_restarts_behind_nginx_cost_no_client_an_event() {
    let (Some(program), Some(server), Some(redis)) = (program(), postgres(), redis(50)) else {
        return;
    };
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse());
    let ports = [port(), port(), port()];
    let mut heralds = Vec::new();
    for port in ports {
        heralds.push(serve(&home, port, &ONLY).await);
    }
    let _relay = home.spawn("relay", &["--only", "relay,sinks"]);
    let nginx = Nginx::start(&program, port(), ports).await;

    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (api, tenant) = (nginx.api.clone(), TENANTS[number % TENANTS.len()]);
        clients.spawn(async move { (tenant, watch(api, tenant).await) });
    }
    let stop = CancellationToken::new();
    let mut producers = JoinSet::new();
    for tenant in TENANTS {
        let (api, database) = (nginx.api.clone(), database.clone());
        let (one, two) = (stop.clone(), stop.clone());
        producers.spawn(async move { (tenant, produce_by_http(api, tenant, one).await) });
        producers.spawn(async move { (tenant, produce_by_sql(database, tenant, two).await) });
    }

    nginx.reload();
    for round in 0..2 {
        for port in ports {
            flows(&nginx.api, &heralds, round).await;
            let old = heralds.remove(0);
            assert!(old.terminate().await.success(), "it drained");
            heralds.push(serve(&home, port, &ONLY).await);
        }
    }
    stop.cancel();
    let emitted = within("producers end", seconds(60), producers.join_all()).await;
    for tenant in TENANTS {
        database.emit(tenant, END, "{}").await;
    }
    let clients = within("clients see the end", seconds(60), clients.join_all()).await;

    for tenant in TENANTS {
        let own = emitted.iter().filter(|(of, _)| *of == tenant);
        let mut own: Vec<_> = own.flat_map(|(_, ids)| ids.clone()).collect();
        let mut feed = nginx.api.feed_ids(tenant).await;
        feed.pop().expect("the end itself");
        let own_clients = clients.iter().filter(|(of, _)| *of == tenant);
        for (client, (_, (seen, opened))) in own_clients.enumerate() {
            let differs = seen.iter().zip(&feed).position(|(a, b)| a != b);
            assert!(
                *seen == feed,
                "client {client} of {tenant}, in {opened} connections: {} of {} events, other from \
                 place {differs:?} on",
                seen.len(),
                feed.len(),
            );
            assert!(*opened > 1, "every server was restarted");
        }
        own.sort();
        feed.sort();
        assert!(own == feed, "{} fed of {}", feed.len(), own.len());
    }
}

/// Waits until the servers that run have all clients, and new events come to them.
async fn flows(nginx: &Api, heralds: &[Herald], round: usize) {
    eventually("all clients are back", seconds(60), async || {
        let mut connected = 0.0;
        for herald in heralds {
            let metric = r#"herald_stream_clients{sink="sse"}"#;
            connected += herald.api.metric(metric).await.unwrap_or(0.0);
        }
        (connected >= CLIENTS as f64).then_some(())
    })
    .await;
    let query = format!("tenantId={}", TENANTS[round]);
    let mut stream = Sse::open(nginx, &query, None).await.expect("a stream");
    within("new events", seconds(60), stream.take(10)).await;
}

/// One herald, of three that nginx knows, and its port.
async fn one_of_three(program: &str) -> (Home, Herald, u16, Nginx) {
    let config = Config::embedded().sse();
    let known = format!("[http]\nhosts = [{NAME:?}]\n");
    let home = Home::with(&config.as_str().replace("[http]\n", &known));
    let own = port();
    let herald = serve(&home, own, &[]).await;
    let nginx = Nginx::start(program, port(), [port(), own, port()]).await;
    (home, herald, own, nginx)
}

fn event(number: usize) -> Value {
    json!({"tenantId": "acme", "type": "order.created", "payload": {"number": number}})
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_through_nginx_one_by_one_at_once_though_two_of_three_servers_are_away() {
    let Some(program) = program() else { return };
    let (_home, _herald, _, nginx) = one_of_three(&program).await;
    let mut stream = Sse::open(&nginx.api, "tenantId=acme", None)
        .await
        .expect("a stream");
    assert!(stream.greeting().await);
    // Were they kept back, each would wait for the next heartbeat, or for some kilobytes more.
    for number in 0..20 {
        let id = text(
            &nginx.api.post("/events", &event(number)).await.expect(201),
            "eventId",
        );
        let message = within("the event", seconds(3), stream.next()).await;
        assert_eq!(message.expect("the stream goes on").id, id);
    }
    // herald is asked by the name that the client used.
    for (host, status) in [(NAME, 200), ("elsewhere.example", 421)] {
        let reply = nginx
            .api
            .request("GET", "/events?tenantId=acme", &[("host", host)], "")
            .await;
        assert_eq!(reply.expect("an answer").status, status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_server_left_nginx_tells_a_browser_to_come_back_instead_of_to_give_up() {
    let Some(program) = program() else { return };
    let (home, herald, port, nginx) = one_of_three(&program).await;
    let watching = tokio::spawn({
        let api = nginx.api.clone();
        async move { watch(api, "acme").await }
    });
    let before = text(
        &nginx.api.post("/events", &event(1)).await.expect(201),
        "eventId",
    );
    assert!(herald.terminate().await.success());

    let mut stream = Sse::open(&nginx.api, "tenantId=acme", None)
        .await
        .expect("a stream");
    assert_eq!(stream.next().await, None, "it ends");
    assert!(matches!(stream.retry, Some(1_000..=4_000)), "{stream:?}");
    let reply = nginx.api.get("/events?tenantId=acme").await;
    assert_eq!(reply.status, 502, "whoever is no stream is told the truth");

    let herald = serve(&home, port, &[]).await;
    let end = json!({"tenantId": "acme", "type": END, "payload": {}});
    herald.api.post("/events", &end).await.expect(201);
    let (seen, _) = within("the client sees the end", seconds(30), watching)
        .await
        .expect("it is well");
    assert_eq!(seen, [before]);
}
