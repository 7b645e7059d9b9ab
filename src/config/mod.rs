//! `config.toml` and the environment, as typed settings.
//!
//! Three layers, each over the one before: what is built in (the `Default` of these types), the
//! file, and the environment (`HERALD_STORE__URL` is `store.url`). Every fault is found at once
//! and says where it is: the file's line, or the variable.
//!
//! ```text
//! file ─ locate ─┐                       ┌─ decode ─▶ Config ─ checks ─┐
//!                ├─ figment's merge ─ tree                             ├─▶ Loaded, or Faults
//! environment ───┘                       └─ decode ─▶ each sink's own ─┘
//! ```

mod auth;
mod callers;
mod checks;
mod decode;
mod env;
mod fault;
mod file;
mod limits;
mod load;
mod locate;
mod redact;
mod retention;
mod sink;
mod tree;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use herald_contract::duration;
use serde::{Deserialize, Serialize};

pub use auth::{Auth, AuthMode};
pub use callers::{Network, Origin};
pub use env::process_env;
pub use fault::{At, Faults, Located, Path, Step};
pub use limits::{Breaker, Destination, Ordering, Rate};
pub use load::{DEFAULT_FILE, Loaded};
pub use redact::redacted;
pub use retention::Retention;
pub use sink::{Kind, Section, SinkTable, check};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A folder for what herald keeps on this machine, such as generated keys.
    pub data_dir: PathBuf,
    pub store: Store,
    pub broker: Broker,
    pub relay: Relay,
    pub retention: Retention,
    pub http: Http,
    pub operations: Operations,
    pub auth: Auth,
    /// What a sink does unless its own `retry` says otherwise.
    pub retry: Retry,
    pub dead_letters: DeadLetters,
    pub log: Log,
    /// By name, which is the sink's consumer group and its name in the ledger.
    #[serde(skip_deserializing)]
    pub sinks: BTreeMap<String, SinkTable>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            store: Store::default(),
            broker: Broker::default(),
            relay: Relay::default(),
            retention: Retention::default(),
            http: Http::default(),
            operations: Operations::default(),
            auth: Auth::default(),
            retry: Retry::default(),
            dead_letters: DeadLetters::default(),
            log: Log::default(),
            sinks: BTreeMap::new(),
        }
    }
}

/// The database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// `sqlite://FILE`, `postgres://…` or `postgresql://…`. After loading, what `url_file`
    /// holds, if that is set.
    #[serde(serialize_with = "redact::url")]
    pub url: String,
    /// A file that holds the URL, for one with a password.
    pub url_file: Option<PathBuf>,
    /// Whether `run` creates and upgrades the schema.
    pub migrate: bool,
    pub max_connections: u32,
    /// The longest wait for a connection, and for a statement.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "sqlite://herald.db".to_owned(),
            url_file: None,
            migrate: true,
            max_connections: 16,
            timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("url", &redacted(&self.url))
            .field("url_file", &self.url_file)
            .field("migrate", &self.migrate)
            .field("max_connections", &self.max_connections)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// What carries the stream.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Broker {
    /// `embedded:`, `redis://…` or `rediss://…`. After loading, what `url_file` holds, if that
    /// is set.
    #[serde(serialize_with = "redact::url")]
    pub url: String,
    /// A file that holds the URL, for one with a password.
    pub url_file: Option<PathBuf>,
    /// The stream's ceiling, in entries: beyond it the oldest are dropped even when a sink has
    /// not read them, which then reads them from the database.
    pub max_len: u64,
    /// Entries of a reader that was silent for this long go to another.
    #[serde(with = "duration")]
    pub reclaim_idle: Duration,
    /// The longest wait for an answer.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            url: "embedded:".to_owned(),
            url_file: None,
            max_len: 1_000_000,
            reclaim_idle: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("url", &redacted(&self.url))
            .field("url_file", &self.url_file)
            .field("max_len", &self.max_len)
            .field("reclaim_idle", &self.reclaim_idle)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// How committed events are taken to the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// The most events in one transaction.
    pub batch: usize,
    /// The wait between two looks at the outbox while there is work.
    #[serde(with = "duration")]
    pub poll_min: Duration,
    /// To what the wait grows when idle.
    #[serde(with = "duration")]
    pub poll_max: Duration,
    /// How often the stream is trimmed to what sinks still need.
    #[serde(with = "duration")]
    pub trim_every: Duration,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            batch: 1_000,
            poll_min: Duration::from_millis(1),
            poll_max: Duration::from_millis(50),
            trim_every: Duration::from_secs(10),
        }
    }
}

/// The API and the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    #[serde(deserialize_with = "load::address")]
    pub listen: SocketAddr,
    /// Host names, beside loopback ones, by which a proxy or a browser may ask.
    pub hosts: Vec<String>,
    /// Pages of these origins, beside herald's own, may ask (CORS).
    pub origins: Vec<Origin>,
    /// Proxies that say truly for whom they ask, in `X-Forwarded-For`.
    pub trusted_proxies: Vec<Network>,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// The largest payload of one event, in bytes of JSON.
    pub max_payload_bytes: usize,
    /// How long requests under way may take to end when herald stops.
    #[serde(with = "duration")]
    pub drain: Duration,
    pub tls: Tls,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3001)),
            hosts: Vec::new(),
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
            max_body_bytes: 4 * 1024 * 1024,
            max_payload_bytes: 256 * 1024,
            drain: Duration::from_secs(20),
            tls: Tls::default(),
        }
    }
}

/// HTTPS, where both are named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate and those that lead to its root, as PEM.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// The certificate's file and the key's.
    pub fn files(&self) -> Option<(&FilePath, &FilePath)> {
        self.certificate_file
            .as_deref()
            .zip(self.key_file.as_deref())
    }
}

/// What watches herald.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    /// Where every process, whatever its roles, answers `/healthz`, `/readyz` and `/metrics`, and
    /// nothing else.
    #[serde(deserialize_with = "load::optional_address")]
    pub listen: Option<SocketAddr>,
}

/// When a failed delivery is tried again: after `base`, then `factor` times as long each time,
/// up to `max_delay`, until `max_attempts` have been made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    #[serde(with = "duration")]
    pub base: Duration,
    pub factor: f64,
    #[serde(with = "duration")]
    pub max_delay: Duration,
    /// The first attempt counts.
    pub max_attempts: u32,
    pub jitter: Jitter,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            max_delay: Duration::from_secs(15 * 60),
            max_attempts: 12,
            jitter: Jitter::Full,
        }
    }
}

/// Who learns of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetters {
    /// Each also becomes an event `herald.dead_letter` of this tenant, for any sink to deliver.
    pub tenant: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// A random wait from nothing to the computed one, so that what failed together does not
    /// come back together.
    #[default]
    Full,
    /// The computed wait.
    None,
}

/// What herald says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    /// Directives of `tracing`'s `EnvFilter`: `info` or `info,herald::relay=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            level: "info".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
