//! Deliveries that wait for something else than their time, and what lets them go.

use std::time::Duration;

use chrono::Utc;

use super::{Sqlite, json, limited, stamp};
use crate::store::rows::none_before;
use crate::store::{Lane, StoreError};

/// Some at a time, so that no statement is long.
const HASTEN: &str = "
UPDATE deliveries SET next_attempt_at = ?4, waits_for = NULL
WHERE rowid IN (
    SELECT rowid FROM deliveries
    WHERE sink = ?1 AND waits_for = 'destination' AND destination = ?2 LIMIT ?3)";

/// From one destination to the next by the index, so that it costs as many looks as there are
/// destinations, however much waits for each.
const AWAITED: &str = "
WITH RECURSIVE awaited (destination) AS (
    SELECT min(destination) FROM deliveries
    WHERE sink = ?1 AND waits_for = 'destination'
    UNION ALL
    SELECT (SELECT min(d.destination) FROM deliveries d
            WHERE d.sink = ?1 AND d.waits_for = 'destination'
              AND d.destination > awaited.destination)
    FROM awaited WHERE awaited.destination IS NOT NULL
)
SELECT destination FROM awaited WHERE destination IS NOT NULL LIMIT ?2";

const RELEASE: &str = "
UPDATE deliveries SET next_attempt_at = ?3, waits_for = NULL
WHERE waits_for = 'order' AND rowid IN (
    SELECT (SELECT p.rowid FROM deliveries p
            WHERE p.sink = ?1 AND p.recipient = value ->> 0 AND p.order_key = value ->> 1
              AND p.state = 'pending'
            ORDER BY p.order_seq LIMIT 1)
    FROM json_each(?2))";

const RELEASE_ALL: &str = concat!(
    "UPDATE deliveries AS d SET next_attempt_at = ?2, waits_for = NULL
    WHERE d.sink = ?1 AND d.waits_for = 'order' AND ",
    none_before!("", "d")
);

impl Sqlite {
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
            .bind(limited(limit))
            .bind(stamp(Utc::now() + wait))
            .execute(&self.writer)
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
            .bind(limited(limit))
            .fetch_all(&self.writer)
            .await?)
    }

    pub(super) async fn release(&self, sink: &str, lanes: &[Lane]) -> Result<u64, StoreError> {
        let lanes: Vec<_> = lanes.iter().map(|l| (&l.recipient, &l.key)).collect();
        let done = sqlx::query(RELEASE)
            .bind(sink)
            .bind(json(&lanes)?)
            .bind(stamp(Utc::now()))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn release_all(&self, sink: &str) -> Result<u64, StoreError> {
        let done = sqlx::query(RELEASE_ALL)
            .bind(sink)
            .bind(stamp(Utc::now()))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }
}
