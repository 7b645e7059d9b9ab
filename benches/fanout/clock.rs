//! One clock for the whole benchmark: emitting and receiving are in one process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time since the clock was first looked at.
pub fn now() -> Duration {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    BEGINNING.get_or_init(Instant::now).elapsed()
}
