//! What an event must be before it is stored, whichever way it comes in.

use herald_contract::{check_tenant, check_type, parse_event_id};
use serde::Deserialize;
use serde_json::value::RawValue;
use ulid::Ulid;

use crate::store::NewEvent;

/// Deepest nesting of a payload; PostgreSQL and templates both recurse over it.
const MAX_DEPTH: usize = 100;

/// An event as a producer writes it in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Draft {
    #[serde(default)]
    pub tenant_id: Option<String>,
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    pub payload: Box<RawValue>,
    #[serde(default)]
    pub event_id: Option<String>,
    #[serde(default)]
    pub metadata: Option<Box<RawValue>>,
}

/// A draft that cannot be stored.
#[derive(Debug, thiserror::Error)]
#[error("{field} {fault}")]
pub struct Unfit {
    /// As JSON names it.
    pub field: &'static str,
    pub fault: String,
    /// Whether it is only too large.
    pub too_large: bool,
}

impl Unfit {
    fn new(field: &'static str, fault: impl ToString) -> Self {
        Self {
            field,
            fault: fault.to_string(),
            too_large: false,
        }
    }
}

impl Draft {
    /// The event as it will be stored; without an id it gets one. `max_bytes` bounds the payload,
    /// and the metadata.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(self, max_bytes: usize) -> Result<NewEvent, Unfit> {
        let required = |field| move || Unfit::new(field, "is required");
        let tenant_id = self.tenant_id.ok_or_else(required("tenantId"))?;
        let kind = self.kind.ok_or_else(required("type"))?;
        check_tenant(&tenant_id).map_err(|e| Unfit::new("tenantId", e))?;
        check_type(&kind).map_err(|e| Unfit::new("type", e))?;
        let event_id = match self.event_id {
            None => Ulid::generate(),
            Some(text) => parse_event_id(&text).map_err(|e| Unfit::new("eventId", e))?,
        };
        check_json("payload", &self.payload, max_bytes)?;
        if let Some(metadata) = &self.metadata {
            check_json("metadata", metadata, max_bytes)?;
        }
        Ok(NewEvent {
            event_id,
            tenant_id,
            kind,
            payload: self.payload,
            metadata: self.metadata,
            idempotency_key: None,
        })
    }
}

fn check_json(field: &'static str, json: &RawValue, max_bytes: usize) -> Result<(), Unfit> {
    if json.get().len() > max_bytes {
        return Err(Unfit {
            too_large: true,
            ..Unfit::new(field, format!("is larger than {max_bytes} bytes"))
        });
    }
    if depth(json.get()) > MAX_DEPTH {
        let fault = format!("is nested more than {MAX_DEPTH} deep");
        return Err(Unfit::new(field, fault));
    }
    Ok(())
}

/// How deep arrays and objects stand in one another, in valid JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a":[1,{"b":"[[[["}]}"#), 3);
        assert_eq!(depth(r#""\"[{\\""#), 0);
        assert_eq!(depth(&"[".repeat(500)), 500);
    }
}
