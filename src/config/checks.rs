//! What serde cannot see: ranges, and keys that do not go together.

use std::ops::RangeInclusive;
use std::time::Duration;

use figment::value::Dict;
use herald_contract::check_tenant;
use humantime::format_duration;

use super::decode::Judged;
use super::fault::{Located, Path};
use super::locate::Places;
use super::sink::TENANT_KEY;
use super::{Config, Retention, Retry, SinkTable, Tls, auth};
use crate::store::LEAD_HEARTBEAT;

const MS: Duration = Duration::from_millis(1);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Collects the faults of one table, but none of a key that could not be decoded: what stands in
/// its place is not what was written.
pub(super) struct Checks<'a> {
    judged: &'a Judged,
    table: Path,
    found: Vec<(Path, String)>,
}

impl<'a> Checks<'a> {
    pub fn new(judged: &'a Judged, table: Path) -> Self {
        Self {
            judged,
            table,
            found: Vec::new(),
        }
    }

    /// `key` is below the table and dotted; none of its keys has a dot of its own.
    pub fn fault(&mut self, key: &str, message: impl Into<String>) {
        let path = self.table.concat(&Path::dotted(key));
        if !self.judged.at(&path) {
            self.found.push((path, message.into()));
        }
    }

    pub fn located(&self, places: &Places) -> impl Iterator<Item = Located> {
        self.found.iter().map(|(path, why)| places.fault(path, why))
    }

    fn number(&mut self, key: &str, value: u64, allowed: RangeInclusive<u64>) {
        if !allowed.contains(&value) {
            let (least, most) = allowed.into_inner();
            self.fault(
                key,
                format!("{value} is out of range; set {least} to {most}"),
            );
        }
    }

    pub fn duration(&mut self, key: &str, value: Duration, allowed: RangeInclusive<Duration>) {
        if !allowed.contains(&value) {
            let (least, most) = allowed.into_inner();
            self.fault(
                key,
                format!(
                    "\"{}\" is out of range; set \"{}\" to \"{}\"",
                    format_duration(value),
                    format_duration(least),
                    format_duration(most)
                ),
            );
        }
    }

    fn ordered(&mut self, key: &str, value: Duration, above_key: &str, above: Duration) {
        if value > above {
            self.fault(
                key,
                format!(
                    "\"{}\" is more than `{above_key}`, which is \"{}\"; set it to that at most",
                    format_duration(value),
                    format_duration(above)
                ),
            );
        }
    }
}

/// Checks everything but the sinks.
pub(super) fn root(config: &Config, checks: &mut Checks<'_>) {
    if config.data_dir.as_os_str().is_empty() {
        checks.fault("data_dir", "is empty; name a folder, such as \"data\"");
    }
    store_url(&config.store.url, checks);
    checks.number(
        "store.max_connections",
        config.store.max_connections.into(),
        2..=1_000,
    );
    checks.duration(
        "store.timeout",
        config.store.timeout,
        100 * MS..=10 * MINUTE,
    );

    broker_url(&config.broker.url, checks);
    checks.number(
        "broker.max_len",
        config.broker.max_len,
        1_000..=1_000_000_000,
    );
    checks.duration(
        "broker.reclaim_idle",
        config.broker.reclaim_idle,
        100 * MS..=DAY,
    );
    checks.duration(
        "broker.timeout",
        config.broker.timeout,
        100 * MS..=10 * MINUTE,
    );

    let relay = &config.relay;
    checks.number("relay.batch", relay.batch as u64, 1..=10_000);
    checks.duration("relay.poll_min", relay.poll_min, MS..=LEAD_HEARTBEAT);
    checks.duration("relay.poll_max", relay.poll_max, MS..=LEAD_HEARTBEAT);
    checks.duration("relay.trim_every", relay.trim_every, 100 * MS..=HOUR);
    checks.ordered(
        "relay.poll_min",
        relay.poll_min,
        "relay.poll_max",
        relay.poll_max,
    );

    retention(&config.retention, checks);

    let http = &config.http;
    checks.number(
        "http.max_body_bytes",
        http.max_body_bytes as u64,
        1_024..=1 << 30,
    );
    checks.number(
        "http.max_payload_bytes",
        http.max_payload_bytes as u64,
        1..=http.max_body_bytes.max(1) as u64,
    );
    checks.duration("http.drain", http.drain, Duration::ZERO..=HOUR);
    https(&http.tls, checks);

    auth::check(&config.auth, &config.http, checks);
    retry(&config.retry, checks);
    if let Some(tenant) = &config.dead_letters.tenant
        && let Err(wrong) = check_tenant(tenant)
    {
        checks.fault("dead_letters.tenant", format!("{tenant:?} {wrong}"));
    }
    log_level(&config.log.level, checks);
}

