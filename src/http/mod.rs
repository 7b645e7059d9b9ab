//! The HTTP side: the API, the console, health and metrics, and the routes that sinks bring.

mod console;
mod dead;
mod emit;
mod events;
mod health;
mod layers;
mod server;
mod sinks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{get, post};
use herald_contract::History;
use herald_routes::{Authority, Problem};
use tokio::sync::Notify;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::broker::Broker;
use crate::config::{Network, Origin};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

pub use server::serve;
pub use sinks::{AtWork, Health, SinkHandle};

/// For the next part of a request's body: whoever vanishes in the middle is not waited for.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What the routes share.
pub struct Api {
    pub store: Arc<dyn Store>,
    pub broker: Arc<dyn Broker>,
    pub history: Arc<dyn History>,
    pub metrics: Arc<Metrics>,
    /// Wakes the relay when an event was emitted through this process.
    pub emitted: Arc<Notify>,
    pub sinks: Vec<Arc<SinkHandle>>,
    /// Whether this process runs the relay.
    pub relays: bool,
    /// Names beside loopback ones by which it may be asked.
    pub hosts: Vec<String>,
    /// Origins of pages beside herald's own that may ask.
    pub origins: Vec<Origin>,
    /// Who judges tokens; `None` where everybody may do everything.
    pub authority: Option<Authority>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Largest payload of one event, in bytes.
    pub max_payload: usize,
}

/// Everything that this process answers, with the routes of its sinks.
pub fn router(api: Arc<Api>, of_sinks: Router) -> Router {
    let max_body = api.max_body;
    let router = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz_for_all))
        .route("/metrics", get(health::metrics_for_operators))
        .route("/events", post(emit::emit).get(events::list))
        .route("/events/{event_id}", get(events::show))
        .route("/events/{event_id}/deliveries", get(events::deliveries))
        .route("/dead", get(dead::list))
        .route("/dead/replay", post(dead::replay))
        .route("/dead/drop", post(dead::discard))
        .route("/sinks", get(sinks::list))
        .route("/sinks/{name}/pause", post(sinks::pause))
        .route("/sinks/{name}/resume", post(sinks::resume))
        .with_state(api.clone())
        .merge(console::routes())
        .merge(of_sinks)
        .fallback(async || Problem::not_found("there is nothing here"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this route has another method",
            )
        })
        .layer(DefaultBodyLimit::max(max_body))
        .layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT));
    let authority = api.authority.clone();
    let router = router
        .layer(middleware::from_fn_with_state(api.clone(), layers::guard))
        .layer(middleware::from_fn_with_state(authority, layers::grant))
        .layer(middleware::from_fn_with_state(api.clone(), layers::locate));
    // Nobody needs to be told that no other origin may.
    let router = match api.origins.as_slice() {
        [] => router,
        origins => router.layer(layers::cross_origin(origins)),
    };
    router.layer(middleware::from_fn_with_state(api, layers::measure))
}

/// What whatever watches herald asks of every process, and nothing else.
pub fn operations(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(api.clone())
        .fallback(async || Problem::not_found("there is nothing here"))
        .layer(middleware::from_fn_with_state(api, layers::measure))
}

/// What a stranger learns of a failure; the log has the rest.
fn failed(error: &StoreError) -> Problem {
    match error {
        StoreError::Unavailable(_) => {
            tracing::warn!(error = %error, "a request failed");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the database cannot be reached; try again",
            )
        }
        StoreError::Conflict { index } => Problem::new(
            StatusCode::CONFLICT,
            format!("event {index}: this eventId is taken"),
        )
        .at("eventId"),
        _ => {
            tracing::error!(error = %error, "a request failed");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "herald failed; its log says why",
            )
        }
    }
}
