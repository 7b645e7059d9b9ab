//! Reading the feed: for brokers by `seq`, for clients by tenant.

use std::sync::Arc;
use std::time::Duration;

use herald_contract::{Cursor, Event, TypeFilter};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use ulid::Ulid;

use super::Postgres;
use crate::store::rows::{Columns as _, parse_ulid};
use crate::store::{Backlog, FeedHead, PageQuery, Resolved, StoreError, latest_of};

/// It does not begin at 0: until vacuum has come, the index still has what was deleted there.
const FEED: &str = "
SELECT f.seq, e.id, e.event_id, e.tenant_id, e.type, e.payload::text, e.metadata::text,
       e.created_at
FROM herald.feed f JOIN herald.events e ON e.id = f.aggregate_id
WHERE f.seq > greatest($1, (SELECT seq FROM herald.feed_expired)) ORDER BY f.seq LIMIT $2";

const PAGE: &str = "
SELECT f.seq, e.id, e.event_id, e.tenant_id, e.type, e.payload::text, e.metadata::text,
       e.created_at
FROM herald.feed f JOIN herald.events e ON e.id = f.aggregate_id
WHERE f.tenant_id = $1 AND f.seq > $2 AND f.seq <= $3
  AND ($4 OR e.type = ANY ($5) OR EXISTS (
      SELECT FROM unnest($6::text[]) AS prefix WHERE starts_with(e.type, prefix)))
ORDER BY f.seq LIMIT $7";

const PAGE_NEWEST_FIRST: &str = "
SELECT f.seq, e.id, e.event_id, e.tenant_id, e.type, e.payload::text, e.metadata::text,
       e.created_at
FROM herald.feed f JOIN herald.events e ON e.id = f.aggregate_id
WHERE f.tenant_id = $1 AND f.seq > $2 AND f.seq <= $3
  AND ($4 OR e.type = ANY ($5) OR EXISTS (
      SELECT FROM unnest($6::text[]) AS prefix WHERE starts_with(e.type, prefix)))
ORDER BY f.seq DESC LIMIT $7";

const HEAD: &str =
    "SELECT s.epoch, s.seq, x.seq FROM herald.feed_state s CROSS JOIN herald.feed_expired x";

const NEW_EPOCH: &str = "
UPDATE herald.feed_state SET epoch = herald.ulid() WHERE epoch = $1
RETURNING epoch, seq, (SELECT seq FROM herald.feed_expired)";

/// Counting stops at a million, so that a long backlog costs no more than that.
const BACKLOG: &str = "
SELECT (SELECT count(*) FROM (SELECT FROM herald.outbox LIMIT 1000000) AS waiting),
       coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at)::float8
                 FROM herald.events
                 WHERE id = (SELECT min(aggregate_id) FROM herald.outbox)), 0)";

/// The feed has the event, or the event alone is there.
const RESOLVE_ID: &str = "
SELECT f.seq FROM herald.events e LEFT JOIN herald.feed f ON f.aggregate_id = e.id
WHERE e.tenant_id = $1 AND e.id = $2";

const RESOLVE_EVENT_ID: &str = "
SELECT f.seq FROM herald.events e LEFT JOIN herald.feed f ON f.aggregate_id = e.id
WHERE e.tenant_id = $1 AND e.event_id = $2";

const LATEST: &str = "
SELECT event_id FROM (
    SELECT e.event_id, e.type, f.seq
    FROM herald.feed f JOIN herald.events e ON e.id = f.aggregate_id
    WHERE f.tenant_id = $1 AND f.seq <= $2 ORDER BY f.seq DESC LIMIT $6) AS last
ORDER BY ($3 OR type = ANY ($4) OR EXISTS (
    SELECT FROM unnest($5::text[]) AS prefix WHERE starts_with(type, prefix))) DESC, seq DESC
LIMIT 1";

const EVENT: &str = "
SELECT coalesce(f.seq, 0), e.id, e.event_id, e.tenant_id, e.type, e.payload::text,
       e.metadata::text, e.created_at
FROM herald.events e LEFT JOIN herald.feed f ON f.aggregate_id = e.id
WHERE e.event_id = $1 AND ($2::text IS NULL OR e.tenant_id = $2)";

