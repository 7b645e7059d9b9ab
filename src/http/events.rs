//! Reading events: a tenant's page of the feed, one event, its timeline.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use herald_contract::{Cursor, Event, Place, TypeFilter, parse_event_id};
use herald_routes::{Access, Params, Problem, Scope, Segment};
use serde::{Deserialize, Serialize};

use super::{Api, failed};
use crate::store::{LedgerRow, PageQuery};

/// Events on a page, unless asked for otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListQuery {
    tenant_id: Option<String>,
    /// Text, so that an empty one counts as absent.
    after: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    types: String,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Asc,
    Desc,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    access: Access,
    Params(query): Params<ListQuery>,
) -> Result<Response, Problem> {
    let tenant = access.tenant(Scope::Subscribe, query.tenant_id.as_deref())?;
    let types = TypeFilter::parse(&query.types)
        .map_err(|e| Problem::invalid("types", format!("a type {e}")))?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        let detail = format!("limit must be 1 to {MAX_PAGE}");
        return Err(Problem::invalid("limit", detail));
    }
    let after = cursor(query.after.as_deref())?;
    let seq = match after {
        None => 0,
        Some(_) => {
            let cursor = Cursor {
                after,
                event_id: None,
            };
            match api.history.resolve(&tenant, cursor).await? {
                Place::After(seq) => seq,
                Place::Unknown => return Err(unknown()),
            }
        }
    };
    let page = PageQuery {
        tenant: &tenant,
        types: &types,
        after: seq,
        upto: i64::MAX,
        limit,
        newest_first: query.order == Order::Desc,
    };
    let events = api.store.page(&page).await.map_err(|e| failed(&e))?;
    // The event that `after` names, and more, may have expired since it was looked up.
    if seq > 0 && api.history.expired().await? > seq {
        return Err(unknown());
    }
    Ok(json(page_json(&events, after.unwrap_or(0))))
}

fn unknown() -> Problem {
    Problem::not_found("after names no event of this tenant, or one that has expired").at("after")
}

/// `after` as REST and streams take it: absent when empty.
fn cursor(after: Option<&str>) -> Result<Option<i64>, Problem> {
    match after.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(after) if after >= 0 => Ok(Some(after)),
            _ => Err(Problem::bad_request(
                "after must be an aggregateId: a whole number, 0 or more",
            )
            .at("after")),
        },
    }
}

/// `nextAfter` is where the next page, or a stream, goes on: the furthest event in the feed.
fn page_json(events: &[Arc<Event>], after: i64) -> String {
    let next = events
        .iter()
        .max_by_key(|event| event.seq)
        .map_or(after, |event| event.aggregate_id);
    let list: Vec<String> = events.iter().map(|event| event.to_json()).collect();
    format!(r#"{{"events":[{}],"nextAfter":{next}}}"#, list.join(","))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    access: Access,
    Segment(id): Segment,
) -> Result<Response, Problem> {
    Ok(json(find(&api, &access, &id).await?.to_json()))
}

#[derive(Serialize)]
pub(super) struct Timeline {
    deliveries: Vec<LedgerRow>,
}

pub(super) async fn deliveries(
    State(api): State<Arc<Api>>,
    access: Access,
    Segment(id): Segment,
) -> Result<Json<Timeline>, Problem> {
    let event = find(&api, &access, &id).await?;
    let deliveries = api
        .store
        .deliveries(event.event_id)
        .await
        .map_err(|e| failed(&e))?;
    Ok(Json(Timeline { deliveries }))
}

/// The event, if the caller may see it; another tenant's does not exist.
async fn find(api: &Api, access: &Access, id: &str) -> Result<Event, Problem> {
    access.require(Scope::Subscribe)?;
    let id = parse_event_id(id)
        .map_err(|e| Problem::bad_request(format!("eventId {e}")).at("eventId"))?;
    api.store
        .event(id, access.tenant.as_deref())
        .await
        .map_err(|e| failed(&e))?
        .ok_or_else(|| Problem::not_found("there is no such event"))
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
