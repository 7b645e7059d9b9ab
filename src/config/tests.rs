//! The whole way from text and variables to settings or faults.

mod shipped;

use std::path::Path as FilePath;
use std::time::Duration;

use herald_contract::{Fault, SinkConfig, duration};
use serde::Deserialize;

use super::*;

/// A sink's configuration with a bit of everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mail {
    from: String,
    smtp: Smtp,
    templates: BTreeMap<String, Template>,
    hosts: Vec<String>,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            from: "a@b.example".to_owned(),
            smtp: Smtp::default(),
            templates: BTreeMap::new(),
            hosts: Vec::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Smtp {
    port: u16,
    password: String,
    #[serde(with = "duration")]
    timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    to: String,
    subject: String,
}

impl SinkConfig for Mail {
    fn faults(&self) -> Vec<Fault> {
        let templates = self.templates.iter();
        let bad = templates.filter(|(_, t)| !t.to.contains('@') && !t.subject.is_empty());
        bad.map(|(name, _)| Fault::new(format!("templates.{name}.to"), "has no @"))
            .collect()
    }
}

const KINDS: &[Kind] = &[("mail", check::<Mail>), ("sse", |_| Vec::new())];

fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("herald.toml");
    std::fs::write(&file, text).expect("written");
    Config::load(Some(&file), vars(env), KINDS)
}

fn vars(env: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    env.iter().map(owned).collect()
}

/// The faults, one a line, without the folder.
fn faults(text: &str, env: &[(&str, &str)]) -> String {
    let faults = load(text, env).expect_err("there are faults").to_string();
    let short = |line: &str| match line.split_once("herald.toml") {
        Some((_, rest)) => format!("file{rest}\n"),
        None => format!("{line}\n"),
    };
    faults.lines().map(short).collect()
}

#[track_caller]
fn assert_starts(text: &str, expected: &[&str]) {
    let lines: Vec<&str> = text.lines().collect();
    let same =
        lines.len() == expected.len() && lines.iter().zip(expected).all(|(l, e)| l.starts_with(e));
    assert!(
        same,
        "got\n{text}\nexpected lines that begin with\n{expected:#?}"
    );
}

