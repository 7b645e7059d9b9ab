//! Deleting what has had its time, and figures that tell of trouble.
//!
//! A deletion locks old rows and the row of `feed_expired`. Producers insert rows of their own and
//! the sequencer locks `feed_state`, so neither waits for it.

use std::time::Duration;

use sqlx::Row as _;

use super::Postgres;
use crate::store::rows::parse_ulid;
use crate::store::{Expired, Expiry, HeldBy, Overdue, Portion, StoreError, Vitals};

/// No row while another process deletes.
const BEGINNING: &str = "SELECT seq FROM herald.feed_expired FOR UPDATE SKIP LOCKED";

/// Whether the ledger row `d` keeps its event; `$2` is how long a dead letter does, in seconds. A
/// CASE, so that the row is found by its key: with stale statistics an index of all that is
/// pending may seem to be the shorter way to one event's rows.
macro_rules! holds {
    () => {
        "CASE d.state
             WHEN 'pending' THEN true
             WHEN 'dead' THEN $2::float8 IS NULL
                  OR d.updated_at > clock_timestamp() - $2 * interval '1 second'
             ELSE false
         END"
    };
}

/// The feed's oldest events, and whether each must stay. Those that a sink has yet to come to are
/// left out.
const OLDEST: &str = concat!(
    "SELECT f.seq, e.id, e.event_id,
            e.created_at > clock_timestamp() - $3 * interval '1 second'
            OR EXISTS (SELECT FROM herald.deliveries d WHERE d.event_id = e.event_id AND ",
    holds!(),
    ")
    FROM herald.feed f JOIN herald.events e ON e.id = f.aggregate_id
    WHERE f.seq > $1
      AND f.seq <= (SELECT coalesce(min(seq), 9223372036854775807) FROM herald.checkpoints)
    ORDER BY f.seq LIMIT $4"
);

/// A row that became pending since [`OLDEST`] was asked is left, and found by [`ANY_LEFT`].
const DELETE_DELIVERIES: &str = concat!(
    "DELETE FROM herald.deliveries d
    WHERE d.ctid = ANY (ARRAY(
              SELECT ctid FROM herald.deliveries WHERE event_id = ANY ($1) LIMIT $3))
      AND NOT ",
    holds!()
);

const ANY_LEFT: &str = "SELECT EXISTS (SELECT FROM herald.deliveries WHERE event_id = ANY ($1))";

const DELETE_FEED: &str = "DELETE FROM herald.feed WHERE seq > $1 AND seq <= $2";

const DELETE_EVENTS: &str = "DELETE FROM herald.events WHERE id = ANY ($1)";

const MOVE_BEGINNING: &str = "UPDATE herald.feed_expired SET seq = $1";

/// The oldest event, for how long its time has been up, and a sink of each kind that holds it.
const OVERDUE: &str = concat!(
    "SELECT e.event_id, extract(epoch FROM clock_timestamp() - e.created_at)::float8 - $1,
            (SELECT c.sink FROM herald.checkpoints c WHERE c.seq < f.seq
             ORDER BY c.seq, c.sink LIMIT 1),
            (SELECT min(d.sink) FROM herald.deliveries d
             WHERE d.event_id = e.event_id AND d.state = 'pending'),
            (SELECT min(d.sink) FROM herald.deliveries d
             WHERE d.event_id = e.event_id AND ",
    holds!(),
    ")
    FROM herald.feed f JOIN herald.events e ON e.id = f.aggregate_id
    WHERE f.seq > (SELECT seq FROM herald.feed_expired) ORDER BY f.seq LIMIT 1"
);

/// Each part by its own partial index.
const GIVE_UP: &str = "
DELETE FROM herald.deliveries
WHERE ctid = ANY (ARRAY(
          (SELECT ctid FROM herald.deliveries WHERE sink = $1 AND state = 'pending' LIMIT $2)
          UNION ALL
          (SELECT ctid FROM herald.deliveries WHERE sink = $1 AND state = 'dead' LIMIT $2)
          LIMIT $2))
  AND state IN ('pending', 'dead')";

const OLDEST_PENDING: &str = "
SELECT c.sink, extract(epoch FROM clock_timestamp() - (
           SELECT min(d.created_at) FROM herald.deliveries d
           WHERE d.sink = c.sink AND d.state = 'pending'))::float8
FROM herald.checkpoints c";

/// Sessions, replication slots and prepared transactions all can keep vacuum from removing dead
/// rows. A session's numbers are shown to every role; an autovacuum worker's own count for nobody.
const OLDEST_XMIN: &str = "
SELECT coalesce(greatest(
    (SELECT max(greatest(age(backend_xmin), age(backend_xid))) FROM pg_stat_activity
     WHERE (datname = current_database() OR datname IS NULL)
       AND backend_type IS DISTINCT FROM 'autovacuum worker'),
    (SELECT max(greatest(age(xmin), age(catalog_xmin))) FROM pg_replication_slots),
    (SELECT max(age(transaction)) FROM pg_prepared_xacts WHERE database = current_database())
), 0)::bigint";

impl Postgres {
    /// An event whose ledger rows fill the portion goes with a later call, once they are gone. A
    /// row that appears meanwhile (a dead letter is replayed) undoes the whole of this call.
    pub(super) async fn delete_old(
        &self,
        expiry: &Expiry,
        portion: Portion,
    ) -> Result<Expired, StoreError> {
        let dead = expiry.dead.map(|limit| limit.as_secs_f64());
        let mut transaction = self.begin().await?;
        let Some(row) = sqlx::query(BEGINNING)
            .fetch_optional(&mut *transaction)
            .await?
        else {
            return Ok(Expired::default());
        };
        let beginning: i64 = row.try_get(0)?;
        let rows = sqlx::query(OLDEST)
            .bind(beginning)
            .bind(dead)
            .bind(expiry.events.as_secs_f64())
            .bind(limited(portion.events))
            .fetch_all(&mut *transaction)
            .await?;
        let (mut last, mut ids, mut event_ids) = (beginning, Vec::new(), Vec::new());
        for row in &rows {
            if row.try_get(3)? {
                break;
            }
            last = row.try_get(0)?;
            ids.push(row.try_get::<i64, _>(1)?);
            event_ids.push(row.try_get::<String, _>(2)?);
        }
        if ids.is_empty() {
            return Ok(Expired::default());
        }
        let deliveries = sqlx::query(DELETE_DELIVERIES)
            .bind(&event_ids)
            .bind(dead)
            .bind(limited(portion.deliveries))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        let mut expired = Expired {
            events: 0,
            deliveries,
            more: true,
        };
        if deliveries >= portion.deliveries as u64 {
            transaction.commit().await?;
            return Ok(expired);
        }
        let left: bool = sqlx::query(ANY_LEFT)
            .bind(&event_ids)
            .fetch_one(&mut *transaction)
            .await?
            .try_get(0)?;
        if left {
            transaction.rollback().await?;
            return Ok(Expired::default());
        }
        sqlx::query(DELETE_FEED)
            .bind(beginning)
            .bind(last)
            .execute(&mut *transaction)
            .await?;
        expired.events = sqlx::query(DELETE_EVENTS)
            .bind(&ids)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        sqlx::query(MOVE_BEGINNING)
            .bind(last)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        expired.more = ids.len() == portion.events;
        Ok(expired)
    }

    pub(super) async fn read_overdue(
        &self,
        expiry: &Expiry,
    ) -> Result<Option<Overdue>, StoreError> {
        let row = sqlx::query(OVERDUE)
            .bind(expiry.events.as_secs_f64())
            .bind(expiry.dead.map(|limit| limit.as_secs_f64()))
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        // Less than nothing: its time is not up.
        let Ok(by) = Duration::try_from_secs_f64(row.try_get(1)?) else {
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
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn read_vitals(&self) -> Result<Vitals, StoreError> {
        let rows = sqlx::query(OLDEST_PENDING).fetch_all(&self.pool).await?;
        let mut oldest_pending = Vec::new();
        for row in &rows {
            if let Some(seconds) = row.try_get::<Option<f64>, _>(1)? {
                let age = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                oldest_pending.push((row.try_get(0)?, age));
            }
        }
        let oldest_xmin_age = sqlx::query(OLDEST_XMIN)
            .fetch_one(&self.pool)
            .await?
            .try_get(0)?;
        Ok(Vitals {
            oldest_pending,
            oldest_xmin_age,
        })
    }
}

fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
