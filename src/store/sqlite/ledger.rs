//! The ledger's statements.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use ulid::Ulid;

use super::{Sqlite, json, limited, stamp};
use crate::store::rows::{
    Columns as _, count, history, history_json, ledger_columns, none_before, parse_ulid, storable,
    strings,
};
use crate::store::{
    DeadFilter, Due, LedgerRow, LedgerWrite, SinkCounts, State, StoreError, WaitsFor,
};

const KNOWN: &str = "
SELECT event_id, recipient FROM deliveries
WHERE event_id IN (SELECT value FROM json_each(?2)) AND sink = ?1";

/// Where a batch names a delivery twice, what is final comes first and stays; of what is pending
/// the later one of most attempts comes last and counts.
const RECORD: &str = "
INSERT INTO deliveries
    (sink, event_id, recipient, tenant_id, state, attempts, next_attempt_at, cause, response,
     history, destination, waits_for, order_key, order_seq, untold, created_at, updated_at)
SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
       value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11,
       value ->> 12, CASE value ->> 3 WHEN 'dead' THEN 1 END, ?3, ?3
FROM json_each(?2)
WHERE NOT (value ->> 13 AND EXISTS (
    SELECT 1 FROM deliveries d
    WHERE d.event_id = value ->> 0 AND d.sink = ?1 AND d.recipient = value ->> 1))
ORDER BY value ->> 3 = 'pending', CASE value ->> 3 WHEN 'pending' THEN value ->> 4 END, key
ON CONFLICT (event_id, sink, recipient) DO UPDATE SET
    state = excluded.state, attempts = max(deliveries.attempts, excluded.attempts),
    next_attempt_at = excluded.next_attempt_at, cause = excluded.cause,
    response = excluded.response, history = excluded.history, updated_at = excluded.updated_at,
    destination = excluded.destination, waits_for = excluded.waits_for, untold = excluded.untold
WHERE deliveries.state = 'pending'
  AND (excluded.state <> 'pending' OR excluded.attempts >= deliveries.attempts)";

const ANY_DUE: &str = "
SELECT EXISTS (SELECT 1 FROM deliveries
               WHERE sink = ?1 AND state = 'pending' AND next_attempt_at <= ?2)";