#[test]
fn an_empty_file_gives_the_built_in_defaults() {
    let loaded = load("", &[]).expect("sound");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn every_fault_of_a_file_is_told_at_once_each_with_its_line() {
    let text = r#"data_dir = 5
colour = "red"
[store]
ulr = "sqlite://x.db"
max_connections = "many"
[relay]
batch = 0
poll_min = "soon"
[retry]
jitter = "ful"
factor = 0.5
[http]
listen = "localhost:3001"
[sinks.mail]
kind = "mial"
types = ["order.*", "or*der", 7]
[sinks."Big.one"]
kind = "sse"
concurrency = 0
[sinks.mail2]
kind = "mail"
concurency = 3
smtp.port = 70000
smtp.pasword = "x"
hosts = [1, "a", 2]
[sinks.mail2.smtp]
"#;
    // The last header repeats a table that dotted keys made: broken TOML, told by itself.
    assert_starts(&faults(text, &[]), &["file:26:14: this is not TOML"]);
    let text = text.replace(
        "[sinks.mail2.smtp]",
        "[sinks.mail2.templates.\"order.*\"]\nsubject = \"\"",
    );
    assert_starts(
        &faults(&text, &[]),
        &[
            "file:1: data_dir: 5 does not fit; expected",
            "file:2: colour: there is no such key; those here are `data_dir`, ",
            "file:4: store.ulr: there is no such key; did you mean `url`?",
            "file:5: store.max_connections: the text \"many\" does not fit; expected a whole number",
            "file:7: relay.batch: 0 is out of range; set 1 to 10000",
            "file:8: relay.poll_min: \"soon\" is not a duration",
            "file:10: retry.jitter: \"ful\" is none of \"full\", \"none\"; did you mean \"full\"?",
            "file:11: retry.factor: 0.5 is out of range",
            "file:13: http.listen: \"localhost:3001\" is not an address and a port",
            "file:15: sinks.mail.kind: there is no kind \"mial\"; did you mean \"mail\"?",
            "file:16: sinks.mail.types[1]: \"or*der\" must not contain",
            "file:16: sinks.mail.types[2]: 7 does not fit; expected text in quotes",
            "file:17: sinks.\"Big.one\": cannot be a sink's name",
            "file:19: sinks.\"Big.one\".concurrency: 0 is out of range",
            "file:22: sinks.mail2.concurency: there is no such key; did you mean `concurrency`?",
            "file:23: sinks.mail2.smtp.port: 70000 does not fit; expected a whole number from 0 to 65535",
            "file:24: sinks.mail2.smtp.pasword: there is no such key; did you mean `password`?",
            "file:25: sinks.mail2.hosts[0]: 1 does not fit",
            "file:25: sinks.mail2.hosts[2]: 2 does not fit",
            "file:26: sinks.mail2.templates.\"order.*\".to: this key is missing",
        ],
    );
}

#[test]
fn what_a_sink_finds_itself_is_located_even_where_keys_have_dots() {
    let text = "[sinks.m]\nkind = \"mail\"\n[sinks.m.templates.\"order.*\"]\nsubject = \"s\"\n\
                to = \"nobody\"\n";
    assert_starts(
        &faults(text, &[]),
        &["file:5: sinks.m.templates.\"order.*\".to: has no @"],
    );
}

#[test]
fn the_environment_goes_over_the_file() {
    let text =
        "[store]\nurl = \"sqlite://a.db\"\nmax_connections = 4\n[sinks.m]\nkind = \"mail\"\n";
    let env = [
        ("HERALD_STORE__MAX_CONNECTIONS", "8"),
        ("HERALD_STORE__MIGRATE", "false"),
        ("HERALD_RETRY__FACTOR", "3"),
        ("HERALD_SINKS__M__TYPES", r#"["a.*", "b"]"#),
        ("HERALD_SINKS__M__SMTP__PASSWORD", "00123"),
        ("HERALD_SINKS__M__SMTP__PORT", "25"),
        ("HERALD_SINKS__LIVE__KIND", "sse"),
        ("HERALD_CONFIG", "elsewhere"),
        ("HERALD_TEST_POSTGRES", "x"),
        ("HERALD_PORT_3001_TCP", "tcp://10.0.0.1:3001"),
        ("PATH", "/bin"),
    ];
    let loaded = load(text, &env).expect("sound");
    let config = &loaded.config;
    assert_eq!(config.store.url, "sqlite://a.db");
    assert_eq!(config.store.max_connections, 8);
    assert!(!config.store.migrate);
    assert_eq!(config.retry.factor, 3.0);
    assert!(config.sinks["m"].types.matches("a.x"));
    assert!(!config.sinks["m"].types.matches("c"));
    assert_eq!(config.sinks["live"].kind, "sse");
    let mail: Mail = config.sinks["m"].section.decode().expect("sound");
    assert_eq!((mail.smtp.password.as_str(), mail.smtp.port), ("00123", 25));

    let env = |name: &str| At::Env(name.to_owned());
    assert_eq!(loaded.origin("store.migrate"), env("HERALD_STORE__MIGRATE"));
    assert!(matches!(
        loaded.origin("store.url"),
        At::File { line: Some(2), .. }
    ));
    assert_eq!(loaded.origin("store.timeout"), At::Default);
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    let env = [
        ("HERALD_BROKER__TIMEOUT", "5"),
        ("HERALD_LOG", "debug"),
        ("HERALD_RELAY__BATCH", "00123"),
        ("HERALD_SINKS__X__CONCURRENCY", "0"),
        ("HERALD_SOTRE__URL", "sqlite://a.db"),
        ("HERALD_STORE__URL", "mysql://user:hunter2@db/x"),
    ];
    let text = faults("", &env);
    assert_starts(
        &text,
        &[
            "HERALD_BROKER__TIMEOUT: broker.timeout: \"5\" is not a duration",
            "HERALD_LOG: log: the text \"debug\" does not fit; expected a table: set HERALD_LOG__KEY",
            "HERALD_RELAY__BATCH: relay.batch: the text \"00123\" does not fit; expected a whole",
            "HERALD_SINKS__X__CONCURRENCY: sinks.x.concurrency: 0 is out of range",
            "HERALD_SINKS__X__CONCURRENCY: sinks.x.kind: this key is missing",
            "HERALD_SOTRE__URL: sotre: there is no such key; did you mean `store`?",
            "HERALD_STORE__URL: store.url: is not a URL of a database",
        ],
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_sink_retries_as_the_root_says_but_for_its_own_keys() {
    let text = "[retry]\nbase = \"2s\"\nmax_attempts = 5\n[sinks.a]\nkind = \"sse\"\n\
                retry.max_attempts = 3\n[sinks.b]\nkind = \"sse\"\nretry.max_delay = \"1s\"\n";
    assert_starts(
        &faults(text, &[]),
        &["file:9: sinks.b.retry.base: \"2s\" is more than `retry.max_delay`"],
    );
    let loaded = load(&text.replace("\"1s\"", "\"3s\""), &[]).expect("sound");
    let retry = &loaded.config.sinks["a"].retry;
    assert_eq!(
        (retry.max_attempts, retry.base),
        (3, Duration::from_secs(2))
    );
}

#[test]
fn what_does_not_go_together_is_refused_with_the_reason() {
    for (text, expected) in [
        (
            "http.listen = \"0.0.0.0:80\"",
            "http.listen: 0.0.0.0:80 can be reached by others",
        ),
        ("auth.mode = \"jwt\"", "auth.mode: \"jwt\" needs a key"),
        (
            "auth.secret = \"too short\"",
            "auth.secret: the secret has 9 bytes",
        ),
        (
            "auth.secret_file = \"/nowhere\"",
            "auth.secret_file: /nowhere cannot be read",
        ),
        (
            "auth.public_key_file = \"/nowhere\"",
            "auth.public_key_file: /nowhere cannot be read",
        ),
        (
            "auth.leeway = \"2h\"",
            "auth.leeway: \"2h\" is out of range",
        ),
        (
            "broker.url = \"kafka://k\"",
            "broker.url: Kafka is not available",
        ),
        ("broker.url = \"redis://\"", "broker.url: names no server"),
        (
            "store.url = \"sqlite::memory:\"",
            "store.url: a database in memory",
        ),
        (
            "store.url = \"sqlite://x?mode=memory\"",
            "store.url: a database in memory",
        ),
        ("store.url = \"sqlite://\"", "store.url: names no file"),
        (
            "relay.poll_min = \"100ms\"",
            "relay.poll_min: \"100ms\" is more than `relay.poll_max`",
        ),
        (
            "retry.max_delay = \"1ms\"",
            "retry.base: \"1s\" is more than",
        ),
        ("log.level = \"inof\"", "log.level: \"inof\" is no level"),
        (
            "http.max_payload_bytes = 5000000",
            "http.max_payload_bytes: 5000000 is out of range",
        ),
        ("retry.factor = nan", "retry.factor: NaN is out of range"),
        (
            "retention.events = \"soon\"",
            "retention.events: \"soon\" is not a duration",
        ),
        (
            "retention.events = \"1ms\"",
            "retention.events: \"1ms\" is out of range; set \"1s\" to",
        ),
        (
            "retention.dead = \"90days\"",
            "retention.dead: does nothing while `retention.events` is \"forever\"",
        ),
        (
            "retention = { events = \"2days\", dead = \"1day\" }",
            "retention.events: \"2days\" is more than `retention.dead`",
        ),
        ("sinks = 3", "sinks: is not a table"),
        ("store = 3", "store: 3 does not fit; expected a table"),
    ] {
        let found = faults(text, &[]);
        assert_eq!(found.lines().count(), 1, "{text}: {found}");
        assert!(found.contains(expected), "{text}: {found}");
    }
    for fine in [
        "http.listen = \"[::1]:80\"",
        "store.url = \"postgres://u:p@h/d\"",
        "broker.url = \"rediss://:p@h:6380/1\"",
        "log.level = \"info,herald::relay=debug\"",
        "retention.events = \"30days\"",
        "retention = { events = \"30days\", dead = \"forever\" }",
        "retention = { events = \"30days\", dead = \"30days\" }",
    ] {
        load(fine, &[]).expect(fine);
    }
}

#[test]
fn a_url_comes_from_a_file_and_the_environment_decides_between_the_two() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("url");
    std::fs::write(&secret, "postgres://u:p@h/d\n").expect("written");
    let path = secret.to_str().expect("UTF-8");
    let text = "[store]\nurl = \"sqlite://a.db\"\n";

    let env = [("HERALD_STORE__URL_FILE", path)];
    let loaded = load(text, &env).expect("sound");
    assert_eq!(loaded.config.store.url, "postgres://u:p@h/d");
    assert!(
        !format!("{:?}", loaded.config).contains(":p@"),
        "the password shows"
    );

    let both = format!("{text}url_file = \"{path}\"\n");
    assert_starts(
        &faults(&both, &[]),
        &["file:3: store.url_file: `store.url` is set as well"],
    );
    let missing = "broker.url_file = \"/nonexistent/url\"";
    assert_starts(
        &faults(missing, &[]),
        &["file:1: broker.url_file: /nonexistent/url cannot be read"],
    );
}

#[test]
fn broken_toml_is_told_with_line_and_column() {
    assert_starts(
        &faults("a = 1\nb = = 2\n", &[]),
        &["file:2:5: this is not TOML"],
    );
    assert_starts(
        &faults("[store]\nurl = \"a\"\nurl = \"b\"\n", &[]),
        &["file:3:1: this is not TOML"],
    );
    let huge = "relay.batch = 99999999999999999999\n";
    assert_starts(
        &faults(huge, &[]),
        &["file:1: relay.batch: this number is too large"],
    );
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_do_not_shift_lines() {
    let text = "\u{feff}[store]\r\nurl = \"sqlite://a.db\"\r\n[relay]\r\nbatch = 0\r\n";
    assert_starts(
        &faults(text, &[]),
        &["file:4: relay.batch: 0 is out of range"],
    );
}

#[test]
fn a_misspelt_table_does_not_hide_the_faults_of_others() {
    let text = "[[store]]\nurl = \"x\"\n[sinks]\nmail = 1\n[htp]\nlisten = 1\n[relay]\nbatch = 0\n";
    assert_starts(
        &faults(text, &[]),
        &[
            "file:1: store",
            "file:4: sinks.mail: is not a table",
            "file:5: htp: there is no such key; did you mean `http`?",
            "file:8: relay.batch: 0",
        ],
    );
}

#[test]
fn a_named_file_must_exist() {
    let named = FilePath::new("/nonexistent/herald.toml");
    let faults = Config::load(Some(named), vars(&[]), KINDS).expect_err("missing");
    let text = faults.to_string();
    assert!(
        text.starts_with("/nonexistent/herald.toml: cannot be read: "),
        "{text}"
    );
}

#[test]
fn listings_hide_secrets() {
    let text = "[sinks.m]\nkind = \"mail\"\nsmtp.password = \"hunter2\"\nsmtp.port = 25\n\
                [store]\nurl = \"postgres://u:hunter2@h/d\"\n\
                [auth]\nsecret = \"hunter2, and more than thirty-two bytes\"\n";
    let config = load(text, &[]).expect("sound").config;
    let listing = serde_json::to_string(&config).expect("serializable");
    assert!(!listing.contains("hunter2"), "{listing}");
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter2"), "{debug}");
    assert!(listing.contains("\"port\":25"), "{listing}");
    assert_eq!(redacted("redis://:pa/ss@h:1"), "redis://:***@h:1");
    assert_eq!(
        redacted("postgres://h/d?user=u&password=p"),
        "postgres://h/d?user=u&password=***"
    );
    assert_eq!(redacted("redis://h:6379"), "redis://h:6379");
}
