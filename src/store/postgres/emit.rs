//! Emitting: events and outbox rows in one transaction.

use serde::Serialize;
use sqlx::{PgConnection, Row as _};
use ulid::Ulid;

use super::Postgres;
use crate::store::rows::{optional_text, parse_ulid};
use crate::store::{Emitted, NewEvent, StoreError};

/// Ids are handed out in the order of the arrays. A conflict inserts nothing, and the lookup
/// below answers for it.
const INSERT: &str = "
WITH inserted AS (
    INSERT INTO herald.events (event_id, tenant_id, type, payload, metadata, idempotency_key)
    SELECT event_id, tenant_id, type, payload::json, metadata::json, idempotency_key
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
         WITH ORDINALITY
         AS t (event_id, tenant_id, type, payload, metadata, idempotency_key, place)
    ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING id, event_id
), waiting AS (
    INSERT INTO herald.outbox (aggregate_id, event_id) SELECT id, event_id FROM inserted
)
SELECT event_id, id FROM inserted";

const FIND: &str = "
SELECT event_id, id FROM herald.events
WHERE tenant_id = $2 AND (event_id = $1 OR idempotency_key = $3)
ORDER BY event_id = $1 DESC LIMIT 1";

/// The payload goes as text: as JSON it would be bound as jsonb, which keeps neither the order of
/// the keys nor the notation.
const EMIT: &str = "SELECT herald.emit($1, $2, $3::json)";

/// Emits an event inside the caller's own transaction and returns its id. Rolled back means
/// never notified.
///
/// The connection's login needs the role `herald_app`.
///
/// # Errors
/// The database's: an ill-formed tenant or type violates a CHECK, another tenant's name the
/// row-level security.
pub async fn emit(
    connection: &mut PgConnection,
    tenant: &str,
    kind: &str,
    payload: &impl Serialize,
) -> Result<Ulid, sqlx::Error> {
    let payload =
        serde_json::value::to_raw_value(payload).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
    let row = sqlx::query(EMIT)
        .bind(tenant)
        .bind(kind)
        .bind(payload.get())
        .fetch_one(connection)
        .await?;
    parse_ulid(row.try_get(0)?)
}

impl Postgres {
    pub(super) async fn insert_events(
        &self,
        events: &[NewEvent],
    ) -> Result<Vec<Emitted>, StoreError> {
        let ids: Vec<String> = events.iter().map(|e| e.event_id.to_string()).collect();
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(INSERT)
            .bind(&ids)
            .bind(column(events, |e| e.tenant_id.as_str()))
            .bind(column(events, |e| e.kind.as_str()))
            .bind(column(events, |e| e.payload.get()))
            .bind(column(events, |e| optional_text(&e.metadata)))
            .bind(column(events, |e| e.idempotency_key.as_deref()))
            .fetch_all(&mut *transaction)
            .await?;
        let mut fresh = std::collections::HashMap::with_capacity(rows.len());
        for row in &rows {
            fresh.insert(row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?);
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

fn column<'a, T>(events: &'a [NewEvent], value: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}
