//! The committed `config.toml` is what herald starts with and where every key is documented.

use std::collections::BTreeMap;

use crate::config::{Config, Kind};

/// The file that herald is shipped with, which documents every key.
const SHIPPED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml"));
const SHIPPED_KINDS: &[Kind] = &[
    ("sse", |_| Vec::new()),
    ("email", |_| Vec::new()),
    ("web_push", |_| Vec::new()),
];

fn load_shipped(text: &str) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("written");
    let loaded = Config::load(Some(&file), [], SHIPPED_KINDS);
    loaded.unwrap_or_else(|faults| panic!("{faults}")).config
}

/// Takes the `#` from the lines that show a default.
fn uncommented(text: &str) -> String {
    let shows_default = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if shows_default(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_shows_the_defaults_that_are_built_in() {
    let shipped = load_shipped(SHIPPED);
    let shown = load_shipped(&uncommented(SHIPPED));
    let kinds: Vec<&str> = shipped.sinks.values().map(|s| s.kind.as_str()).collect();
    assert_eq!(kinds, ["email", "web_push", "sse"]);
    let without_sinks = |config: Config| Config {
        sinks: BTreeMap::new(),
        ..config
    };
    let plain = load_shipped("[sinks.email]\nkind = \"email\"\n");
    let (plain, email) = (&plain.sinks["email"], &shown.sinks["email"]);
    assert_eq!(plain.retry, email.retry);
    assert_eq!(plain.concurrency, email.concurrency);
    assert_eq!(plain.attempt_timeout, email.attempt_timeout);
    assert_eq!(plain.enabled, email.enabled);
    assert_eq!(plain.breaker, email.breaker);
    assert_eq!(plain.ordering, email.ordering);
    assert_eq!(plain.ordering_key, email.ordering_key);
    assert_eq!(without_sinks(shipped), Config::default());
    assert_eq!(without_sinks(shown), Config::default());
}

#[test]
fn the_shipped_file_documents_every_key() {
    let defaults = serde_json::to_value(Config::default()).expect("serializable");
    let optional = SHIPPED
        .replace("# url_file =", "#url_file =")
        .replace("# listen =", "#listen =")
        .replace("# tenant =", "#tenant =")
        .replace("# secret =", "#secret =")
        .replace("# secret_file =", "#secret_file =")
        .replace("# public_key_file =", "#public_key_file =")
        .replace("# issuer =", "#issuer =")
        .replace("# audience =", "#audience =");
    let shown = uncommented(&optional);
    let shown: toml::Table = toml::from_str(&shown).expect("TOML");
    for (name, value) in defaults.as_object().expect("a table") {
        assert!(shown.contains_key(name), "{name}");
        for key in value.as_object().into_iter().flat_map(|table| table.keys()) {
            assert!(shown[name].get(key).is_some(), "{name}.{key}");
        }
    }
}
