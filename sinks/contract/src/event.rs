//! The event as every sink sees it, and its one JSON form.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use ulid::Ulid;

/// A committed event at its place in the feed.
#[derive(Debug, Clone)]
pub struct Event {
    /// The place in the feed: dense (1, 2, 3 …), the order of delivery. Never shown outside.
    pub seq: i64,
    /// The outside name and the idempotency key. Its sort order is not the order of delivery.
    pub event_id: Ulid,
    /// `events.id` in the database, the cursor of REST.
    pub aggregate_id: i64,
    pub tenant_id: Box<str>,
    /// The event's type, such as `order.created`.
    pub kind: Box<str>,
    /// The payload's JSON text, exactly as it was stored.
    pub payload: Box<RawValue>,
    /// Whatever the producer added beside the payload; JSON text.
    pub metadata: Option<Box<RawValue>>,
    pub created_at: DateTime<Utc>,
}

/// The stored text of an event is not what [`Event::to_json`] writes.
#[derive(Debug, thiserror::Error)]
#[error("malformed event: {0}")]
pub struct MalformedEvent(#[from] serde_json::Error);

impl Event {
    /// The event as REST, SSE and the stream carry it: one JSON object, camelCase, times in
    /// RFC 3339 UTC with microseconds. The payload stands in it as it was stored, so it may
    /// contain line breaks between its tokens.
    pub fn to_json(&self) -> String {
        let payload = self.payload.get();
        let mut json = String::with_capacity(payload.len() + 192);
        let _ = write!(
            json,
            r#"{{"eventId":"{}","aggregateId":{},"tenantId":"#,
            self.event_id, self.aggregate_id
        );
        push_string(&mut json, &self.tenant_id);
        json.push_str(r#","type":"#);
        push_string(&mut json, &self.kind);
        json.push_str(r#","payload":"#);
        json.push_str(payload);
        if let Some(metadata) = &self.metadata {
            json.push_str(r#","metadata":"#);
            json.push_str(metadata.get());
        }
        json.push_str(r#","createdAt":""#);
        json.push_str(&self.created_at.to_rfc3339_opts(SecondsFormat::Micros, true));
        json.push_str("\"}");
        json
    }

    /// Reads what [`Event::to_json`] wrote.
    ///
    /// # Errors
    /// The text is not such an object.
    pub fn from_json(seq: i64, json: &[u8]) -> Result<Self, MalformedEvent> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Envelope {
            event_id: Ulid,
            aggregate_id: i64,
            tenant_id: Box<str>,
            #[serde(rename = "type")]
            kind: Box<str>,
            payload: Box<RawValue>,
            metadata: Option<Box<RawValue>>,
            created_at: DateTime<Utc>,
        }
        let e: Envelope = serde_json::from_slice(json)?;
        Ok(Self {
            seq,
            event_id: e.event_id,
            aggregate_id: e.aggregate_id,
            tenant_id: e.tenant_id,
            kind: e.kind,
            payload: e.payload,
            metadata: e.metadata,
            created_at: e.created_at,
        })
    }
}

/// Appends `text` as a JSON string. Names rarely hold anything that needs escaping.
fn push_string(json: &mut String, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(tenant: &str, payload: &str) -> Event {
        Event {
            seq: 7,
            event_id: Ulid(42),
            aggregate_id: 9,
            tenant_id: tenant.into(),
            kind: "order.created".into(),
            payload: RawValue::from_string(payload.into()).expect("valid JSON"),
            metadata: None,
            created_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("in range"),
        }
    }

    #[test]
    fn the_json_form_reads_back_as_the_same_event() {
        for (tenant, payload) in [
            ("acme", r#"{"a": 1.50,"b":[true,null]}"#),
            ("a \"quoted\\\" tenant", "\"text\""),
            ("日本", "12345678901234567890.000"),
        ] {
            let before = event(tenant, payload);
            let after = Event::from_json(7, before.to_json().as_bytes()).expect("reads back");
            assert_eq!(after.tenant_id, before.tenant_id);
            assert_eq!(after.payload.get(), payload, "payload text is kept exactly");
            assert_eq!(after.created_at, before.created_at);
            assert_eq!((after.seq, after.event_id), (before.seq, before.event_id));
        }
    }

    #[test]
    fn the_json_form_is_the_documented_one() {
        assert_eq!(
            event("acme", r#"{"id":1}"#).to_json(),
            r#"{"eventId":"0000000000000000000000001A","aggregateId":9,"tenantId":"acme","type":"order.created","payload":{"id":1},"createdAt":"2023-11-14T22:13:20.123456Z"}"#
        );
    }

    #[test]
    fn text_that_is_no_event_is_an_error() {
        for bad in ["", "{}", "[]", r#"{"eventId":"x"}"#] {
            assert!(Event::from_json(1, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
