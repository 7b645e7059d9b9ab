//! What happens to every request before its route sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use herald_routes::{Access, Authority, ClientAddress, Problem};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::Api;
use crate::config::{Network, Origin};

/// How long a browser remembers that it may ask.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// With `auth.mode = "none"` everybody may do everything; else a route that asks for the access of
/// whoever sends a request asks this authority.
pub(super) async fn grant(
    State(authority): State<Option<Authority>>,
    mut request: Request,
    next: Next,
) -> Response {
    let extensions = request.extensions_mut();
    if let Some(authority) = authority {
        extensions.insert(authority);
    } else {
        extensions.insert(Access::unrestricted());
    }
    next.run(request).await
}

/// Keeps web pages of others out, since with `auth.mode = "none"` whoever can ask may do all.
///
/// A page's name can be made to resolve to this machine (DNS rebinding), so the `Host` that is
/// asked must be a loopback one or in `http.hosts`: 421. And a browser says which page asks (RFC
/// 6454 §7): one of another origin may not change anything, nor open a WebSocket, which a browser
/// would let it read (RFC 6455 §10.2): 403.
///
/// Where a token is asked for, any `Host` will do, since no such page has one. Not any origin: a
/// proxy may make the token of a cookie, which a browser sends by itself. A token that is in the
/// query was given to the page.
pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let (hosts, origins) = (&api.hosts, &api.origins);
    match refusal(
        request.method(),
        request.uri(),
        request.headers(),
        hosts,
        origins,
        api.authority.is_some(),
    ) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

/// Answers what browsers ask before they let a page of another origin ask (the CORS protocol of the
/// Fetch standard), and tells them which origins may.
pub(super) fn cross_origin(origins: &[Origin]) -> CorsLayer {
    let known = origins.iter().map(|origin| origin.as_str().parse());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(known.filter_map(Result::ok)))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
        ])
        .max_age(PREFLIGHT)
}

/// Finds out for whom a trusted proxy asks.
pub(super) async fn locate(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(ClientAddress(from)) = request.extensions().get().copied() {
        let client = client_address(from, request.headers(), &api.trusted_proxies);
        request.extensions_mut().insert(ClientAddress(client));
    }
    next.run(request).await
}

/// The last address that no trusted proxy has: what is before it anybody can have written.
fn client_address(from: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let forwarded = headers.get_all("x-forwarded-for").iter().rev();
    let mut client = from;
    for named in forwarded.flat_map(|value| value.to_str().unwrap_or_default().rsplit(',')) {
        let Ok(named) = named.trim().parse() else {
            break;
        };
        if !is_trusted(client) {
            break;
        }
        client = named;
    }
    client
}

fn refusal(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    hosts: &[String],
    origins: &[Origin],
    by_token: bool,
) -> Option<Problem> {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or(""));
    // HTTP/2 has it in the URI (RFC 9113 §8.3.1), which goes before the header in HTTP/1.1 too
    // (RFC 9112 §3.2.2).
    let host = uri
        .authority()
        .map(|authority| authority.as_str())
        .or(text(header::HOST));
    if !by_token && host.is_some_and(|host| !is_ours(host, hosts)) {
        let detail = "herald is not known by this host name: add it to http.hosts";
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if text(header::ORIGIN).is_some_and(|asks| origins.iter().any(|known| known.as_str() == asks)) {
        return None;
    }
    let origin = text(header::ORIGIN).map(|o| o.split_once("://").map_or("", |(_, rest)| rest));
    let from_us = |origin: &str| Some(origin) == host || names(origin, hosts);
    let mut query = uri.query().unwrap_or_default().split('&');
    let has_token = by_token && query.any(|part| part.starts_with("access_token="));
    let upgrades = headers.contains_key(header::UPGRADE) && !has_token;
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
    fn a_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted: Vec<Network> = ["127.0.0.1", "10.0.0.0/8"]
            .map(|network| network.parse().expect("a network"))
            .into();
        let client = |from: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().expect("a value"));
            }
            let from = from.parse().expect("an address");
            client_address(from, &headers, &trusted).to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        let chain = ["1.1.1.1, 198.51.100.7", "10.1.1.1"];
        assert_eq!(client("127.0.0.1", &chain), "198.51.100.7");
        assert_eq!(client("127.0.0.1", &["nonsense"]), "127.0.0.1");
    }

    #[test]
    fn a_page_of_another_origin_may_read_but_neither_change_anything_nor_upgrade() {
        let hosts = ["events.example.com".to_owned()];
        let app: Origin = "https://app.example.com".parse().expect("an origin");
        let status = |method: Method, origin: &'static str, upgrade: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:3001"));
            if !origin.is_empty() {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            if upgrade {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            let uri = Uri::from_static("/events");
            let app = std::slice::from_ref(&app);
            refusal(&method, &uri, &headers, &hosts, app, false).map(|problem| problem.status)
        };
        for ours in [
            "",
            "http://127.0.0.1:3001",
            "https://events.example.com",
            "https://app.example.com",
        ] {
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
    fn a_host_in_the_uri_is_looked_at_and_goes_before_the_header() {
        let status = |uri: &'static str, origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost"));
            headers.insert(header::ORIGIN, origin.parse().expect("a value"));
            let refused = refusal(
                &Method::POST,
                &Uri::from_static(uri),
                &headers,
                &[],
                &[],
                false,
            );
            refused.map(|problem| problem.status)
        };
        let ours = "https://127.0.0.1:3001";
        assert_eq!(status("https://127.0.0.1:3001/events", ours), None);
        assert_eq!(status("https://localhost:3001/events", ours), Some(403));
        assert_eq!(status("https://evil.example/events", ours), Some(421));
        assert_eq!(status("https://evil@localhost/events", ours), Some(421));
    }

    #[test]
    fn with_tokens_any_host_will_do_and_a_page_of_another_origin_needs_its_own() {
        let status = |uri, upgrade: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("events.example.com"));
            let origin = HeaderValue::from_static("https://evil.example");
            headers.insert(header::ORIGIN, origin);
            let method = if upgrade { Method::GET } else { Method::POST };
            if upgrade {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            let refused = refusal(&method, &Uri::from_static(uri), &headers, &[], &[], true);
            refused.map(|problem| problem.status)
        };
        assert_eq!(status("/ws?tenantId=a&access_token=x", true), None);
        assert_eq!(status("/ws?tenantId=a", true), Some(403));
        assert_eq!(status("/events?access_token=x", false), Some(403));
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
