//! Why the store did not do it, and which failures of a database may heal.

use sqlx::migrate::MigrateError;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is read-only, or ran out of time: try again later.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Another process has the database file; stop.
    #[error("{0}")]
    InUse(String),
    /// The database answered what it should not: a fault of herald or of the schema.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration: {0}")]
    Migration(#[source] MigrateError),
    /// `store.url` cannot be used.
    #[error("store.url: {0}")]
    Url(String),
    /// An event was emitted with an id or idempotency key that another tenant's event has.
    #[error("event {index}: this eventId is taken")]
    Conflict {
        /// Its place in the batch.
        index: usize,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if may_heal(&error) {
            Self::Unavailable(error)
        } else {
            Self::Database(error)
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) if may_heal(&e) => {
                Self::Unavailable(e)
            }
            other => Self::Migration(other),
        }
    }
}

/// Whether the same call may work later: the connection or the server failed, not the statement.
fn may_heal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(e) => e.code().is_some_and(|code| match code.len() {
            5 => sqlstate_may_heal(&code),
            _ => code.parse().is_ok_and(sqlite_may_heal),
        }),
        _ => false,
    }
}

/// PostgreSQL's classes connection, resources, operator intervention, system and rollback, and
/// a read-only transaction, which a standby answers.
fn sqlstate_may_heal(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "53" | "57" | "58" | "40")) || code == "25006"
}

/// SQLite's busy, locked, out of memory, read-only, I/O, full disk, cannot open and lock
/// protocol; the higher bits tell more of the same. A code has at most four digits.
fn sqlite_may_heal(code: u32) -> bool {
    matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14 | 15)
}
