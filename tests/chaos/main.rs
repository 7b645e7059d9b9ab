//! Everything is broken, again and again, and at the end the books must balance: every committed
//! event at every far end, every stream in the feed's order, and nothing twice except where the
//! documentation says so.
//!
//! `HERALD_CHAOS_SECONDS` says for how long things are broken (180; a quarter of it where herald is
//! one process), `HERALD_TEST_SEED` which ones. The same seed draws the same faults in the same order; how
//! processes take turns no seed can say.

mod arrivals;
mod books;
mod checker;
mod clients;
mod cluster;
mod embedded;
mod far;
mod faults;
mod gather;
mod member;
mod planted;
mod postgres;
mod producers;
mod proxy;
mod redis;
mod schedule;
mod servers;

#[path = "../harness/mod.rs"]
mod harness;

use std::io::Write as _;
use std::time::Duration;

use checker::Verdict;

/// Faults that are shown; thousands look alike.
const SHOWN: usize = 20;

/// For how long things are broken: a share of what was asked for, or of three minutes.
fn duration(share: u32) -> Duration {
    let given = std::env::var("HERALD_CHAOS_SECONDS").ok();
    let given = given.map(|text| text.parse().expect("HERALD_CHAOS_SECONDS is a number"));
    Duration::from_secs(given.unwrap_or(180)) / share
}

/// Says something also when the test passes, whose output `cargo test` keeps to itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {line}");
}

/// # Panics
/// Something is wrong.
fn report(name: &str, verdict: &Verdict) {
    let Verdict {
        faults,
        email_doubles,
        push_doubles,
    } = verdict;
    for (sink, doubles) in [("email", email_doubles), ("push", push_doubles)] {
        let count: usize = doubles.values().sum();
        say(&format!("{name}: {count} doubles of {sink} {doubles:?}"));
    }
    let shown = &faults[..faults.len().min(SHOWN)];
    assert!(
        faults.is_empty(),
        "{name}: {} faults, such as {shown:#?}",
        faults.len()
    );
}
