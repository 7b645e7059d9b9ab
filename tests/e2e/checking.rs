//! `herald check`: every fault of a configuration at once, each at its line.

use crate::harness::{Config, Home};

const FAULTY: &str = r#"[store]
url = "sqlite://herald.db"
colour = "green"

[broker]
url = "carrier-pigeon:"

[http]
listen = "nowhere"

[retry]
base = "soon"
max_attempts = 0

[sinks.sse]
kind = "sse"
heartbeet = "15s"

[sinks.mail]
kind = "email"
types = ["or*der"]

[[sinks.mail.templates]]
to = "{{ payload."

[sinks.fax]
kind = "fax"
"#;

/// (line, key) of each fault above.
const FAULTS: &[(usize, &str)] = &[
    (3, "store.colour"),
    (6, "broker.url"),
    (9, "http.listen"),
    (12, "retry.base"),
    (13, "retry.max_attempts"),
    (17, "sinks.sse.heartbeet"),
    (21, "sinks.mail.types[0]"),
    (24, "sinks.mail.templates[0].to"),
    (27, "sinks.fax.kind"),
];

#[tokio::test]
async fn check_names_every_fault_at_once_with_its_file_and_line() {
    let home = Home::with(FAULTY);
    let output = home.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for (line, key) in FAULTS {
        let begin = format!("config.toml:{line}: {key}: ");
        assert!(said.contains(&begin), "no {begin:?} in\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(
        !home.path().join("herald.db").exists(),
        "check makes nothing"
    );

    let run = home.run(&["run"]).await;
    assert_eq!(run.status.code(), Some(1), "run refuses it too");
}

#[tokio::test]
async fn check_accepts_a_good_file_and_refuses_a_broken_or_missing_one() {
    let home = Home::new(&Config::embedded().sse().email(2525).push());
    home.succeed(&["check"]).await;

    let broken = Home::with("[store\nurl = 1");
    let output = broken.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("config.toml:1"), "{said}");

    let missing = home.run(&["check", "--config", "no-such.toml"]).await;
    assert_eq!(missing.status.code(), Some(1));
    let said = [missing.stdout, missing.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("no-such.toml"));

    let usage = home.run(&["no-such-command"]).await;
    assert_eq!(usage.status.code(), Some(2));
}
