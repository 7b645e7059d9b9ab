//! Deliveries that wait for something else than their time, and what lets them go.

use std::time::Duration;

use super::Postgres;
use crate::store::rows::none_before;
use crate::store::{Lane, StoreError};

/// Some at a time, so that no statement is long.
const HASTEN: &str = "
UPDATE herald.deliveries SET waits_for = NULL, next_attempt_at = clock_timestamp() + $4 * interval '1 second'
WHERE (event_id, sink, recipient) IN (
    SELECT event_id, sink, recipient FROM herald.deliveries
    WHERE sink = $1 AND waits_for = 'destination' AND destination = $2
    LIMIT $3 FOR UPDATE SKIP LOCKED)";

/// From one destination to the next by the index, so that it costs as many looks as there are
/// destinations, however much waits for each.
const AWAITED: &str = "
WITH RECURSIVE awaited (destination) AS (
    SELECT min(destination) FROM herald.deliveries
    WHERE sink = $1 AND waits_for = 'destination'
    UNION ALL
    SELECT (SELECT min(d.destination) FROM herald.deliveries d
            WHERE d.sink = $1 AND d.waits_for = 'destination'
              AND d.destination > awaited.destination)
    FROM awaited WHERE awaited.destination IS NOT NULL
)
SELECT destination FROM awaited WHERE destination IS NOT NULL LIMIT $2";

const RELEASE: &str = "
UPDATE herald.deliveries d SET next_attempt_at = clock_timestamp(), waits_for = NULL
FROM unnest($2::text[], $3::text[]) AS lane (recipient, key)
CROSS JOIN LATERAL (
    SELECT p.event_id FROM herald.deliveries p
    WHERE p.sink = $1 AND p.recipient = lane.recipient AND p.order_key = lane.key
      AND p.state = 'pending'
    ORDER BY p.order_seq LIMIT 1
) AS first
WHERE d.sink = $1 AND d.event_id = first.event_id AND d.recipient = lane.recipient
  AND d.waits_for = 'order'";

const RELEASE_ALL: &str = concat!(
    "UPDATE herald.deliveries d SET next_attempt_at = clock_timestamp(), waits_for = NULL
    WHERE d.sink = $1 AND d.waits_for = 'order' AND ",
    none_before!("herald.", "d")
);

impl Postgres {
    pub(super) async fn hasten(
        &self,
        sink: &str,
        destination: &str,
        wait: Duration,
        limit: usize,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(HASTEN)
            .bind(sink)
            .bind(destination)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(wait.as_secs_f64())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn awaited(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(AWAITED)
            .bind(sink)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?)
    }

    pub(super) async fn release(&self, sink: &str, lanes: &[Lane]) -> Result<u64, StoreError> {
        let column = |part: fn(&Lane) -> &str| lanes.iter().map(part).collect::<Vec<_>>();
        let done = sqlx::query(RELEASE)
            .bind(sink)
            .bind(column(|lane| &lane.recipient))
            .bind(column(|lane| &lane.key))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn release_all(&self, sink: &str) -> Result<u64, StoreError> {
        let done = sqlx::query(RELEASE_ALL)
            .bind(sink)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }
}
