//! A database of its own for each story, on the private PostgreSQL.

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

/// A fresh, empty database.
#[derive(Debug, Clone)]
pub struct Database {
    pub url: String,
    pub pool: PgPool,
}

impl Database {
    /// `server` is a superuser's URL that ends in `/postgres`.
    pub async fn create(server: &str) -> Self {
        let name = format!(
            "story_{}",
            ulid::Ulid::generate().to_string().to_lowercase()
        );
        let mut admin = PgConnection::connect(server)
            .await
            .expect("PostgreSQL answers");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut admin)
            .await
            .expect("a database can be made");
        admin.close().await.expect("closes");
        let base = server.strip_suffix("/postgres").expect("ends in /postgres");
        Self::at(&format!("{base}/{name}")).await
    }

    /// A database that exists.
    pub async fn at(url: &str) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(12)
            .connect(url)
            .await
            .expect("the database answers");
        Self {
            url: url.to_owned(),
            pool,
        }
    }

    /// The same with new connections.
    pub async fn again(&self) -> Self {
        Self::at(&self.url).await
    }

    pub async fn begin(&self) -> Transaction<'static, Postgres> {
        self.pool.begin().await.expect("a transaction begins")
    }

    /// Emits in a transaction of its own.
    pub async fn emit(&self, tenant: &str, kind: &str, payload: &str) -> String {
        let mut tx = self.begin().await;
        let id = emit(&mut tx, tenant, kind, payload).await;
        tx.commit().await.expect("commits");
        id
    }
}

/// Emits as an application does: by SQL, inside its own transaction.
pub async fn emit(
    tx: &mut Transaction<'static, Postgres>,
    tenant: &str,
    kind: &str,
    payload: &str,
) -> String {
    sqlx::query_scalar("SELECT herald.emit($1, $2, $3)")
        .bind(tenant)
        .bind(kind)
        .bind(payload)
        .fetch_one(&mut **tx)
        .await
        .expect("herald.emit works")
}
