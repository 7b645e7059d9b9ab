//! The ledger's statements.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use ulid::Ulid;

use super::Postgres;
use crate::store::rows::{
    Columns as _, count, history, history_json, ledger_columns, none_before, parse_ulid, storable,
    strings,
};
use crate::store::{
    DeadFilter, Due, LedgerRow, LedgerWrite, SinkCounts, State, StoreError, WaitsFor,
};

const KNOWN: &str = "
SELECT event_id, recipient FROM herald.deliveries WHERE event_id = ANY ($2) AND sink = $1";

/// One of the two inserts of [`RECORD`].
macro_rules! insert {
    ($which:literal) => {
        concat!(
            "
INSERT INTO herald.deliveries AS d
    (sink, event_id, recipient, tenant_id, state, attempts, next_attempt_at, cause, response,
     history, destination, waits_for, order_key, order_seq, untold)
SELECT $1, event_id, recipient, tenant_id, state, attempts,
       CASE state WHEN 'pending' THEN clock_timestamp() + wait * interval '1 second' END,
       cause, response, history, destination, waits_for, order_key, order_seq,
       CASE state WHEN 'dead' THEN true END
FROM given WHERE ",
            $which,
            " ORDER BY event_id, recipient
ON CONFLICT (event_id, sink, recipient) "
        )
    };
}

/// Where a batch names a delivery twice, the first that is final counts; where none is, the later
/// one of most attempts. In the key's order, so that two processes that write the same rows wait
/// for each other and do not deadlock.
const RECORD: &str = concat!(
    "
WITH given AS MATERIALIZED (
    SELECT DISTINCT ON (event_id, recipient) *
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::float8[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
                $14::bigint[], $15::bool[])
         WITH ORDINALITY
         AS t (event_id, recipient, tenant_id, state, attempts, wait, cause, response, history,
               destination, waits_for, order_key, order_seq, only_first, place)
    ORDER BY event_id, recipient, state = 'pending',
             CASE state WHEN 'pending' THEN -attempts END,
             CASE state WHEN 'pending' THEN -place ELSE place END
), first AS (",
    insert!("only_first"),
    "DO NOTHING
)",
    insert!("NOT only_first"),
    "DO UPDATE SET
    state = excluded.state, attempts = greatest(d.attempts, excluded.attempts),
    next_attempt_at = excluded.next_attempt_at, cause = excluded.cause,
    response = excluded.response, history = excluded.history, updated_at = now(),
    destination = excluded.destination, waits_for = excluded.waits_for, untold = excluded.untold
WHERE d.state = 'pending' AND (excluded.state <> 'pending' OR excluded.attempts >= d.attempts)"
);

