//! What happens to every request before its route sees it.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use herald_routes::{Access, Problem};

use super::Api;

/// With `auth.mode = "none"` everybody may do everything.
pub(super) async fn grant(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Access::unrestricted());
    next.run(request).await
}

/// A browser says which page asks (RFC 6454 §7). A page of another origin may not change
/// anything: without this, any web page could emit events through a visitor's own herald.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    let changes = !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if changes && !origin_is_ours(&request) {
        let detail = "requests that change something must come from herald's own origin";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    next.run(request).await
}

/// Whether there is no `Origin`, or its authority is the one that was asked.
fn origin_is_ours(request: &Request) -> bool {
    let text = |name| {
        request
            .headers()
            .get(name)
            .map(|v| v.to_str().unwrap_or(""))
    };
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority == host),
        (Some(_), None) => false,
    }
}

/// Counts requests by route, never by path.
pub(super) async fn measure(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "(none)".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    // Any token is a method; only the known ones may become labels.
    let method = match method {
        Method::GET | Method::POST | Method::DELETE | Method::HEAD | Method::OPTIONS => {
            method.to_string()
        }
        _ => "other".to_owned(),
    };
    api.metrics
        .http_requests
        .with_label_values(&[route.as_str(), &method, response.status().as_str()])
        .inc();
    api.metrics
        .http_request_seconds
        .observe(began.elapsed().as_secs_f64());
    response
}
