//! Dead letters: list, send again, give up.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use herald_routes::{Access, Body, Params, Problem, Scope};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{Api, failed};
use crate::store::{DeadFilter, LedgerRow, event_id};

/// Dead letters in one answer, unless asked for otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

#[derive(Serialize)]
pub(super) struct Dead {
    dead: Vec<LedgerRow>,
}

#[derive(Serialize)]
pub(super) struct Replayed {
    replayed: u64,
}

#[derive(Serialize)]
pub(super) struct Dropped {
    dropped: u64,
}

/// A [`DeadFilter`] in a query string, with a limit. (serde's `flatten` cannot be strict.)
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    sink: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    tenant_id: Option<String>,
    since: Option<DateTime<Utc>>,
    cause: Option<String>,
    #[serde(default, deserialize_with = "event_id")]
    event_id: Option<Ulid>,
    recipient: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    access: Access,
    Params(query): Params<ListQuery>,
) -> Result<Json<Dead>, Problem> {
    access.require(Scope::Admin)?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid(
            "limit",
            format!("limit must be 1 to {MAX_PAGE}"),
        ));
    }
    let filter = DeadFilter {
        sink: query.sink,
        kind: query.kind,
        tenant: query.tenant_id,
        since: query.since,
        cause: query.cause,
        event_id: query.event_id,
        recipient: query.recipient,
    };
    let dead = api
        .store
        .dead(&filter, limit)
        .await
        .map_err(|e| failed(&e))?;
    Ok(Json(Dead { dead }))
}

/// Makes the matching dead letters due now, under their old event ids. `{}` means all.
pub(super) async fn replay(
    State(api): State<Arc<Api>>,
    access: Access,
    Body(filter): Body<DeadFilter>,
) -> Result<Json<Replayed>, Problem> {
    access.require(Scope::Admin)?;
    let replayed = api
        .store
        .dead_replay(&filter)
        .await
        .map_err(|e| failed(&e))?;
    Ok(Json(Replayed { replayed }))
}

/// Deletes the matching dead letters. `{}` means all.
pub(super) async fn discard(
    State(api): State<Arc<Api>>,
    access: Access,
    Body(filter): Body<DeadFilter>,
) -> Result<Json<Dropped>, Problem> {
    access.require(Scope::Admin)?;
    let dropped = api.store.dead_drop(&filter).await.map_err(|e| failed(&e))?;
    Ok(Json(Dropped { dropped }))
}
