//! What the stories are told with: herald processes, their databases, the far ends they deliver
//! to, and clients.
//!
//! Nothing here sleeps to give something time. It waits for conditions, and a wait that lasts too
//! long is a failure that says what was waited for.

// Several test binaries include this; each uses its own part of it.
#![allow(dead_code, unused_imports)]

mod config;
mod database;
mod herald;
mod http;
mod peers;
mod process;
mod redis;
mod sse;
mod wait;
mod websocket;

pub use config::Config;
pub use database::{Database, emit};
pub use herald::{Herald, Home};
pub use http::{Api, Reply, text};
pub use peers::{Push, Smtp};
pub use process::{Process, signal, try_signal};
pub use redis::OwnRedis;
pub use sse::{END, Sse, follow};
pub use wait::{Turns, eventually, seconds, within};
pub use websocket::{Heard, WebSocket};

/// The value of an environment variable that `tests/run` sets when it has the part. Without it a
/// story is skipped, which in CI is a failure.
pub fn given(part: &str, variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{part} is missing: {variable} is not set; start the tests with tests/run"
        );
        println!("skipped: {part}: {variable} is not set; start the tests with tests/run");
    }
    value
}

/// The private PostgreSQL's superuser URL.
pub fn postgres() -> Option<String> {
    given("PostgreSQL", "HERALD_TEST_POSTGRES_URL")
}

/// A database of the private Redis that no other story uses; each has its own number.
pub fn redis(number: u8) -> Option<String> {
    given("Redis", "HERALD_TEST_REDIS_URL").map(|url| format!("{url}/{number}"))
}

/// The Python that has what the peers need.
pub fn python() -> Option<String> {
    given("Python peers", "HERALD_TEST_PYTHON")
}

/// The seed of a story's random choices: `HERALD_TEST_SEED`, or a new one, which is printed so
/// that a failure can be told again.
pub fn seed() -> u64 {
    let seed = std::env::var("HERALD_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    println!("HERALD_TEST_SEED={seed}");
    seed
}
