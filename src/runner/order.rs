//! The key by which a sink with `ordering = "key"` keeps deliveries in order.
//!
//! Such a sink begins nothing from the stream. Every delivery goes into the ledger first, and comes
//! out of it when it is the first pending one of its lane (a recipient and a key), so that the order
//! holds between processes and survives them. A lane that fails waits; the others go on.

use std::sync::Arc;

use herald_contract::Event;
use serde_json::Value;

/// Longest key, in bytes. What is cut off makes two keys one, which keeps more order, not less.
const MAX_KEY: usize = 255;

/// Where an event's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderKey {
    Tenant,
    /// Names, from the payload inwards.
    Payload(Vec<String>),
}

impl OrderKey {
    /// `place` is `tenantId` or a path below `payload.`; the configuration has been checked.
    pub fn new(place: &str) -> Self {
        match place.strip_prefix("payload.") {
            Some(path) => Self::Payload(path.split('.').map(str::to_owned).collect()),
            None => Self::Tenant,
        }
    }

    /// The event's key with its tenant, since a key means something within a tenant only. `None`
    /// where the payload has no such value: then nothing orders the event.
    pub fn of(&self, event: &Event) -> Option<Arc<str>> {
        let key = match self {
            Self::Tenant => return Some(cut(event.tenant_id.to_string())),
            Self::Payload(path) => {
                let payload: Value = serde_json::from_str(event.payload.get()).ok()?;
                let found = path
                    .iter()
                    .try_fold(&payload, |value, name| value.get(name))?;
                match found {
                    Value::Null => return None,
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                }
            }
        };
        // No tenant has a control character in it. Neither takes a key in the ledger.
        let key: String = key.chars().filter(|c| !c.is_control()).collect();
        Some(cut(format!("{}\u{1f}{key}", event.tenant_id)))
    }
}

fn cut(mut key: String) -> Arc<str> {
    let mut end = key.len().min(MAX_KEY);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    key.truncate(end);
    key.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: &str, payload: &str) -> Option<String> {
        let event = herald_testkit::event(1, "acme", "order.created", payload);
        OrderKey::new(place)
            .of(&event)
            .map(|key| key.replace('\u{1f}', "/"))
    }

    #[test]
    fn the_key_is_the_tenant_or_stands_in_the_payload() {
        assert_eq!(key("tenantId", "{}").as_deref(), Some("acme"));
        let payload = r#"{"orderId": 7, "customer": {"id": "a b"}, "none": null}"#;
        assert_eq!(key("payload.orderId", payload).as_deref(), Some("acme/7"));
        assert_eq!(
            key("payload.customer.id", payload).as_deref(),
            Some("acme/a b")
        );
        assert_eq!(key("payload.none", payload), None);
        assert_eq!(key("payload.customer.name", payload), None);
        assert_eq!(key("payload.orderId", "[1]"), None);
    }

    #[test]
    fn a_long_key_is_cut_between_characters() {
        let long = format!(r#"{{"k": "{}"}}"#, "é".repeat(500));
        let key = key("payload.k", &long).expect("a key");
        assert!(key.len() <= MAX_KEY && key.ends_with('é'));
    }
}
