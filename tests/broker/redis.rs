//! Redis before the suite. Every test has an epoch of its own, so none sees another's keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use herald::broker::{Broker, Redis, RedisOptions};
use herald::store::Sqlite;
use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, cmd};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::bench::{Bench, PATIENCE, Process, Server};

exercise_broker!(
    crate::redis::on_redis,
    keeps,
    shared,
    remote,
    survives,
    tells_dead_letters
);

struct OnServer {
    url: String,
    /// What the names of its epochs begin with.
    name: String,
    epoch: AtomicU32,
    feed: Arc<Sqlite>,
    direct: MultiplexedConnection,
    proxy: Proxy,
}

impl OnServer {
    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut direct = self.direct.clone();
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut direct).await.expect("answers")
    }

    fn key(&self, name: &str) -> String {
        format!("herald:{{{}}}:{name}", self.epoch())
    }

    fn epoch(&self) -> String {
        format!("{}-{}", self.name, self.epoch.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Server for OnServer {
    fn broker(&self, process: Process<'_>) -> Arc<dyn Broker> {
        let url = if process.far {
            &self.proxy.url
        } else {
            &self.url
        };
        let options = RedisOptions {
            url: url.clone(),
            max_len: process.ceiling,
            reclaim_idle: self.idle(),
            timeout: Duration::from_secs(2),
            consumer: process.name.to_owned(),
        };
        Arc::new(Redis::new(options, self.feed.clone(), &self.epoch()).expect("a good URL"))
    }

    /// As FLUSHALL would, for this test alone.
    async fn lose(&self) {
        let keys: Vec<String> = self.ask(&["KEYS", &self.key("*")]).await;
        // One command: what is lost is lost at once.
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.ask::<i64>(&[&["DEL", "none"], &*keys].concat()).await;
    }

    fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(400)
    }

    fn cut(&self, away: bool) {
        self.proxy.up.send_replace(!away);
    }

    async fn told(&self) -> Vec<[String; 3]> {
        let entries: Vec<(String, Vec<String>)> =
            self.ask(&["XRANGE", &self.key("dead"), "-", "+"]).await;
        let field = |fields: &[String], name: &str| {
            let place = fields.chunks(2).find(|pair| pair[0] == name);
            place.expect("named")[1].clone()
        };
        entries
            .iter()
            .map(|(_, fields)| ["sink", "recipient", "cause"].map(|name| field(fields, name)))
            .collect()
    }
}

/// A test with a server, or a notice that there is none.
pub async fn on_redis<T: Future<Output = ()>>(test: impl FnOnce(Arc<Bench>) -> T) {
    let Ok(url) = std::env::var("HERALD_TEST_REDIS_URL") else {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !ci,
            "HERALD_TEST_REDIS_URL is not set, and CI skips nothing"
        );
        eprintln!("skipped: HERALD_TEST_REDIS_URL is not set");
        return;
    };
    let client = Client::open(url.as_str()).expect("a Redis URL");
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let direct = client.get_multiplexed_async_connection_with_config(&config);
    let direct = direct.await.expect("Redis answers");
    let proxy = Proxy::new(client.get_connection_info().addr().to_string()).await;
    let server = |feed| OnServer {
        url,
        name: format!("test-{:032x}", rand::random::<u128>()),
        epoch: AtomicU32::new(1),
        feed,
        direct,
        proxy,
    };
    test(Bench::new(server).await).await;
}

/// Passes bytes on to the server, until it is told not to.
struct Proxy {
    url: String,
    up: watch::Sender<bool>,
}

impl Proxy {
    async fn new(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let (up, mut state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if !*state.borrow_and_update() {
                    continue;
                }
                let (server, mut state) = (server.clone(), state.clone());
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.expect("connects");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Self {
            url: format!("redis://127.0.0.1:{port}"),
            up,
        }
    }
}
