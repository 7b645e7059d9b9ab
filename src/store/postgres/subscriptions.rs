//! Push subscriptions.

use herald_contract::Subscription;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use ulid::Ulid;

use super::Postgres;
use crate::store::StoreError;
use crate::store::rows::{Columns as _, parse_ulid, strings};

const UPSERT: &str = "
INSERT INTO herald.push_subscriptions (id, tenant_id, user_id, endpoint, p256dh, auth, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, endpoint) DO UPDATE SET
    user_id = excluded.user_id, p256dh = excluded.p256dh, auth = excluded.auth
RETURNING id";

const DELETE: &str = "DELETE FROM herald.push_subscriptions WHERE tenant_id = $1 AND endpoint = $2";

const DELETE_BY_ID: &str = "DELETE FROM herald.push_subscriptions WHERE id = $1";

const OF_TENANTS: &str = "
SELECT id, tenant_id, user_id, endpoint, p256dh, auth, created_at
FROM herald.push_subscriptions WHERE tenant_id = ANY ($1)";

const BY_IDS: &str = "
SELECT id, tenant_id, user_id, endpoint, p256dh, auth, created_at
FROM herald.push_subscriptions WHERE id = ANY ($1)";

impl Postgres {
    pub(super) async fn upsert_subscription(&self, s: &Subscription) -> Result<Ulid, StoreError> {
        let mut transaction = self.begin_as(&s.tenant_id).await?;
        let row = sqlx::query(UPSERT)
            .bind(s.id.to_string())
            .bind(&s.tenant_id)
            .bind(&s.user_id)
            .bind(&s.endpoint)
            .bind(&s.p256dh)
            .bind(&s.auth)
            .bind(s.created_at)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(parse_ulid(row.try_get(0)?)?)
    }

    pub(super) async fn delete_subscription(
        &self,
        tenant: &str,
        endpoint: &str,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin_as(tenant).await?;
        let done = sqlx::query(DELETE)
            .bind(tenant)
            .bind(endpoint)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn delete_subscription_by_id(&self, id: Ulid) -> Result<(), StoreError> {
        sqlx::query(DELETE_BY_ID)
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(super) async fn read_subscriptions_of(
        &self,
        tenants: &[&str],
    ) -> Result<Vec<Subscription>, StoreError> {
        let rows = sqlx::query(OF_TENANTS)
            .bind(tenants)
            .fetch_all(&self.pool)
            .await?;
        subscriptions(&rows)
    }

    pub(super) async fn read_subscriptions(
        &self,
        ids: &[Ulid],
    ) -> Result<Vec<Subscription>, StoreError> {
        let rows = sqlx::query(BY_IDS)
            .bind(strings(ids))
            .fetch_all(&self.pool)
            .await?;
        subscriptions(&rows)
    }
}

fn subscriptions(rows: &[PgRow]) -> Result<Vec<Subscription>, StoreError> {
    rows.iter().map(|row| Ok(row.subscription()?)).collect()
}
