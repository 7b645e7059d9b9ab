//! The routes, called without a network.

use axum::Extension;
use herald_routes::{Access, Scope};
use tower_service::Service as _;

use super::*;

async fn call(
    bench: &Bench,
    access: Option<Access>,
    method: &str,
    path: &str,
    body: Value,
) -> (StatusCode, HeaderMap, String) {
    let mut app = bench.sink.routes();
    if let Some(access) = access {
        app = app.layer(Extension(access));
    }
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::from(body))
        .expect("a request");
    let Ok(response) = app.call(request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("whole").to_bytes();
    (
        head.status,
        head.headers,
        String::from_utf8(body.into()).expect("text"),
    )
}

async fn json_call(bench: &Bench, method: &str, body: Value) -> (u16, Value) {
    let access = Some(Access::unrestricted());
    let (status, _, text) = call(bench, access, method, "/push/subscriptions", body).await;
    (
        status.as_u16(),
        serde_json::from_str(&text).unwrap_or_default(),
    )
}

/// What `PushSubscription.toJSON()` gives.
fn from_browser(endpoint: &str) -> Value {
    let (row, _) = subscription("", None, endpoint);
    json!({
        "endpoint": endpoint, "expirationTime": null,
        "keys": {"p256dh": format!("{}=", row.p256dh), "auth": format!("{}==", row.auth)},
    })
}

#[tokio::test]
async fn a_browser_subscribes_again_keeps_its_id_and_unsubscribes() {
    let bench = bench(json!({}));
    let endpoint = "https://push.example.net/1";
    let body = json!({"tenantId": "acme", "userId": "ann", "subscription": from_browser(endpoint)});
    let (status, first) = json_call(&bench, "POST", body).await;
    assert_eq!(status, 201, "{first}");
    {
        let rows = bench.store.all();
        assert_eq!(rows[0].id.to_string(), first["id"].as_str().expect("an id"));
        assert_eq!(rows[0].user_id.as_deref(), Some("ann"));
        assert!(!rows[0].p256dh.contains('='), "stored without padding");
    }
    let mut flat = from_browser(endpoint);
    flat["tenantId"] = "acme".into();
    let (status, second) = json_call(&bench, "POST", flat).await;
    assert_eq!((status, second), (201, first));

    let remove = json!({"tenantId": "acme", "endpoint": endpoint});
    assert_eq!(json_call(&bench, "DELETE", remove.clone()).await.0, 204);
    assert_eq!(json_call(&bench, "DELETE", remove).await.0, 404);
}

#[tokio::test]
async fn a_bad_subscription_is_refused_with_the_field_at_fault() {
    let bench = bench(json!({}));
    let good =
        json!({"tenantId": "acme", "subscription": from_browser("https://push.example.net/1")});
    let off_curve = base64url::encode([[4].as_slice(), &[1; 64]].concat());
    for (pointer, value, status, field) in [
        ("/tenantId", json!(""), 400, "tenantId"),
        ("/tenantId", json!("a\nb"), 422, "tenantId"),
        ("/tenantId", json!(7), 422, "tenantId"),
        ("/subscription", Value::Null, 422, "subscription"),
        (
            "/subscription/endpoint",
            json!("http://push.example.net/"),
            422,
            "subscription.endpoint",
        ),
        (
            "/subscription/endpoint",
            json!("https://10.0.0.1/"),
            422,
            "subscription.endpoint",
        ),
        (
            "/subscription/endpoint",
            json!("https://a@b/"),
            422,
            "subscription.endpoint",
        ),
        (
            "/subscription/endpoint",
            json!("https://a/".to_owned() + &"x".repeat(2048)),
            422,
            "subscription.endpoint",
        ),
        (
            "/subscription/keys/p256dh",
            json!("AAAA"),
            422,
            "subscription.keys.p256dh",
        ),
        (
            "/subscription/keys/p256dh",
            json!(off_curve),
            422,
            "subscription.keys.p256dh",
        ),
        (
            "/subscription/keys/auth",
            json!("AAAA"),
            422,
            "subscription.keys.auth",
        ),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("there") = value;
        let (got, problem) = json_call(&bench, "POST", bad).await;
        assert_eq!(
            (got, &problem["field"]),
            (status, &json!(field)),
            "{pointer} {problem}"
        );
    }
    let mut bad_user = good;
    bad_user["userId"] = "x".repeat(129).into();
    assert_eq!(
        json_call(&bench, "POST", bad_user).await.1["field"],
        "userId"
    );
    let huge = json!({"tenantId": "x".repeat(20_000)});
    assert_eq!(json_call(&bench, "POST", huge).await.0, 413);
    assert!(bench.store.all().is_empty());
}

#[tokio::test]
async fn a_token_subscribes_for_its_own_tenant_only() {
    let bench = bench(json!({}));
    let of = |tenant: &str, scope| {
        Some(Access {
            tenant: Some(tenant.into()),
            scopes: vec![scope],
            expires_at: None,
        })
    };
    let body =
        json!({"tenantId": "acme", "subscription": from_browser("https://push.example.net/1")});
    for (access, expected) in [
        (None, 401),
        (of("beta", Scope::Subscribe), 403),
        (of("acme", Scope::Publish), 403),
        (of("acme", Scope::Subscribe), 201),
    ] {
        let path = "/push/subscriptions";
        let (status, ..) = call(&bench, access, "POST", path, body.clone()).await;
        assert_eq!(status, expected);
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_said_so() {
    let bench = bench(json!({}));
    bench.store.away.store(true, Ordering::Relaxed);
    let body =
        json!({"tenantId": "acme", "subscription": from_browser("https://push.example.net/1")});
    assert_eq!(json_call(&bench, "POST", body).await.0, 503);
}

#[tokio::test]
async fn the_key_and_the_test_page_are_open_to_all() {
    let bench = bench(json!({}));
    let (status, _, key) = call(&bench, None, "GET", "/push/key", Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(
        key,
        json!({"publicKey": bench.sink.public_key()}).to_string()
    );
    for (path, kind) in [
        ("/push", "text/html"),
        ("/push/page.js", "text/javascript"),
        ("/push/page.css", "text/css"),
        ("/push/worker.js", "text/javascript"),
    ] {
        let (status, headers, text) = call(&bench, None, "GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}");
        let given = headers["content-type"].to_str().expect("ASCII");
        assert!(given.starts_with(kind), "{path}: {given}");
        assert!(
            !text.contains("https://"),
            "{path} loads nothing from elsewhere"
        );
    }
}
