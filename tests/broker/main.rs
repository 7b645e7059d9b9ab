//! What the rest of herald may rely on, whatever the stream: `exercise_broker!` tests the sentences
//! of the suite on each broker, by the abilities it declares. What one broker alone promises is
//! tested beside it.
//!
//! Redis comes by `HERALD_TEST_REDIS_URL`. Without it these tests are skipped, unless `CI=true`,
//! where that fails.

#[macro_use]
mod suite;

mod appending;
mod bench;
mod dead_letters;
mod embedded;
mod epochs;
mod following;
mod groups;
mod losses;
mod outages;
mod processes;
mod redis;
mod settling;
mod story;
