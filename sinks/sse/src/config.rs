//! The sink's own keys in `config.toml`.

use std::time::Duration;

use herald_contract::{Fault, SinkConfig, duration};
use serde::{Deserialize, Serialize};

const MAX_BUFFER: usize = 1 << 16;
/// Room for a few events of the largest size.
const MIN_MEMORY: usize = 1 << 22;
const MAX_REPLAY_PAGE: usize = 10_000;

/// How `GET /sse` serves its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between comments that keep idle connections open; proxies often give up at 60 s.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// How long a client waits before it connects again; each is told a time within ±50 % of it.
    #[serde(with = "duration")]
    pub reconnect: Duration,
    /// Events of a stream (a tenant and a filter) that are kept in memory while it has clients. A
    /// client that falls further behind reads from the database until it has caught up.
    pub buffer: usize,
    /// What the frames of all streams may take in memory, in bytes. Beyond that less is kept of
    /// each, replays wait, and clients that do not read are sent away.
    pub memory_bytes: usize,
    /// A client that takes nothing for so long is sent away; it comes back with its cursor.
    #[serde(with = "duration")]
    pub send_timeout: Duration,
    /// Whether streams are compressed for clients that ask for it.
    pub compression: bool,
    /// Clients connected at once; those beyond are told to come back later.
    pub max_clients: usize,
    /// Of those, of one tenant.
    pub max_clients_per_tenant: usize,
    /// Of those, from one address. Behind a proxy, name it in `http.trusted_proxies`.
    pub max_clients_per_address: usize,
    /// Events that one query reads while a client catches up; it holds them until they are sent.
    pub replay_page: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            reconnect: Duration::from_secs(2),
            buffer: 1024,
            memory_bytes: 64 << 20,
            send_timeout: Duration::from_secs(60),
            compression: false,
            max_clients: 10_000,
            max_clients_per_tenant: 10_000,
            max_clients_per_address: 10_000,
            replay_page: 500,
        }
    }
}

impl SinkConfig for Config {
    fn faults(&self) -> Vec<Fault> {
        let second = Duration::from_secs(1);
        let mut faults = Vec::new();
        let mut check = |key: &str, holds: bool, message: &str| {
            if !holds {
                faults.push(Fault::new(key, message));
            }
        };
        check(
            "heartbeat",
            (second..=second * 600).contains(&self.heartbeat),
            "must be from \"1s\" to \"10m\"",
        );
        check(
            "reconnect",
            (second / 10..=second * 300).contains(&self.reconnect),
            "must be from \"100ms\" to \"5m\"",
        );
        check(
            "buffer",
            (1..=MAX_BUFFER).contains(&self.buffer),
            "must be from 1 to 65536 events",
        );
        check(
            "memory_bytes",
            self.memory_bytes >= MIN_MEMORY,
            "must be at least 4194304 (4 MiB)",
        );
        check(
            "send_timeout",
            (second..=second * 3600).contains(&self.send_timeout),
            "must be from \"1s\" to \"1h\"",
        );
        for (key, most) in [
            ("max_clients", self.max_clients),
            ("max_clients_per_tenant", self.max_clients_per_tenant),
            ("max_clients_per_address", self.max_clients_per_address),
        ] {
            check(key, most > 0, "must be at least 1");
        }
        check(
            "replay_page",
            (1..=MAX_REPLAY_PAGE).contains(&self.replay_page),
            "must be from 1 to 10000 events",
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Config, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn an_empty_table_is_the_documented_default() {
        let config = read("{}").expect("valid");
        assert_eq!(config, Config::default());
        assert_eq!(config.faults(), []);
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        let error = read(r#"{"heartbeet": "1s"}"#).expect_err("unknown key");
        assert!(error.to_string().contains("heartbeet"), "{error}");
    }

    #[test]
    fn every_value_out_of_range_is_reported_at_once() {
        let config = read(
            r#"{"heartbeat":"1ms","reconnect":"1h","buffer":0,"memory_bytes":1,"send_timeout":"0s",
                "max_clients":0,"max_clients_per_tenant":0,"max_clients_per_address":0,
                "replay_page":10001}"#,
        )
        .expect("well formed");
        let keys: Vec<_> = config.faults().into_iter().map(|f| f.key).collect();
        assert_eq!(
            keys,
            [
                "heartbeat",
                "reconnect",
                "buffer",
                "memory_bytes",
                "send_timeout",
                "max_clients",
                "max_clients_per_tenant",
                "max_clients_per_address",
                "replay_page"
            ]
        );
    }
}
