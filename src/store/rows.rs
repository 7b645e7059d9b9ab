//! Columns that both databases have, read alike.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use herald_contract::{Event, Subscription};
use serde_json::value::RawValue;
use sqlx::{ColumnIndex, Database, Decode, Row, Type};
use ulid::Ulid;

use super::{Attempt, LedgerRow, State};

/// What a column must be able to become for the readers below.
pub trait Columns: Row
where
    usize: ColumnIndex<Self>,
{
    /// The events' columns, beginning at `from`: seq, id, event_id, tenant_id, type, payload,
    /// metadata, created_at.
    fn event(&self, from: usize) -> Result<Event, sqlx::Error>;

    /// sink, event_id, tenant_id, type, recipient, state, attempts, next_attempt_at, cause,
    /// response, history, created_at, updated_at.
    fn ledger_row(&self) -> Result<LedgerRow, sqlx::Error>;

    /// id, tenant_id, user_id, endpoint, p256dh, auth, created_at.
    fn subscription(&self) -> Result<Subscription, sqlx::Error>;
}

impl<R, DB> Columns for R
where
    R: Row<Database = DB>,
    DB: Database<Row = R>,
    usize: ColumnIndex<R>,
    for<'r> &'r str: Decode<'r, DB> + Type<DB>,
    for<'r> Option<&'r str>: Decode<'r, DB> + Type<DB>,
    for<'r> i64: Decode<'r, DB> + Type<DB>,
    for<'r> DateTime<Utc>: Decode<'r, DB> + Type<DB>,
    for<'r> Option<DateTime<Utc>>: Decode<'r, DB> + Type<DB>,
{
    fn event(&self, from: usize) -> Result<Event, sqlx::Error> {
        Ok(Event {
            seq: self.try_get(from)?,
            aggregate_id: self.try_get(from + 1)?,
            event_id: parse_ulid(self.try_get(from + 2)?)?,
            tenant_id: self.try_get::<&str, _>(from + 3)?.into(),
            kind: self.try_get::<&str, _>(from + 4)?.into(),
            payload: raw(self.try_get(from + 5)?)?,
            metadata: self
                .try_get::<Option<&str>, _>(from + 6)?
                .map(raw)
                .transpose()?,
            created_at: self.try_get(from + 7)?,
        })
    }

    fn ledger_row(&self) -> Result<LedgerRow, sqlx::Error> {
        Ok(LedgerRow {
            sink: self.try_get::<&str, _>(0)?.into(),
            event_id: parse_ulid(self.try_get(1)?)?,
            tenant_id: self.try_get::<&str, _>(2)?.into(),
            kind: self.try_get::<&str, _>(3)?.into(),
            recipient: self.try_get::<&str, _>(4)?.into(),
            state: State::from_column(self.try_get(5)?),
            attempts: count(self.try_get(6)?),
            next_attempt_at: self.try_get(7)?,
            cause: self.try_get::<Option<&str>, _>(8)?.map(str::to_owned),
            response: self.try_get::<Option<&str>, _>(9)?.map(str::to_owned),
            history: history(self.try_get(10)?)?,
            created_at: self.try_get(11)?,
            updated_at: self.try_get(12)?,
        })
    }

    fn subscription(&self) -> Result<Subscription, sqlx::Error> {
        Ok(Subscription {
            id: parse_ulid(self.try_get(0)?)?,
            tenant_id: self.try_get::<&str, _>(1)?.into(),
            user_id: self.try_get::<Option<&str>, _>(2)?.map(str::to_owned),
            endpoint: self.try_get::<&str, _>(3)?.into(),
            p256dh: self.try_get::<&str, _>(4)?.into(),
            auth: self.try_get::<&str, _>(5)?.into(),
            created_at: self.try_get(6)?,
        })
    }
}

/// The ledger's columns in the order that [`Columns::ledger_row`] reads, for PostgreSQL and
/// SQLite alike.
macro_rules! ledger_columns {
    () => {
        "d.sink, d.event_id, d.tenant_id, coalesce(e.type, ''), d.recipient, d.state, \
         d.attempts, d.next_attempt_at, d.cause, d.response, d.history, d.created_at, d.updated_at"
    };
}
pub(super) use ledger_columns;

/// That no older pending row is before `$row`, an alias of the ledger, in its lane; for PostgreSQL
/// and SQLite alike. `$schema` is what stands before the table's name.
macro_rules! none_before {
    ($schema:literal, $row:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM ",
            $schema,
            "deliveries before WHERE before.sink = ",
            $row,
            ".sink AND before.recipient = ",
            $row,
            ".recipient AND before.order_key = ",
            $row,
            ".order_key AND before.state = 'pending' AND before.order_seq < ",
            $row,
            ".order_seq)"
        )
    };
}
pub(super) use none_before;

pub fn parse_ulid(text: &str) -> Result<Ulid, sqlx::Error> {
    Ulid::from_string(text).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

/// JSON text as the database keeps it; it was checked when it was stored.
fn raw(text: &str) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(text.to_owned()).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

pub fn history(json: &str) -> Result<Vec<Attempt>, sqlx::Error> {
    serde_json::from_str(json).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

pub fn history_json(history: &[Attempt]) -> String {
    serde_json::to_string(history).unwrap_or_else(|_| "[]".to_owned())
}

/// A count that the schema keeps within range.
pub fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub fn optional_text(json: &Option<Box<RawValue>>) -> Option<&str> {
    json.as_deref().map(RawValue::get)
}

pub fn strings(ids: &[Ulid]) -> Vec<String> {
    ids.iter().map(Ulid::to_string).collect()
}

/// Text as both databases can hold it: neither takes a NUL, which a far end may well send, and
/// one such cause must not keep a whole batch from being recorded.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}
