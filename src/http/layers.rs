//! What happens to every request before its route sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use herald_routes::{Access, Problem};

use super::Api;

/// With `auth.mode = "none"` everybody may do everything.
pub(super) async fn grant(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Access::unrestricted());
    next.run(request).await
}

/// Keeps web pages of others out, since with `auth.mode = "none"` whoever can ask may do all.
///
/// A page's name can be made to resolve to this machine (DNS rebinding), so the `Host` that is
/// asked must be a loopback one or in `http.hosts`: 421. And a browser says which page asks (RFC
/// 6454 §7): one of another origin may not change anything, nor open a WebSocket, which a browser
/// would let it read (RFC 6455 §10.2): 403.
pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match refusal(request.method(), request.headers(), &api.hosts) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(method: &Method, headers: &HeaderMap, hosts: &[String]) -> Option<Problem> {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or(""));
    let host = text(header::HOST);
    if host.is_some_and(|host| !is_ours(host, hosts)) {
        let detail = "herald is not known by this host name: add it to http.hosts";
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let origin = text(header::ORIGIN).map(|o| o.split_once("://").map_or("", |(_, rest)| rest));
    let from_us = |origin: &str| Some(origin) == host || names(origin, hosts);
    let upgrades = headers.contains_key(header::UPGRADE);
    if (!reads || upgrades) && origin.is_some_and(|origin| !from_us(origin)) {
        let detail = match upgrades {
            true => "WebSockets must come from herald's own origin",
            false => "requests that change something must come from herald's own origin",
        };
        return Some(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    None
}

fn is_ours(authority: &str, hosts: &[String]) -> bool {
    let host = without_port(authority);
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.is_ok_and(|address| address.is_loopback())
        || host.eq_ignore_ascii_case("localhost")
        || names(authority, hosts)
}

fn names(authority: &str, hosts: &[String]) -> bool {
    let host = without_port(authority);
    hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
}

/// `[::1]:3001` is `[::1]`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_page_of_another_origin_may_read_but_neither_change_anything_nor_upgrade() {
        let hosts = ["events.example.com".to_owned()];
        let status = |method: Method, origin: &'static str, upgrade: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:3001"));
            if !origin.is_empty() {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            if upgrade {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            refusal(&method, &headers, &hosts).map(|problem| problem.status)
        };
        for ours in ["", "http://127.0.0.1:3001", "https://events.example.com"] {
            assert_eq!(status(Method::POST, ours, false), None, "{ours}");
            assert_eq!(status(Method::GET, ours, true), None, "{ours}");
        }
        for other in ["https://evil.example", "http://127.0.0.1:8080", "null"] {
            assert_eq!(status(Method::GET, other, false), None, "{other}");
            assert_eq!(status(Method::POST, other, false), Some(403), "{other}");
            assert_eq!(status(Method::GET, other, true), Some(403), "{other}");
        }
    }

    #[test]
    fn only_loopback_hosts_and_those_configured_are_ours() {
        let hosts = ["events.example.com".to_owned()];
        for ours in [
            "127.0.0.1:3001",
            "localhost",
            "LOCALHOST:3001",
            "[::1]:3001",
            "events.example.com",
            "Events.Example.com:443",
        ] {
            assert!(is_ours(ours, &hosts), "{ours}");
        }
        for other in [
            "evil.example:3001",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "192.168.0.7:3001",
            "",
        ] {
            assert!(!is_ours(other, &hosts), "{other}");
        }
    }
}
