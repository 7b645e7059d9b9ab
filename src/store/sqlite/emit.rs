//! Emitting: events and outbox rows in one transaction.

use std::collections::HashMap;

use chrono::Utc;
use sqlx::Row as _;

use super::{Sqlite, json, stamp};
use crate::store::rows::{optional_text, parse_ulid};
use crate::store::{Emitted, NewEvent, StoreError};

/// Ids are handed out in the order of the array. A conflict inserts nothing, and the lookup
/// below answers for it.
const INSERT: &str = "
INSERT INTO events (event_id, tenant_id, type, payload, metadata, idempotency_key, created_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, ?2
FROM json_each(?1) WHERE true ORDER BY key
ON CONFLICT DO NOTHING
RETURNING event_id, id";

const WAIT_FOR_RELAY: &str = "
INSERT INTO outbox (aggregate_id, event_id)
SELECT id, event_id FROM events WHERE id IN (SELECT value FROM json_each(?1))";

const FIND: &str = "
SELECT event_id, id FROM events
WHERE tenant_id = ?2 AND (event_id = ?1 OR idempotency_key = ?3)
ORDER BY event_id = ?1 DESC LIMIT 1";

impl Sqlite {
    pub(super) async fn insert_events(
        &self,
        events: &[NewEvent],
    ) -> Result<Vec<Emitted>, StoreError> {
        let ids: Vec<String> = events.iter().map(|e| e.event_id.to_string()).collect();
        let rows: Vec<_> = events.iter().zip(&ids).map(columns).collect();
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(INSERT)
            .bind(json(&rows)?)
            .bind(stamp(Utc::now()))
            .fetch_all(&mut *transaction)
            .await?;
        let mut fresh = HashMap::with_capacity(rows.len());
        for row in &rows {
            fresh.insert(row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?);
        }
        if !fresh.is_empty() {
            let inserted: Vec<i64> = fresh.values().copied().collect();
            sqlx::query(WAIT_FOR_RELAY)
                .bind(json(&inserted)?)
                .execute(&mut *transaction)
                .await?;
        }
        let mut emitted = Vec::with_capacity(events.len());
        for (index, (event, id)) in events.iter().zip(&ids).enumerate() {
            // Removing: a second event of the batch with the same id is a repetition.
            let (event_id, aggregate_id, repeated) = match fresh.remove(id) {
                Some(aggregate_id) => (event.event_id, aggregate_id, false),
                None => {
                    let row = sqlx::query(FIND)
                        .bind(id)
                        .bind(&event.tenant_id)
                        .bind(&event.idempotency_key)
                        .fetch_optional(&mut *transaction)
                        .await?
                        .ok_or(StoreError::Conflict { index })?;
                    (parse_ulid(row.try_get(0)?)?, row.try_get(1)?, true)
                }
            };
            emitted.push(Emitted {
                event_id,
                aggregate_id,
                repeated,
            });
        }
        transaction.commit().await?;
        Ok(emitted)
    }
}

type Columns<'a> = (
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    Option<&'a str>,
    Option<&'a str>,
);

/// The payload and the metadata go as JSON strings of JSON text, so that they are stored to the
/// letter.
fn columns<'a>((event, id): (&'a NewEvent, &'a String)) -> Columns<'a> {
    (
        id,
        &event.tenant_id,
        &event.kind,
        event.payload.get(),
        optional_text(&event.metadata),
        event.idempotency_key.as_deref(),
    )
}
