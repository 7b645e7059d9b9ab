//! The sink's HTTP routes, and a page to try Web Push in a browser.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::Utc;
use herald_contract::{Subscription, check_tenant};
use herald_routes::{Access, Body, Problem, Scope};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::WebPush;
use crate::encrypt::{EncryptError, Receiver};
use crate::endpoint::Endpoint;

/// A subscription is some 500 bytes; its endpoint may take 2 KiB.
const MAX_BODY: usize = 16 * 1024;

pub fn router(sink: Arc<WebPush>) -> Router {
    Router::new()
        .route("/push", get(page))
        .route("/push/page.js", get(script))
        .route("/push/page.css", get(style))
        .route("/push/worker.js", get(worker))
        .route("/push/key", get(key))
        .route("/push/subscriptions", post(subscribe).delete(unsubscribe))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(sink)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    public_key: String,
}

/// What browsers subscribe with. It is public, so anyone may ask.
async fn key(State(sink): State<Arc<WebPush>>) -> Json<Key> {
    Json(Key {
        public_key: sink.public_key(),
    })
}

/// `{tenantId, userId?, subscription}`, or the subscription's own fields beside `tenantId`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscribe {
    tenant_id: Option<String>,
    user_id: Option<String>,
    subscription: Option<PushSubscription>,
    endpoint: Option<String>,
    keys: Option<Keys>,
}

/// What `PushSubscription.toJSON()` gives (W3C Push API §8). Its `expirationTime` is not kept:
/// the push service says when a subscription has ended.
#[derive(Deserialize)]
struct PushSubscription {
    endpoint: String,
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

#[derive(Serialize)]
struct Subscribed {
    id: Ulid,
}

async fn subscribe(
    State(sink): State<Arc<WebPush>>,
    access: Access,
    Body(body): Body<Subscribe>,
) -> Result<(StatusCode, Json<Subscribed>), Problem> {
    let tenant_id = access.tenant(Scope::Subscribe, body.tenant_id.as_deref())?;
    let user_id = body.user_id.filter(|user| !user.is_empty());
    if let Some(user) = &user_id {
        check_tenant(user).map_err(|e| Problem::invalid("userId", format!("userId {e}")))?;
    }
    let (at, given) = match (body.subscription, body.endpoint, body.keys) {
        (Some(given), _, _) => ("subscription.", given),
        (None, Some(endpoint), Some(keys)) => ("", PushSubscription { endpoint, keys }),
        (None, Some(_), None) => return Err(Problem::invalid("keys", "keys is required")),
        _ => {
            return Err(Problem::invalid(
                "subscription",
                "subscription is required: what PushSubscription.toJSON() gives",
            ));
        }
    };
    Endpoint::new(&given.endpoint, sink.config.private_endpoints)
        .map_err(|e| Problem::invalid(format!("{at}endpoint"), format!("endpoint {e}")))?;
    let receiver = Receiver::new(&given.keys.p256dh, &given.keys.auth)
        .and_then(|receiver| receiver.prove().map(|()| receiver))
        .map_err(|e| key_problem(at, e))?;
    let (p256dh, auth) = receiver.to_base64();
    let subscription = Subscription {
        id: Ulid::generate(),
        tenant_id,
        user_id,
        endpoint: given.endpoint,
        p256dh,
        auth,
        created_at: Utc::now(),
    };
    let id = sink.host.subscriptions.put(subscription).await?;
    Ok((StatusCode::CREATED, Json(Subscribed { id })))
}

fn key_problem(at: &str, error: EncryptError) -> Problem {
    let field = match error {
        EncryptError::PublicKey => "p256dh",
        EncryptError::Auth => "auth",
        EncryptError::TooLong | EncryptError::Random => {
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
    };
    Problem::invalid(format!("{at}keys.{field}"), error.to_string())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Unsubscribe {
    tenant_id: Option<String>,
    endpoint: String,
}

async fn unsubscribe(
    State(sink): State<Arc<WebPush>>,
    access: Access,
    Body(body): Body<Unsubscribe>,
) -> Result<StatusCode, Problem> {
    let tenant = access.tenant(Scope::Subscribe, body.tenant_id.as_deref())?;
    let subscriptions = &sink.host.subscriptions;
    if subscriptions.remove(&tenant, &body.endpoint).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("the tenant has no such subscription").at("endpoint"))
    }
}

/// What the test page is made of; nothing comes from elsewhere, and the browser holds it to that.
type Page = ([(HeaderName, &'static str); 3], &'static str);

fn part(kind: &'static str, text: &'static str) -> Page {
    let policy =
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, policy),
        ],
        text,
    )
}

async fn page() -> impl IntoResponse {
    part("text/html; charset=utf-8", include_str!("pages/page.html"))
}

async fn script() -> impl IntoResponse {
    part(
        "text/javascript; charset=utf-8",
        include_str!("pages/page.js"),
    )
}

async fn style() -> impl IntoResponse {
    part("text/css; charset=utf-8", include_str!("pages/page.css"))
}

async fn worker() -> impl IntoResponse {
    part(
        "text/javascript; charset=utf-8",
        include_str!("pages/worker.js"),
    )
}
