//! The schema's versions, as both databases keep count of them.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A file under `migrations/`: what its name says, and its SQL.
pub type Step = (&'static str, &'static str);

/// The migrations of one database, in the order of their numbers from 1 on, and the table in
/// which it notes those that ran. One that was released is never changed.
pub fn migrator(steps: &[Step], table: &'static str) -> Migrator {
    let numbered = (1..).zip(steps).map(|(version, (name, sql))| {
        Migration::new(
            version,
            Cow::Borrowed(name),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(numbered.collect());
    migrator.dangerous_set_table_name(table);
    migrator
}