/// The pending rows whose time has come; read and then put off within one transaction, in which
/// nobody else writes.
macro_rules! due {
    () => {
        concat!(
            "(SELECT o.rowid FROM deliveries o
              WHERE o.sink = ?1 AND o.state = 'pending' AND o.next_attempt_at <= ?2
                AND (o.order_key IS NULL OR ((?4 IS NULL OR o.order_seq <= ?4) AND ",
            none_before!("", "o"),
            "))
              ORDER BY o.next_attempt_at, o.rowid LIMIT ?3)"
        )
    };
}

const DUE: &str = concat!(
    "SELECT d.recipient, d.attempts, d.history, d.destination, d.order_key, coalesce(f.seq, 0),
            e.id, e.event_id, e.tenant_id, e.type, e.payload, e.metadata, e.created_at
    FROM deliveries d JOIN events e ON e.event_id = d.event_id
    LEFT JOIN feed f ON f.aggregate_id = e.id
    WHERE d.rowid IN ",
    due!(),
    " ORDER BY f.seq"
);

const PUT_OFF: &str = concat!(
    "UPDATE deliveries SET next_attempt_at = ?5, waits_for = NULL WHERE rowid IN ",
    due!()
);

const WAIT: &str = "
SELECT min(next_attempt_at) FROM deliveries WHERE sink = ?1 AND state = 'pending'";

const DELIVERIES: &str = concat!(
    "SELECT ",
    ledger_columns!(),
    " FROM deliveries d LEFT JOIN events e ON e.event_id = d.event_id
    WHERE d.event_id = ?1 ORDER BY d.created_at, d.sink, d.recipient"
);

/// Two counts, each by its own partial index.
const COUNTS: &str = "
SELECT sink, sum(retrying), sum(dead) FROM (
    SELECT sink, count(*) AS retrying, 0 AS dead FROM deliveries
    WHERE state = 'pending' GROUP BY sink
    UNION ALL
    SELECT sink, 0, count(*) FROM deliveries WHERE state = 'dead' GROUP BY sink
) GROUP BY sink";

/// The dead letters that a [`DeadFilter`] means, bound by [`filtered`]. SQLite knows the case of
/// ASCII letters only.
macro_rules! dead_from {
    () => {
        " FROM deliveries d LEFT JOIN events e ON e.event_id = d.event_id
        WHERE d.state = 'dead'
        AND (?1 IS NULL OR d.sink = ?1)
        AND (?2 IS NULL OR e.type = ?2)
        AND (?3 IS NULL OR substr(e.type, 1, length(?3)) = ?3)
        AND (?4 IS NULL OR d.tenant_id = ?4)
        AND (?5 IS NULL OR d.updated_at >= ?5)
        AND (?6 IS NULL OR instr(lower(d.cause), lower(?6)) > 0)
        AND (?7 IS NULL OR d.event_id = ?7)
        AND (?8 IS NULL OR d.recipient = ?8)"
    };
}

const DEAD: &str = concat!(
    "SELECT ",
    ledger_columns!(),
    dead_from!(),
    " ORDER BY d.updated_at DESC, d.event_id, d.recipient LIMIT ?9"
);

const DEAD_COUNT: &str = concat!("SELECT count(*)", dead_from!());

const DEAD_REPLAY: &str = concat!(
    "UPDATE deliveries
    SET state = 'pending', attempts = 0, next_attempt_at = ?9, updated_at = ?9, untold = NULL
    WHERE rowid IN (SELECT d.rowid",
    dead_from!(),
    ")"
);

const DEAD_DROP: &str = concat!(
    "DELETE FROM deliveries WHERE rowid IN (SELECT d.rowid",
    dead_from!(),
    ")"
);

const UNTOLD: &str = concat!(
    "SELECT ",
    ledger_columns!(),
    " FROM deliveries d LEFT JOIN events e ON e.event_id = d.event_id
    WHERE d.sink = ?1 AND d.untold = 1 ORDER BY d.updated_at, d.rowid LIMIT ?2"
);

const TOLD: &str = "
UPDATE deliveries SET untold = NULL
WHERE untold = 1 AND (sink, event_id, recipient, updated_at) IN
      (SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1))";

impl Sqlite {
    pub(super) async fn read_known(
        &self,
        sink: &str,
        events: &[Ulid],
    ) -> Result<Vec<(Ulid, String)>, StoreError> {
        let rows = sqlx::query(KNOWN)
            .bind(sink)
            .bind(json(&strings(events))?)
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| Ok((parse_ulid(row.try_get(0)?)?, row.try_get(1)?)))
            .collect()
    }

    pub(super) async fn write_ledger(
        &self,
        sink: &str,
        writes: &[LedgerWrite],
    ) -> Result<(), StoreError> {
        let now = Utc::now();
        let rows: Vec<_> = writes.iter().map(|w| columns(w, now)).collect();
        sqlx::query(RECORD)
            .bind(sink)
            .bind(json(&rows)?)
            .bind(stamp(now))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    pub(super) async fn take_due(
        &self,
        sink: &str,
        lease: Duration,
        limit: usize,
        upto: Option<i64>,
    ) -> Result<Vec<Due>, StoreError> {
        let now = Utc::now();
        let any = sqlx::query(ANY_DUE)
            .bind(sink)
            .bind(stamp(now))
            .fetch_one(&self.readers)
            .await?;
        if !any.try_get::<bool, _>(0)? {
            return Ok(Vec::new());
        }
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(DUE)
            .bind(sink)
            .bind(stamp(now))
            .bind(limited(limit))
            .bind(upto)
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query(PUT_OFF)
            .bind(sink)
            .bind(stamp(now))
            .bind(limited(limit))
            .bind(upto)
            .bind(stamp(later(Utc::now(), lease)))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        rows.iter().map(due).collect()
    }

    pub(super) async fn read_wait(&self, sink: &str) -> Result<Option<Duration>, StoreError> {
        let row = sqlx::query(WAIT)
            .bind(sink)
            .fetch_one(&self.readers)
            .await?;
        let next: Option<DateTime<Utc>> = row.try_get(0)?;
        // A time that has passed is no duration from now: it is due.
        Ok(next.map(|at| (at - Utc::now()).to_std().unwrap_or_default()))
    }

    pub(super) async fn read_deliveries(&self, event: Ulid) -> Result<Vec<LedgerRow>, StoreError> {
        let rows = sqlx::query(DELIVERIES)
            .bind(event.to_string())
            .fetch_all(&self.readers)
            .await?;
        ledger_rows(&rows)
    }

    pub(super) async fn read_counts(&self) -> Result<Vec<(String, SinkCounts)>, StoreError> {
        let rows = sqlx::query(COUNTS).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let counts = SinkCounts {
                    retrying: row.try_get(1)?,
                    dead: row.try_get(2)?,
                };
                Ok((row.try_get(0)?, counts))
            })
            .collect()
    }

    pub(super) async fn read_dead(
        &self,
        filter: &DeadFilter,
        limit: usize,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        let rows = filtered(sqlx::query(DEAD), filter)
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await?;
        ledger_rows(&rows)
    }

    pub(super) async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        let row = filtered(sqlx::query(DEAD_COUNT), filter)
            .fetch_one(&self.readers)
            .await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
    }

    pub(super) async fn replay_dead(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        let done = filtered(sqlx::query(DEAD_REPLAY), filter)
            .bind(stamp(Utc::now()))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn delete_dead(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        let done = filtered(sqlx::query(DEAD_DROP), filter)
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn read_untold(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        let rows = sqlx::query(UNTOLD)
            .bind(sink)
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await?;
        ledger_rows(&rows)
    }

    pub(super) async fn mark_told(&self, letters: &[LedgerRow]) -> Result<(), StoreError> {
        let letters: Vec<_> = letters
            .iter()
            .map(|l| {
                (
                    &l.sink,
                    l.event_id.to_string(),
                    &l.recipient,
                    stamp(l.updated_at),
                )
            })
            .collect();
        sqlx::query(TOLD)
            .bind(json(&letters)?)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// A row for [`RECORD`], as a JSON array.
fn columns(write: &LedgerWrite, now: DateTime<Utc>) -> serde_json::Value {
    let next = (write.state == State::Pending).then(|| stamp(later(now, write.retry_in)));
    serde_json::json!([
        write.event_id.to_string(),
        storable(&write.recipient),
        write.tenant_id,
        write.state.as_str(),
        write.attempts,
        next,
        write.cause.as_deref().map(storable),
        write.response.as_deref().map(storable),
        history_json(&write.history),
        write.destination.as_deref().map(storable),
        write.waits_for.map(WaitsFor::as_str),
        write.order.as_ref().map(|(key, _)| &**key),
        write.order.as_ref().map(|(_, seq)| seq),
        write.first && write.state == State::Pending,
    ])
}

/// A wait that no calendar holds ends with the calendar.
fn later(now: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    chrono::Duration::from_std(wait)
        .ok()
        .and_then(|wait| now.checked_add_signed(wait))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn filtered<'q>(query: Query<'q>, filter: &'q DeadFilter) -> Query<'q> {
    let (exact, prefix) = filter.kind_parts();
    query
        .bind(filter.sink.as_deref())
        .bind(exact)
        .bind(prefix)
        .bind(filter.tenant.as_deref())
        .bind(filter.since.map(stamp))
        .bind(filter.cause.as_deref())
        .bind(filter.event_id.map(|id| id.to_string()))
        .bind(filter.recipient.as_deref())
}

fn ledger_rows(rows: &[SqliteRow]) -> Result<Vec<LedgerRow>, StoreError> {
    rows.iter().map(|row| Ok(row.ledger_row()?)).collect()
}

fn due(row: &SqliteRow) -> Result<Due, StoreError> {
    Ok(Due {
        recipient: row.try_get(0)?,
        attempts: count(row.try_get(1)?),
        history: history(row.try_get(2)?)?,
        destination: row.try_get::<Option<&str>, _>(3)?.map(Arc::from),
        order_key: row.try_get::<Option<&str>, _>(4)?.map(Arc::from),
        event: Arc::new(row.event(5)?),
    })
}
