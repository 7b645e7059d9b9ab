//! Reading the feed: for brokers by `seq`, for clients by tenant.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use herald_contract::{Cursor, Event, TypeFilter};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteExecutor};
use ulid::Ulid;

use super::{Sqlite, json, limited};
use crate::store::rows::{Columns as _, parse_ulid};
use crate::store::{Backlog, FeedHead, PageQuery, Resolved, StoreError, latest_of};

const FEED: &str = "
SELECT f.seq, e.id, e.event_id, e.tenant_id, e.type, e.payload, e.metadata, e.created_at
FROM feed f JOIN events e ON e.id = f.aggregate_id
WHERE f.seq > ?1 ORDER BY f.seq LIMIT ?2";

/// A tenant's feed up to its order.
macro_rules! page {
    () => {
        "SELECT f.seq, e.id, e.event_id, e.tenant_id, e.type, e.payload, e.metadata, e.created_at
        FROM feed f JOIN events e ON e.id = f.aggregate_id
        WHERE f.tenant_id = ?1 AND f.seq > ?2 AND f.seq <= ?3
          AND (?4 OR e.type IN (SELECT value FROM json_each(?5)) OR EXISTS (
              SELECT 1 FROM json_each(?6) AS prefix
              WHERE substr(e.type, 1, length(prefix.value)) = prefix.value))"
    };
}

const PAGE: &str = concat!(page!(), " ORDER BY f.seq LIMIT ?7");

const PAGE_NEWEST_FIRST: &str = concat!(page!(), " ORDER BY f.seq DESC LIMIT ?7");

const HEAD: &str = "SELECT s.epoch, s.seq, x.seq FROM feed_state s CROSS JOIN feed_expired x";

const NEW_EPOCH: &str = "
UPDATE feed_state SET epoch = lower(hex(randomblob(16))) WHERE epoch = ?1
RETURNING epoch, seq, (SELECT seq FROM feed_expired)";

/// Counting stops at a million, so that a long backlog costs no more than that.
const BACKLOG: &str = "
SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 1000000)),
       (SELECT created_at FROM events WHERE id = (SELECT min(aggregate_id) FROM outbox))";

/// The feed has the event, or the event alone is there.
const RESOLVE: &str = "
SELECT f.seq FROM events e LEFT JOIN feed f ON f.aggregate_id = e.id
WHERE e.tenant_id = ?1 AND (e.id = ?2 OR e.event_id = ?3)";

const LATEST: &str = "
SELECT event_id FROM (
    SELECT e.event_id, e.type, f.seq FROM feed f JOIN events e ON e.id = f.aggregate_id
    WHERE f.tenant_id = ?1 AND f.seq <= ?2 ORDER BY f.seq DESC LIMIT ?6) AS last
ORDER BY (?3 OR last.type IN (SELECT value FROM json_each(?4)) OR EXISTS (
    SELECT 1 FROM json_each(?5) AS prefix
    WHERE substr(last.type, 1, length(prefix.value)) = prefix.value)) DESC, seq DESC
LIMIT 1";

const EVENT: &str = "
SELECT coalesce(f.seq, 0), e.id, e.event_id, e.tenant_id, e.type, e.payload, e.metadata,
       e.created_at
FROM events e LEFT JOIN feed f ON f.aggregate_id = e.id
WHERE e.event_id = ?1 AND (?2 IS NULL OR e.tenant_id = ?2)";

/// The feed after a `seq`, as any connection sees it.
pub(super) async fn read_feed(
    connection: impl SqliteExecutor<'_>,
    after: i64,
    limit: usize,
) -> Result<Vec<Arc<Event>>, StoreError> {
    let rows = sqlx::query(FEED)
        .bind(after)
        .bind(limited(limit))
        .fetch_all(connection)
        .await?;
    events(&rows)
}

impl Sqlite {
    pub(super) async fn read_page(
        &self,
        query: &PageQuery<'_>,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let statement = if query.newest_first {
            PAGE_NEWEST_FIRST
        } else {
            PAGE
        };
        let rows = sqlx::query(statement)
            .bind(query.tenant)
            .bind(query.after)
            .bind(query.upto)
            .bind(query.types.wants_all())
            .bind(json(&query.types.exact)?)
            .bind(json(&query.types.prefixes)?)
            .bind(limited(query.limit))
            .fetch_all(&self.readers)
            .await?;
        events(&rows)
    }

    pub(super) async fn read_head(&self) -> Result<FeedHead, StoreError> {
        head(&sqlx::query(HEAD).fetch_one(&self.readers).await?)
    }

    pub(super) async fn replace_epoch(&self, old: &str) -> Result<FeedHead, StoreError> {
        let replaced = sqlx::query(NEW_EPOCH)
            .bind(old)
            .fetch_optional(&self.writer)
            .await?;
        match replaced {
            Some(row) => head(&row),
            None => self.read_head().await,
        }
    }

    pub(super) async fn read_backlog(&self) -> Result<Backlog, StoreError> {
        let row = sqlx::query(BACKLOG).fetch_one(&self.readers).await?;
        let oldest: Option<DateTime<Utc>> = row.try_get(1)?;
        Ok(Backlog {
            pending: row.try_get(0)?,
            // A time that is still to come is no age.
            oldest: oldest
                .and_then(|at| (Utc::now() - at).to_std().ok())
                .unwrap_or_default(),
        })
    }

    /// Each part that is given is looked up; the further place wins.
    pub(super) async fn resolve_cursor(
        &self,
        tenant: &str,
        cursor: Cursor,
    ) -> Result<Resolved, StoreError> {
        let beginning = cursor.after == Some(0) || cursor.event_id.is_some_and(|id| id.is_nil());
        let rows = sqlx::query(RESOLVE)
            .bind(tenant)
            .bind(cursor.after)
            .bind(cursor.event_id.map(|id| id.to_string()))
            .fetch_all(&self.readers)
            .await?;
        let mut found = if beginning {
            Resolved::At(0)
        } else {
            Resolved::Unknown
        };
        for row in &rows {
            let seq: Option<i64> = row.try_get(0)?;
            found = found.further(Some(seq.map_or(Resolved::Waiting, Resolved::At)));
        }
        Ok(found)
    }

    pub(super) async fn read_latest(
        &self,
        tenant: &str,
        types: &TypeFilter,
        upto: i64,
    ) -> Result<Option<Ulid>, StoreError> {
        let row = sqlx::query(LATEST)
            .bind(tenant)
            .bind(upto)
            .bind(types.wants_all())
            .bind(json(&types.exact)?)
            .bind(json(&types.prefixes)?)
            .bind(latest_of(types))
            .fetch_optional(&self.readers)
            .await?;
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
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|row| row.event(0)).transpose()?)
    }
}

fn events(rows: &[SqliteRow]) -> Result<Vec<Arc<Event>>, StoreError> {
    rows.iter().map(|row| Ok(Arc::new(row.event(0)?))).collect()
}

fn head(row: &SqliteRow) -> Result<FeedHead, StoreError> {
    Ok(FeedHead {
        epoch: row.try_get(0)?,
        seq: row.try_get(1)?,
        expired: row.try_get(2)?,
    })
}
