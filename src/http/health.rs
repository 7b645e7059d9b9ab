//! Alive, able, and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use herald_routes::{Access, Problem, Refusal, Scope};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::Api;
use super::sinks::{AtWork, Health};

/// How long a part may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Part {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Whether the process answers at all.
pub(super) async fn healthz() -> Response {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// Whether it can do its job: 503 without its store or its broker. A sink whose far end is away is
/// named, but this process is not at fault, and sending requests to another would not help.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    ready(&api, true).await
}

/// Where strangers may come too: they do not learn why.
pub(super) async fn readyz_for_all(
    State(api): State<Arc<Api>>,
    access: Result<Access, Refusal>,
) -> Response {
    let is_operator = access.is_ok_and(|access| access.require(Scope::Admin).is_ok());
    ready(&api, is_operator).await
}

async fn ready(api: &Api, details: bool) -> Response {
    let (store, broker) = tokio::join!(well(api.store.ping()), well(api.broker.ping()));
    let ready = store.ok && broker.ok;
    let mut parts = BTreeMap::from([("store".to_owned(), store), ("broker".to_owned(), broker)]);
    if api.relays {
        let leads = api.metrics.relay_leader.get() == 1;
        let detail = if leads { "leads" } else { "stands by" };
        let part = Part {
            ok: true,
            detail: Some(detail.to_owned()),
        };
        parts.insert("relay".to_owned(), part);
    }
    for sink in &api.sinks {
        let part = match &sink.at_work {
            AtWork::Competing { health, .. } => part(&health.borrow()),
            AtWork::Broadcast(_) => part(&Health::Asked(Ok(()))),
        };
        parts.insert(format!("sink {}", sink.name), part);
    }
    if !details {
        parts.values_mut().for_each(|part| part.detail = None);
    }
    let (code, status) = if ready {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "degraded")
    };
    (code, Json(json!({"status": status, "parts": parts}))).into_response()
}

fn part(health: &Health) -> Part {
    match health {
        Health::Asked(answer) => Part {
            ok: answer.is_ok(),
            detail: answer.as_ref().err().cloned(),
        },
        Health::Unknown => Part {
            ok: true,
            detail: Some("not asked yet".to_owned()),
        },
    }
}

async fn well<E: std::fmt::Display>(check: impl Future<Output = Result<(), E>>) -> Part {
    let detail = match timeout(PATIENCE, check).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    Part {
        ok: detail.is_none(),
        detail,
    }
}

/// Where strangers may come too.
pub(super) async fn metrics_for_operators(
    api: State<Arc<Api>>,
    access: Access,
) -> Result<Response, Problem> {
    access.require(Scope::Admin)?;
    metrics(api).await
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let text = api.metrics.render().map_err(|error| {
        tracing::error!(error = %error, "metrics cannot be rendered");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "herald failed; its log says why",
        )
    })?;
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}