/// By `now()`, which bounds the index scan; `clock_timestamp()` changes from row to row, so that
/// every pending row would be looked at. Bounded below too: until vacuum has come, the index still
/// has every time at which the rows were due before.
const DUE: &str = concat!(
    "
WITH due AS (
    SELECT event_id, recipient FROM herald.deliveries d
    WHERE sink = $1 AND state = 'pending' AND next_attempt_at <= now()
      AND next_attempt_at > coalesce(now() - $5 * interval '1 second', '-infinity')
      AND (order_key IS NULL OR (($4::bigint IS NULL OR order_seq <= $4) AND ",
    none_before!("herald.", "d"),
    "))
    ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE herald.deliveries d
    SET next_attempt_at = clock_timestamp() + $2 * interval '1 second', waits_for = NULL
    FROM due WHERE d.sink = $1 AND d.event_id = due.event_id AND d.recipient = due.recipient
    RETURNING d.event_id, d.recipient, d.attempts, d.history, d.destination, d.order_key
)
SELECT t.recipient, t.attempts, t.history, t.destination, t.order_key, coalesce(f.seq, 0), e.id,
       e.event_id, e.tenant_id, e.type, e.payload::text, e.metadata::text, e.created_at
FROM taken t JOIN herald.events e ON e.event_id = t.event_id
LEFT JOIN herald.feed f ON f.aggregate_id = e.id
ORDER BY f.seq"
);

const WAIT: &str = "
SELECT extract(epoch FROM min(next_attempt_at) - clock_timestamp())::float8
FROM herald.deliveries WHERE sink = $1 AND state = 'pending'
  AND next_attempt_at > coalesce(now() - $2 * interval '1 second', '-infinity')";

const DELIVERIES: &str = concat!(
    "SELECT ",
    ledger_columns!(),
    " FROM herald.deliveries d LEFT JOIN herald.events e ON e.event_id = d.event_id
    WHERE d.event_id = $1 ORDER BY d.created_at, d.sink, d.recipient"
);

/// Two counts, each by its own partial index.
const COUNTS: &str = "
SELECT sink, sum(retrying)::bigint, sum(dead)::bigint FROM (
    SELECT sink, count(*) AS retrying, 0 AS dead FROM herald.deliveries
    WHERE state = 'pending' GROUP BY sink
    UNION ALL
    SELECT sink, 0, count(*) FROM herald.deliveries WHERE state = 'dead' GROUP BY sink
) AS counted GROUP BY sink";

/// The dead letters that a [`DeadFilter`] means, bound by [`filtered`].
macro_rules! dead_where {
    () => {
        " d.state = 'dead'
        AND ($1::text IS NULL OR d.sink = $1)
        AND ($2::text IS NULL OR e.type = $2)
        AND ($3::text IS NULL OR starts_with(e.type, $3))
        AND ($4::text IS NULL OR d.tenant_id = $4)
        AND ($5::timestamptz IS NULL OR d.updated_at >= $5)
        AND ($6::text IS NULL OR strpos(lower(d.cause), lower($6)) > 0)
        AND ($7::text IS NULL OR d.event_id = $7)
        AND ($8::text IS NULL OR d.recipient = $8)"
    };
}

const DEAD: &str = concat!(
    "SELECT ",
    ledger_columns!(),
    " FROM herald.deliveries d LEFT JOIN herald.events e ON e.event_id = d.event_id WHERE",
    dead_where!(),
    " ORDER BY d.updated_at DESC, d.event_id, d.recipient LIMIT $9"
);

const DEAD_COUNT: &str = concat!(
    "SELECT count(*) FROM herald.deliveries d
    LEFT JOIN herald.events e ON e.event_id = d.event_id WHERE",
    dead_where!()
);

const DEAD_REPLAY: &str = concat!(
    "UPDATE herald.deliveries u
    SET state = 'pending', attempts = 0, next_attempt_at = clock_timestamp(), updated_at = now(),
        untold = NULL
    FROM herald.deliveries d LEFT JOIN herald.events e ON e.event_id = d.event_id
    WHERE u.event_id = d.event_id AND u.sink = d.sink AND u.recipient = d.recipient
      AND u.state = 'dead' AND",
    dead_where!()
);

const DEAD_DROP: &str = concat!(
    "DELETE FROM herald.deliveries u
    USING herald.deliveries d LEFT JOIN herald.events e ON e.event_id = d.event_id
    WHERE u.event_id = d.event_id AND u.sink = d.sink AND u.recipient = d.recipient
      AND u.state = 'dead' AND",
    dead_where!()
);

const UNTOLD: &str = concat!(
    "SELECT ",
    ledger_columns!(),
    " FROM herald.deliveries d LEFT JOIN herald.events e ON e.event_id = d.event_id
    WHERE d.sink = $1 AND d.untold ORDER BY d.updated_at LIMIT $2"
);

const TOLD: &str = "
UPDATE herald.deliveries d SET untold = NULL
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS told (sink, event_id, recipient, died)
WHERE d.sink = told.sink AND d.event_id = told.event_id AND d.recipient = told.recipient
  AND d.untold AND d.updated_at = told.died";

impl Postgres {
    pub(super) async fn read_known(
        &self,
        sink: &str,
        events: &[Ulid],
    ) -> Result<Vec<(Ulid, String)>, StoreError> {
        let rows = sqlx::query(KNOWN)
            .bind(sink)
            .bind(strings(events))
            .fetch_all(&self.pool)
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
        sqlx::query(RECORD)
            .bind(sink)
            .bind(column(writes, |w| w.event_id.to_string()))
            .bind(column(writes, |w| storable(&w.recipient)))
            .bind(column(writes, |w| &*w.tenant_id))
            .bind(column(writes, |w| w.state.as_str()))
            .bind(column(writes, |w| i64::from(w.attempts)))
            .bind(column(writes, |w| w.retry_in.as_secs_f64()))
            .bind(column(writes, |w| w.cause.as_deref().map(storable)))
            .bind(column(writes, |w| w.response.as_deref().map(storable)))
            .bind(column(writes, |w| history_json(&w.history)))
            .bind(column(writes, |w| w.destination.as_deref().map(storable)))
            .bind(column(writes, |w| w.waits_for.map(WaitsFor::as_str)))
            .bind(column(writes, |w| w.order.as_ref().map(|(key, _)| &**key)))
            .bind(column(writes, |w| w.order.as_ref().map(|(_, seq)| *seq)))
            .bind(column(writes, |w| w.first && w.state == State::Pending))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(super) async fn take_due(
        &self,
        sink: &str,
        lease: Duration,
        limit: usize,
        upto: Option<i64>,
        within: Option<Duration>,
    ) -> Result<Vec<Due>, StoreError> {
        let rows = sqlx::query(DUE)
            .bind(sink)
            .bind(lease.as_secs_f64())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(upto)
            .bind(within.map(|within| within.as_secs_f64()))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(due).collect()
    }

    pub(super) async fn read_wait(
        &self,
        sink: &str,
        within: Option<Duration>,
    ) -> Result<Option<Duration>, StoreError> {
        let row = sqlx::query(WAIT)
            .bind(sink)
            .bind(within.map(|within| within.as_secs_f64()))
            .fetch_one(&self.pool)
            .await?;
        let seconds: Option<f64> = row.try_get(0)?;
        // A negative number of seconds is no duration: it is due.
        Ok(seconds.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()))
    }

    pub(super) async fn read_deliveries(&self, event: Ulid) -> Result<Vec<LedgerRow>, StoreError> {
        let rows = sqlx::query(DELIVERIES)
            .bind(event.to_string())
            .fetch_all(&self.pool)
            .await?;
        ledger_rows(&rows)
    }

    pub(super) async fn read_counts(&self) -> Result<Vec<(String, SinkCounts)>, StoreError> {
        let rows = sqlx::query(COUNTS).fetch_all(&self.pool).await?;
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
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        ledger_rows(&rows)
    }

    pub(super) async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        let row = filtered(sqlx::query(DEAD_COUNT), filter)
            .fetch_one(&self.pool)
            .await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
    }

    pub(super) async fn replay_dead(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        let done = filtered(sqlx::query(DEAD_REPLAY), filter)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn delete_dead(&self, filter: &DeadFilter) -> Result<u64, StoreError> {
        let done = filtered(sqlx::query(DEAD_DROP), filter)
            .execute(&self.pool)
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
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        ledger_rows(&rows)
    }

    pub(super) async fn mark_told(&self, letters: &[LedgerRow]) -> Result<(), StoreError> {
        sqlx::query(TOLD)
            .bind(letters.iter().map(|l| &*l.sink).collect::<Vec<_>>())
            .bind(
                letters
                    .iter()
                    .map(|l| l.event_id.to_string())
                    .collect::<Vec<_>>(),
            )
            .bind(letters.iter().map(|l| &*l.recipient).collect::<Vec<_>>())
            .bind(letters.iter().map(|l| l.updated_at).collect::<Vec<_>>())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn filtered<'q>(query: Query<'q>, filter: &'q DeadFilter) -> Query<'q> {
    let (exact, prefix) = filter.kind_parts();
    query
        .bind(filter.sink.as_deref())
        .bind(exact)
        .bind(prefix)
        .bind(filter.tenant.as_deref())
        .bind(filter.since)
        .bind(filter.cause.as_deref())
        .bind(filter.event_id.map(|id| id.to_string()))
        .bind(filter.recipient.as_deref())
}

fn column<'a, T>(writes: &'a [LedgerWrite], value: impl Fn(&'a LedgerWrite) -> T) -> Vec<T> {
    writes.iter().map(value).collect()
}

fn ledger_rows(rows: &[PgRow]) -> Result<Vec<LedgerRow>, StoreError> {
    rows.iter().map(|row| Ok(row.ledger_row()?)).collect()
}

fn due(row: &PgRow) -> Result<Due, StoreError> {
    Ok(Due {
        recipient: row.try_get(0)?,
        attempts: count(row.try_get(1)?),
        history: history(row.try_get(2)?)?,
        destination: row.try_get::<Option<&str>, _>(3)?.map(Arc::from),
        order_key: row.try_get::<Option<&str>, _>(4)?.map(Arc::from),
        event: Arc::new(row.event(5)?),
    })
}
