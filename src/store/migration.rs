//! The schema's versions, as both databases keep count of them.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The migrations of one database, and the table in which it notes those that ran.
pub fn migrator(herald: &'static str, table: &'static str) -> Migrator {
    let mut migrator = Migrator::with_migrations(vec![Migration::new(
        1,
        Cow::Borrowed("herald"),
        MigrationType::Simple,
        herald.into_sql_str(),
        false,
    )]);
    migrator.dangerous_set_table_name(table);
    migrator
}
