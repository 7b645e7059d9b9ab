//! What the rest of herald may rely on, whatever the database: `exercise_store!` tests every sentence
//! of the suite on SQLite and on PostgreSQL. What one database alone promises is in its own module.
//!
//! PostgreSQL comes by `HERALD_TEST_POSTGRES_URL`, a superuser's URL; each test makes a database
//! of its own there. Without it these tests are skipped, unless `CI=true`, where that fails.

#[macro_use]
mod suite;

mod backend;
mod cursors;
mod dead;
mod emitting;
mod ledger;
mod ledger_model;
mod life;
mod model;
mod postgres;
mod reading;
mod retention;
mod row_security;
mod sequencing;
mod sinks;
mod sqlite;
mod steps;
mod subscriptions;
mod waiting;
