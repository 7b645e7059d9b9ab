//! The cluster under test: PostgreSQL, Redis, two relays, two runners, two HTTP servers, a mail
//! server, a push service, and a proxy on every link between any two of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::PgConnection;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::harness::{Api, Config, Push, Smtp, eventually, seconds};
use crate::member::Member;
use crate::postgres::Postgres;
use crate::proxy::{Proxy, Target, Weather};
use crate::redis::Redis;

pub const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Browsers that have subscribed to Web Push, the first one for the first tenant and so on.
pub const PHONES: usize = TENANTS.len();

/// The way from one party to another.
pub struct Link {
    pub name: String,
    pub proxy: Proxy,
    /// Whether it lies between a far end's acceptance of a mail and its record.
    pub email: bool,
    /// The same of pushes.
    pub push: bool,
    /// Held while it is broken.
    pub busy: Mutex<()>,
}

/// Everything, each behind a lock that is held while it is broken.
pub struct Cluster {
    pub members: Vec<Mutex<Member>>,
    pub links: Vec<Link>,
    pub postgres: Mutex<Postgres>,
    pub redis: Mutex<Redis>,
    pub smtp: Mutex<Smtp>,
    pub push: Mutex<Push>,
    /// Last, for the servers' folders are in it.
    _dir: TempDir,
}

impl Cluster {
    pub async fn start(bin: &Path, python: &str) -> Self {
        let dir = TempDir::with_prefix("herald-chaos-").expect("a temporary folder");
        // PostgreSQL's own user must get through to its folder.
        let passable = fs::Permissions::from_mode(0o711);
        fs::set_permissions(dir.path(), passable).expect("a folder of ours");
        let postgres = Postgres::start(bin, dir.path()).await;
        let redis = Redis::start(dir.path()).await;
        let smtp = Smtp::start(python, dir.path()).await;
        // The push service must know the address that it is reached at.
        let push_target = Target::default();
        let push_proxy = Proxy::start(&push_target).await;
        let push = Push::start_behind(&push_proxy.base(), python, dir.path(), PHONES).await;
        push_target.set(push.port);

        let mut links = vec![Link::new("sinks → push", push_proxy, false, true)];
        let mut members = Vec::new();
        let data = dir.path().join("data");
        for (name, only) in [
            ("http-1", "http"),
            ("http-2", "http"),
            ("relay-1", "relay"),
            ("relay-2", "relay"),
            ("sinks-1", "sinks"),
            ("sinks-2", "sinks"),
        ] {
            let sinks = only == "sinks";
            let mut port = async |to: &str, target: &Target, email, push| {
                let proxy = Proxy::start(target).await;
                let port = proxy.port;
                links.push(Link::new(&format!("{name} → {to}"), proxy, email, push));
                port
            };
            let store = port("PostgreSQL", &postgres.target, sinks, sinks).await;
            let broker = port("Redis", &redis.target, sinks, sinks).await;
            let mail = match sinks {
                true => port("SMTP", &Target::new(smtp.port), true, false).await,
                false => smtp.port,
            };
            let broker = format!("redis://127.0.0.1:{broker}");
            let config = Config::new(&postgres.url(store), &broker)
                .sse()
                .email(mail)
                .push();
            let http = (only == "http").then(Target::default);
            let mut member = Member::start(name, Some(only), &config, &data, http.clone());
            // The first one migrates, and makes the key pair for all.
            member.listen().await;
            members.push(Mutex::new(member));
            if let Some(http) = http {
                for from in TENANTS.iter().chain(&["producers"]) {
                    let proxy = Proxy::start(&http).await;
                    links.push(Link::new(&format!("{from} → {name}"), proxy, false, false));
                }
            }
        }
        let proxy = Proxy::start(&postgres.target).await;
        links.push(Link::new("producers → PostgreSQL", proxy, false, false));
        let cluster = Self {
            members,
            links,
            postgres: Mutex::new(postgres),
            redis: Mutex::new(redis),
            smtp: Mutex::new(smtp),
            push: Mutex::new(push),
            _dir: dir,
        };
        cluster.begin().await;
        cluster
    }

    /// Subscribes the browsers and waits until the sinks have joined.
    async fn begin(&self) {
        let push = self.push.lock().await;
        for (phone, tenant) in (0..PHONES).zip(TENANTS.iter().cycle()) {
            push.subscribe_one(&self.servers(tenant)[0], tenant, phone)
                .await;
        }
        eventually("both sinks are known", seconds(60), async || {
            let sinks = self
                .query::<i64>("SELECT count(*) FROM herald.checkpoints")
                .await;
            (sinks == [2]).then_some(())
        })
        .await;
    }

    /// The HTTP servers as one party reaches them.
    pub fn servers(&self, from: &str) -> Vec<Api> {
        ["http-1", "http-2"]
            .map(|to| Api::new(self.link(&format!("{from} → {to}")).proxy.base()))
            .into()
    }

    pub fn link(&self, name: &str) -> &Link {
        let mut links = self.links.iter();
        links.find(|link| link.name == name).expect("a link")
    }

    /// A connection past all proxies.
    pub async fn connect(&self) -> PgConnection {
        let postgres = self.postgres.lock().await;
        postgres.connect().await.expect("PostgreSQL answers")
    }

    /// One column of a query's answer.
    pub async fn query<T>(&self, sql: &'static str) -> Vec<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        sqlx::query_scalar(sql)
            .fetch_all(&mut connection)
            .await
            .expect("an answer")
    }

    /// Every event there is, in feed or not.
    pub async fn stored(&self) -> BTreeSet<String> {
        let ids = self.query("SELECT event_id FROM herald.events").await;
        ids.into_iter().collect()
    }

    /// Makes every link good again. What else was broken heals itself.
    pub fn clear_up(&self) {
        for link in &self.links {
            link.proxy.set(Weather::Fair);
        }
    }
}

impl Link {
    fn new(name: &str, proxy: Proxy, email: bool, push: bool) -> Self {
        Self {
            name: name.to_owned(),
            proxy,
            email,
            push,
            busy: Mutex::default(),
        }
    }
}
