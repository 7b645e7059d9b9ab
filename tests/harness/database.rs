//! A database of its own for each story, on the private PostgreSQL.

use serde_json::Value;
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

    /// The one number that a query answers.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.pool)
            .await
            .expect("answers")
    }

    /// Emits in a transaction of its own.
    pub async fn emit(&self, tenant: &str, kind: &str, payload: &str) -> String {
        let mut tx = self.begin().await;
        let id = emit(&mut tx, tenant, kind, payload).await;
        tx.commit().await.expect("commits");
        id
    }

    /// Emits orders with these payloads, in this order, in one transaction.
    pub async fn emit_orders(
        &self,
        tenant: &str,
        payloads: impl IntoIterator<Item = Value>,
    ) -> Vec<String> {
        let mut tx = self.begin().await;
        let mut ids = Vec::new();
        for payload in payloads {
            ids.push(emit(&mut tx, tenant, "order.created", &payload.to_string()).await);
        }
        tx.commit().await.expect("commits");
        ids
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
