//! Files in the binary: the console, a page without a build step, and the client for pages of others.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TYPES: &str = "text/plain; charset=utf-8";

/// Scripts and styles from here alone (CSP level 3), so that no payload can become one.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; frame-ancestors 'self'";

/// A worker has the policy of its script, and herald may be elsewhere.
const CLIENT_POLICY: &str = "default-src 'self'; connect-src *";

pub(super) fn routes() -> Router {
    let file = |kind, text| self::file(kind, POLICY, text);
    Router::new()
        .route("/", file(HTML, include_str!("console/index.html")))
        .route("/console.css", file(CSS, include_str!("console/style.css")))
        .route("/console.js", file(SCRIPT, include_str!("console/app.js")))
        .route(
            "/console/feed.js",
            file(SCRIPT, include_str!("console/feed.js")),
        )
        .route(
            "/console/page.js",
            file(SCRIPT, include_str!("console/page.js")),
        )
        .route(
            "/openapi.json",
            file("application/json", include_str!("openapi.json")),
        )
        .merge(client())
}

/// `import { connect } from "/client.js"`, and what that imports.
fn client() -> Router {
    let script = |text| file(SCRIPT, CLIENT_POLICY, text);
    Router::new()
        .route("/client.js", script(include_str!("client/client.js")))
        .route(
            "/client.d.ts",
            file(TYPES, CLIENT_POLICY, include_str!("client/client.d.ts")),
        )
        .route(
            "/client/channel.js",
            script(include_str!("client/channel.js")),
        )
        .route("/client/links.js", script(include_str!("client/links.js")))
        .route(
            "/client/transports.js",
            script(include_str!("client/transports.js")),
        )
        .route(
            "/client/upstream.js",
            script(include_str!("client/upstream.js")),
        )
}

/// A file of the binary; asked for again each time, so that an upgrade is seen at once.
fn file(
    kind: &'static str,
    policy: &'static str,
    text: &'static str,
) -> axum::routing::MethodRouter {
    get(async move || {
        let head = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        (head, text).into_response()
    })
}
