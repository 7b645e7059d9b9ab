//! Deleting what has had its time, and figures that tell of trouble.
//!
//! SQLite has one writer at a time, so that a deletion is short rather than out of the way.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Row as _, SqliteExecutor};

use super::{Sqlite, json, limited, stamp};
use crate::store::rows::parse_ulid;
use crate::store::{Expired, Expiry, HeldBy, Overdue, Portion, StoreError, Vitals};

const BEGINNING: &str = "SELECT seq FROM feed_expired";

/// Whether the ledger row `d` keeps its event; `?1` is until when it must have died not to.
macro_rules! holds {
    () => {
        "(d.state = 'pending' OR d.state = 'dead' AND (?1 IS NULL OR d.updated_at > ?1))"
    };
}

/// The feed's oldest events, and whether each must stay. Those that a sink has yet to come to are
/// left out.
const OLDEST: &str = concat!(
    "SELECT f.seq, e.id, e.event_id,
            e.created_at > ?2
            OR EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.event_id AND ",
    holds!(),
    ")
    FROM feed f JOIN events e ON e.id = f.aggregate_id
    WHERE f.seq > (SELECT seq FROM feed_expired)
      AND f.seq <= (SELECT coalesce(min(seq), 9223372036854775807) FROM checkpoints)
    ORDER BY f.seq LIMIT ?3"
);

const DELETE_DELIVERIES: &str = "
DELETE FROM deliveries WHERE rowid IN (
    SELECT rowid FROM deliveries WHERE event_id IN (SELECT value FROM json_each(?1)) LIMIT ?2)";

const DELETE_FEED: &str = "DELETE FROM feed WHERE seq > ?1 AND seq <= ?2";

const DELETE_EVENTS: &str = "DELETE FROM events WHERE id IN (SELECT value FROM json_each(?1))";

const MOVE_BEGINNING: &str = "UPDATE feed_expired SET seq = ?1";

/// The oldest event, its time, and a sink of each kind that holds it.
const OVERDUE: &str = concat!(
    "SELECT e.event_id, e.created_at,
            (SELECT c.sink FROM checkpoints c WHERE c.seq < f.seq ORDER BY c.seq, c.sink LIMIT 1),
            (SELECT min(d.sink) FROM deliveries d
             WHERE d.event_id = e.event_id AND d.state = 'pending'),
            (SELECT min(d.sink) FROM deliveries d WHERE d.event_id = e.event_id AND ",
    holds!(),
    ")
    FROM feed f JOIN events e ON e.id = f.aggregate_id
    WHERE f.seq > (SELECT seq FROM feed_expired) ORDER BY f.seq LIMIT 1"
);

/// Each part by its own partial index.
const GIVE_UP: &str = "
DELETE FROM deliveries WHERE rowid IN (
    SELECT rowid FROM deliveries WHERE sink = ?1 AND state = 'pending'
    UNION ALL
    SELECT rowid FROM deliveries WHERE sink = ?1 AND state = 'dead'
    LIMIT ?2)";

const OLDEST_PENDING: &str = "
SELECT c.sink, (SELECT min(d.created_at) FROM deliveries d
                WHERE d.sink = c.sink AND d.state = 'pending')
FROM checkpoints c";

/// Events to be deleted, from the feed's beginning on.
#[derive(Default)]
struct Old {
    last: i64,
    ids: Vec<i64>,
    event_ids: Vec<String>,
}

impl Sqlite {
    /// An event whose ledger rows fill the portion goes with a later call, once they are gone.
    pub(super) async fn delete_old(
        &self,
        expiry: &Expiry,
        portion: Portion,
    ) -> Result<Expired, StoreError> {
        // Looking takes no lock.
        if read_old(&self.readers, expiry, 1).await?.ids.is_empty() {
            return Ok(Expired::default());
        }
        let mut transaction = self.begin().await?;
        let old = read_old(&mut *transaction, expiry, portion.events).await?;
        let deliveries = sqlx::query(DELETE_DELIVERIES)
            .bind(json(&old.event_ids)?)
            .bind(limited(portion.deliveries))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        let mut expired = Expired {
            events: 0,
            deliveries,
            more: true,
        };
        if deliveries < portion.deliveries as u64 && !old.ids.is_empty() {
            let beginning: i64 = sqlx::query(BEGINNING)
                .fetch_one(&mut *transaction)
                .await?
                .try_get(0)?;
            sqlx::query(DELETE_FEED)
                .bind(beginning)
                .bind(old.last)
                .execute(&mut *transaction)
                .await?;
            expired.events = sqlx::query(DELETE_EVENTS)
                .bind(json(&old.ids)?)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            sqlx::query(MOVE_BEGINNING)
                .bind(old.last)
                .execute(&mut *transaction)
                .await?;
            expired.more = old.ids.len() == portion.events;
        }
        transaction.commit().await?;
        Ok(expired)
    }

    pub(super) async fn read_overdue(
        &self,
        expiry: &Expiry,
    ) -> Result<Option<Overdue>, StoreError> {
        let row = sqlx::query(OVERDUE)
            .bind(expiry.dead.map(before_now))
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let created_at: DateTime<Utc> = row.try_get(1)?;
        let age = (Utc::now() - created_at).to_std().unwrap_or_default();
        let Some(by) = age.checked_sub(expiry.events) else {
            return Ok(None);
        };
        let checkpoint: Option<String> = row.try_get(2)?;
        let pending: Option<String> = row.try_get(3)?;
        let dead: Option<String> = row.try_get(4)?;
        Ok(Some(Overdue {
            event_id: parse_ulid(row.try_get(0)?)?,
            by,
            held_by: checkpoint
                .map(HeldBy::Checkpoint)
                .or(pending.map(HeldBy::Pending))
                .or(dead.map(HeldBy::Dead)),
        }))
    }

    pub(super) async fn delete_unfinished(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(GIVE_UP)
            .bind(sink)
            .bind(limited(limit))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }

    /// There is no vacuum that an old transaction could hold back.
    pub(super) async fn read_vitals(&self) -> Result<Vitals, StoreError> {
        let rows = sqlx::query(OLDEST_PENDING).fetch_all(&self.readers).await?;
        let mut vitals = Vitals::default();
        for row in &rows {
            if let Some(since) = row.try_get::<Option<DateTime<Utc>>, _>(1)? {
                let age = (Utc::now() - since).to_std().unwrap_or_default();
                vitals.oldest_pending.push((row.try_get(0)?, age));
            }
        }
        Ok(vitals)
    }
}

async fn read_old(
    connection: impl SqliteExecutor<'_>,
    expiry: &Expiry,
    limit: usize,
) -> Result<Old, StoreError> {
    let rows = sqlx::query(OLDEST)
        .bind(expiry.dead.map(before_now))
        .bind(before_now(expiry.events))
        .bind(limited(limit))
        .fetch_all(connection)
        .await?;
    let mut old = Old::default();
    for row in &rows {
        if row.try_get(3)? {
            break;
        }
        old.last = row.try_get(0)?;
        old.ids.push(row.try_get(1)?);
        old.event_ids.push(row.try_get(2)?);
    }
    Ok(old)
}

/// So long ago, as the columns have times. Longer than any calendar is the calendar's beginning.
fn before_now(ago: Duration) -> String {
    let time = chrono::Duration::from_std(ago)
        .ok()
        .and_then(|ago| Utc::now().checked_sub_signed(ago));
    stamp(time.unwrap_or(DateTime::<Utc>::MIN_UTC))
}
