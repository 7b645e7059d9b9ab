//! `POST /events`: one event or an array of up to 1,000, committed before the answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use herald_routes::{Access, Body, Problem, Scope};
use serde::Serialize;
use serde_json::value::RawValue;
use ulid::Ulid;

use super::{Api, failed};
use crate::ingest::Draft;
use crate::store::{Emitted, NewEvent};

/// Events in one request.
const MAX_BATCH: usize = 1000;

/// Longest `Idempotency-Key`, in bytes.
const MAX_KEY: usize = 255;

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
    let is_array = body.trim_ascii_start().first() == Some(&b'[');
    let events = if is_array {
        check_all(&api, &access, &body, key.as_deref())?
    } else {
        vec![check(&api, &access, &body, key)?]
    };
    let emitted = api.store.emit(&events).await.map_err(|e| failed(&e))?;
    api.emitted.notify_one();
    Ok(answer(&emitted, is_array))
}

/// An array's events; the key stands for the whole array.
fn check_all(
    api: &Api,
    access: &Access,
    body: &[u8],
    key: Option<&str>,
) -> Result<Vec<NewEvent>, Problem> {
    let drafts: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|e| Problem::bad_request(format!("malformed JSON: {e}")))?;
    if drafts.is_empty() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the array holds no event",
        ));
    }
    if drafts.len() > MAX_BATCH {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{} events; at most {MAX_BATCH} at once", drafts.len()),
        ));
    }
    let checked = drafts.iter().enumerate().map(|(index, draft)| {
        let key = key.map(|key| format!("{key}#{index}"));
        check(api, access, draft.get().as_bytes(), key).map_err(|problem| place(problem, index))
    });
    checked.collect()
}

/// The event as it will be stored, or which field is wrong.
fn check(
    api: &Api,
    access: &Access,
    body: &[u8],
    idempotency_key: Option<String>,
) -> Result<NewEvent, Problem> {
    let Body(mut draft) = Body::<Draft>::from_bytes(body)?;
    draft.tenant_id = Some(access.tenant(Scope::Publish, draft.tenant_id.as_deref())?);
    let event = draft.check(api.max_payload).map_err(|unfit| {
        let detail = unfit.to_string();
        match unfit.too_large {
            true => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).at(unfit.field),
            false => Problem::invalid(unfit.field, detail),
        }
    })?;
    Ok(NewEvent {
        idempotency_key,
        ..event
    })
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
    let status = if emitted.iter().all(|e| e.repeated) {
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
