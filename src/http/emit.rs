//! `POST /events`: one event or an array of up to 1,000, committed before the answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use herald_contract::check_type;
use herald_routes::{Access, Body, Problem, Scope};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ulid::Ulid;

use super::{Api, failed};
use crate::store::{Emitted, NewEvent};

/// Events in one request.
const MAX_BATCH: usize = 1000;

/// Longest `Idempotency-Key`, in bytes.
const MAX_KEY: usize = 255;

/// Deepest nesting of a payload; PostgreSQL and templates both recurse over it.
const MAX_DEPTH: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EmitRequest {
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    payload: Box<RawValue>,
    #[serde(default)]
    event_id: Option<String>,
    #[serde(default)]
    metadata: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    event_id: Ulid,
    aggregate_id: i64,
}

pub(super) async fn emit(
    State(api): State<Arc<Api>>,
    access: Access,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    access.require(Scope::Publish)?;
    let body = body.map_err(|e| Problem::new(e.status(), e.body_text()))?;
    let key = idempotency_key(&headers)?;
    let is_array = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let requests = if is_array {
        Body::<Vec<EmitRequest>>::from_bytes(&body)?.0
    } else {
        vec![Body::<EmitRequest>::from_bytes(&body)?.0]
    };
    if requests.len() > MAX_BATCH {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{} events; at most {MAX_BATCH} at once", requests.len()),
        ));
    }
    let mut events = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let key = key.as_ref().map(|key| match is_array {
            true => format!("{key}#{index}"),
            false => key.clone(),
        });
        let event = check(&api, &access, request, key).map_err(|problem| match is_array {
            true => place(problem, index),
            false => problem,
        })?;
        events.push(event);
    }
    let emitted = api.store.emit(&events).await.map_err(|e| failed(&e))?;
    api.emitted.notify_one();
    Ok(answer(&emitted, is_array))
}

/// The event as it will be stored, or which field is wrong.
fn check(
    api: &Api,
    access: &Access,
    request: EmitRequest,
    idempotency_key: Option<String>,
) -> Result<NewEvent, Problem> {
    let tenant_id = access.tenant(Scope::Publish, request.tenant_id.as_deref())?;
    check_type(&request.kind).map_err(|e| Problem::invalid("type", format!("type {e}")))?;
    let event_id = match &request.event_id {
        None => Ulid::generate(),
        Some(text) => event_id(text).ok_or_else(|| {
            Problem::invalid(
                "eventId",
                "eventId must be a ULID: 26 characters of Crockford's base 32, not all zero",
            )
        })?,
    };
    for (field, json) in [
        ("payload", Some(&request.payload)),
        ("metadata", request.metadata.as_ref()),
    ] {
        let Some(json) = json else { continue };
        if json.get().len() > api.max_payload {
            let detail = format!("{field} is larger than {} bytes", api.max_payload);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).at(field));
        }
        if depth(json.get()) > MAX_DEPTH {
            let detail = format!("{field} is nested more than {MAX_DEPTH} deep");
            return Err(Problem::invalid(field, detail));
        }
    }
    Ok(NewEvent {
        event_id,
        tenant_id,
        kind: request.kind,
        payload: request.payload,
        metadata: request.metadata,
        idempotency_key,
    })
}

/// A ULID as its specification writes it; upper and lower case alike. The nil ULID is the cursor
/// before the first event, so no event has it.
pub(super) fn event_id(text: &str) -> Option<Ulid> {
    let id = Ulid::from_string(text).ok()?;
    (id != Ulid(0) && id.to_string() == text.to_ascii_uppercase()).then_some(id)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key must be 1 to {MAX_KEY} visible ASCII characters");
            Err(Problem::bad_request(detail).at("Idempotency-Key"))
        }
    }
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

/// Names the event of the array that is at fault.
fn place(mut problem: Problem, index: usize) -> Problem {
    problem.field = Some(match problem.field {
        Some(field) => format!("[{index}].{field}"),
        None => format!("[{index}]"),
    });
    problem
}

/// 201, or 200 when everything had been there before.
fn answer(emitted: &[Emitted], is_array: bool) -> Response {
    let status = if !emitted.is_empty() && emitted.iter().all(|e| e.repeated) {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut answers = emitted.iter().map(|e| Answer {
        event_id: e.event_id,
        aggregate_id: e.aggregate_id,
    });
    if is_array {
        (status, Json(answers.collect::<Vec<_>>())).into_response()
    } else {
        (status, Json(answers.next())).into_response()
    }
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

    #[test]
    fn only_what_a_ulid_looks_like_is_an_event_id() {
        assert!(event_id("01JD5ZQ9V7C3M1T0000000000A").is_some());
        assert!(event_id("01jd5zq9v7c3m1t0000000000a").is_some());
        for bad in [
            "",
            "zzz",
            "00000000000000000000000000",
            "81JD5ZQ9V7C3M1T0000000000A",
            "01JD5ZQ9V7C3M1T0000000000\n",
            "IIJD5ZQ9V7C3M1T0000000000A",
        ] {
            assert!(event_id(bad).is_none(), "{bad:?}");
        }
    }
}