impl Postgres {
    pub(super) async fn read_feed(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let rows = sqlx::query(FEED)
            .bind(after)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        events(&rows)
    }

    pub(super) async fn read_page(
        &self,
        query: &PageQuery<'_>,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let statement = if query.newest_first {
            PAGE_NEWEST_FIRST
        } else {
            PAGE
        };
        let mut transaction = self.begin_as(query.tenant).await?;
        let rows = sqlx::query(statement)
            .bind(query.tenant)
            .bind(query.after)
            .bind(query.upto)
            .bind(query.types.wants_all())
            .bind(&query.types.exact)
            .bind(&query.types.prefixes)
            .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        events(&rows)
    }

    pub(super) async fn read_head(&self) -> Result<FeedHead, StoreError> {
        head(&sqlx::query(HEAD).fetch_one(&self.pool).await?)
    }

    pub(super) async fn replace_epoch(&self, old: &str) -> Result<FeedHead, StoreError> {
        let replaced = sqlx::query(NEW_EPOCH)
            .bind(old)
            .fetch_optional(&self.pool)
            .await?;
        match replaced {
            Some(row) => head(&row),
            None => self.read_head().await,
        }
    }

    pub(super) async fn read_backlog(&self) -> Result<Backlog, StoreError> {
        let row = sqlx::query(BACKLOG).fetch_one(&self.pool).await?;
        Ok(Backlog {
            pending: row.try_get(0)?,
            oldest: Duration::try_from_secs_f64(row.try_get(1)?).unwrap_or_default(),
        })
    }

    /// Each part that is given is looked up; the further place wins, a waiting event is further
    /// than any sequenced one.
    pub(super) async fn resolve_cursor(
        &self,
        tenant: &str,
        cursor: Cursor,
    ) -> Result<Resolved, StoreError> {
        let mut transaction = self.begin_as(tenant).await?;
        let mut found = Resolved::Unknown;
        if let Some(after) = cursor.after {
            let row = match after {
                0 => Some(Resolved::At(0)),
                _ => sqlx::query(RESOLVE_ID)
                    .bind(tenant)
                    .bind(after)
                    .fetch_optional(&mut *transaction)
                    .await?
                    .map(|row| resolved(&row))
                    .transpose()?,
            };
            found = found.further(row);
        }
        if let Some(id) = cursor.event_id {
            let row = match id {
                Ulid(0) => Some(Resolved::At(0)),
                _ => sqlx::query(RESOLVE_EVENT_ID)
                    .bind(tenant)
                    .bind(id.to_string())
                    .fetch_optional(&mut *transaction)
                    .await?
                    .map(|row| resolved(&row))
                    .transpose()?,
            };
            found = found.further(row);
        }
        transaction.commit().await?;
        Ok(found)
    }

    pub(super) async fn read_latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, StoreError> {
        let mut transaction = self.begin_as(tenant).await?;
        let row = sqlx::query(LATEST)
            .bind(tenant)
            .bind(upto)
            .bind(types.wants_all())
            .bind(&types.exact)
            .bind(&types.prefixes)
            .bind(latest_of(types))
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(row.map(|row| parse_ulid(row.try_get(0)?)).transpose()?)
    }

    pub(super) async fn read_event(
        &self,
        id: Ulid,
        tenant: Option<&str>,
    ) -> Result<Option<Event>, StoreError> {
        let row = sqlx::query(EVENT)
            .bind(id.to_string())
            .bind(tenant)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.event(0)).transpose()?)
    }
}

fn events(rows: &[PgRow]) -> Result<Vec<Arc<Event>>, StoreError> {
    rows.iter().map(|row| Ok(Arc::new(row.event(0)?))).collect()
}

fn head(row: &PgRow) -> Result<FeedHead, StoreError> {
    Ok(FeedHead {
        epoch: row.try_get(0)?,
        seq: row.try_get(1)?,
        expired: row.try_get(2)?,
    })
}

fn resolved(row: &PgRow) -> Result<Resolved, StoreError> {
    Ok(row
        .try_get::<Option<i64>, _>(0)?
        .map_or(Resolved::Waiting, Resolved::At))
}