/// Checks the keys of a sink that every sink has. `table` is as it was written.
pub(super) fn sink(sink: &SinkTable, table: &Dict, checks: &mut Checks<'_>) {
    checks.number("concurrency", sink.concurrency as u64, 1..=1_000);
    checks.duration("attempt_timeout", sink.attempt_timeout, 10 * MS..=HOUR);
    if table.contains_key("retry") {
        retry(&sink.retry, checks);
    }
    if let Some(concurrency) = sink.destination.concurrency {
        let most = sink.concurrency as u64;
        checks.number(
            "destination.concurrency",
            concurrency as u64,
            1..=most.max(1),
        );
    }
    let breaker = &sink.breaker;
    checks.number("breaker.failures", breaker.failures.into(), 0..=10_000);
    checks.duration("breaker.open", breaker.open, 100 * MS..=HOUR);
    checks.duration("breaker.max_open", breaker.max_open, 100 * MS..=DAY);
    checks.ordered(
        "breaker.open",
        breaker.open,
        "breaker.max_open",
        breaker.max_open,
    );
    if let Some(age) = sink.expires_after {
        checks.duration("expires_after", age, 100 * MS..=365 * DAY);
    }
    let key = sink.ordering_key.strip_prefix("payload.");
    if sink.ordering_key != TENANT_KEY && key.is_none_or(|k| k.split('.').any(str::is_empty)) {
        checks.fault(
            "ordering_key",
            format!(
                "{:?} is not the place of a key; write \"tenantId\", or a path such as \
                 \"payload.orderId\"",
                sink.ordering_key
            ),
        );
    }
}

/// A name becomes a consumer group, a metric's label and a part of file names.
pub(super) fn sink_name(name: &str, checks: &mut Checks<'_>) {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if !(1..=64).contains(&name.len()) || !name.bytes().all(allowed) {
        checks.fault(
            "",
            "cannot be a sink's name; take 1 to 64 of a-z, 0-9, _ and -",
        );
    }
}

fn store_url(url: &str, checks: &mut Checks<'_>) {
    let key = "store.url";
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return;
    }
    let file = match url.split_once(':') {
        Some(("sqlite", rest)) => rest,
        _ => {
            let message = "is not a URL of a database; write \"sqlite://FILE\" or \
                           \"postgres://USER@HOST/DATABASE\"";
            return checks.fault(key, message);
        }
    };
    if file.contains(":memory:") || file.contains("mode=memory") {
        let message = "a database in memory would lose every event when herald stops, and begin \
                       again at 1 while brokers and clients remember more; write \
                       \"sqlite://FILE\"";
        return checks.fault(key, message);
    }
    let path = file.strip_prefix("//").map(|rest| rest.split('?').next());
    if path.flatten().is_none_or(str::is_empty) {
        checks.fault(key, "names no file; write it as \"sqlite://herald.db\"");
    }
}

fn broker_url(url: &str, checks: &mut Checks<'_>) {
    let key = "broker.url";
    match url.split_once(':') {
        Some(("embedded", "")) => {}
        Some(("embedded", _)) => checks.fault(key, "nothing may follow \"embedded:\""),
        Some(("redis" | "rediss", rest)) => {
            if rest.strip_prefix("//").is_none_or(str::is_empty) {
                checks.fault(
                    key,
                    "names no server; write it as \"redis://localhost:6379\"",
                );
            }
        }
        Some(("kafka", _)) => checks.fault(
            key,
            "Kafka is not available in this version; write \"embedded:\" or \
             \"redis://HOST:6379\"",
        ),
        _ => checks.fault(
            key,
            "is not a URL of a broker; write \"embedded:\", \"redis://HOST:6379\" or \
             \"rediss://HOST:6379\"",
        ),
    }
}

fn https(settings: &Tls, checks: &mut Checks<'_>) {
    match (&settings.certificate_file, &settings.key_file) {
        (Some(_), None) => checks.fault(
            "http.tls.key_file",
            "is missing; name the file with the private key",
        ),
        (None, Some(_)) => checks.fault(
            "http.tls.certificate_file",
            "is missing; name the file with the chain",
        ),
        _ => {}
    }
}

fn retention(retention: &Retention, checks: &mut Checks<'_>) {
    let (events, dead) = ("retention.events", "retention.dead");
    for (key, limit) in [(events, retention.events), (dead, retention.dead)] {
        if let Some(limit) = limit {
            checks.duration(key, limit, SECOND..=36_500 * DAY);
        }
    }
    match (retention.events, retention.dead) {
        (Some(limit), Some(of_dead)) => checks.ordered(events, limit, dead, of_dead),
        (None, Some(_)) => checks.fault(
            dead,
            format!("does nothing while `{events}` is \"forever\"; set that too"),
        ),
        (_, None) => {}
    }
}

fn retry(retry: &Retry, checks: &mut Checks<'_>) {
    let key = |key: &str| format!("retry.{key}");
    checks.duration(&key("base"), retry.base, MS..=DAY);
    checks.duration(&key("max_delay"), retry.max_delay, MS..=30 * DAY);
    checks.ordered(&key("base"), retry.base, &key("max_delay"), retry.max_delay);
    checks.number(&key("max_attempts"), retry.max_attempts.into(), 1..=100);
    if !(1.0..=1_000.0).contains(&retry.factor) {
        checks.fault(
            &key("factor"),
            format!("{} is out of range; set 1 to 1000", retry.factor),
        );
    }
}

/// `EnvFilter` takes any bare word for a target, so that a misspelt level would silence the log.
fn log_level(directives: &str, checks: &mut Checks<'_>) {
    // Directives for spans may have commas of their own; those are left to the filter.
    if directives.contains(['[', '{']) {
        return;
    }
    for directive in directives.split(',').map(str::trim) {
        let level = directive.rsplit('=').next().unwrap_or_default();
        let known = ["trace", "debug", "info", "warn", "error", "off"];
        if !known.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            checks.fault(
                "log.level",
                format!(
                    "{level:?} is no level; write \"trace\", \"debug\", \"info\", \"warn\", \
                     \"error\" or \"off\", or for a part of the program \"info,herald::relay=debug\""
                ),
            );
        }
    }
}
