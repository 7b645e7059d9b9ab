//! Broken cursors, parameters and commands: a clear answer, still alive.

use serde_json::json;

use crate::harness::{Config, Home};

/// Paths with broken cursors and parameters, and perhaps a `Last-Event-ID`.
const QUERIES: &[(&str, Option<&str>)] = &[
    ("/events", None),
    ("/events?tenantId=", None),
    ("/events?tenantId=a%0Ab", None),
    ("/events?tenantId=a%00b", None),
    ("/events?tenantId=acme&after=abc", None),
    ("/events?tenantId=acme&after=-1", None),
    ("/events?tenantId=acme&after=99999999999999999999", None),
    ("/events?tenantId=acme&limit=0", None),
    ("/events?tenantId=acme&limit=many", None),
    ("/events?tenantId=acme&order=up", None),
    ("/events?tenantId=acme&types=or*der", None),
    ("/sse", None),
    ("/sse?tenantId=a%0Db", None),
    ("/sse?tenantId=acme&after=abc", None),
    ("/sse?tenantId=acme&after=99999999999999999999", None),
    ("/sse?tenantId=acme&types=a%0Ab", None),
    ("/sse?tenantId=acme&lastEventId=zzz", None),
    ("/sse?tenantId=acme&lastEventId=a%00b", None),
    ("/sse?tenantId=acme", Some("zzz")),
    ("/sse?tenantId=acme", Some("\u{e4}")),
    ("/events/zzz?tenantId=acme", None),
    ("/events/zzz/deliveries?tenantId=acme", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn broken_cursors_and_parameters_get_a_problem() {
    let home = Home::new(&Config::embedded().sse());
    let mut herald = home.start().await;
    for (path, last_id) in QUERIES {
        let headers: Vec<_> = last_id.iter().map(|id| ("last-event-id", *id)).collect();
        let reply = herald.api.request("GET", path, &headers, "").await;
        let reply = reply.unwrap_or_else(|e| panic!("{path}: {e}"));
        reply.problem(path, &[400, 404, 422]);
        assert!(herald.is_running(), "{path}");
    }
    let missing = herald.api.get("/no/such/route").await;
    assert_eq!(missing.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_commands_get_a_problem() {
    let home = Home::new(&Config::embedded().sse().push());
    let mut herald = home.start().await;
    let keys = json!({"p256dh": "AAAA", "auth": "AAAA"});
    let place = "https://push.example.net/a";
    for (path, body) in [
        ("/push/subscriptions", json!({})),
        ("/push/subscriptions", json!({"tenantId": "acme"})),
        (
            "/push/subscriptions",
            json!({"tenantId": "acme", "subscription": {"endpoint": place, "keys": keys}}),
        ),
        (
            "/push/subscriptions",
            json!({"tenantId": "acme", "endpoint": "file:///etc/passwd", "keys": keys}),
        ),
        ("/dead/replay", json!({"sinck": "email"})),
        ("/dead/replay", json!({"eventId": "zzz"})),
        ("/dead/drop", json!([])),
        ("/sinks/no-such-sink/pause", json!({})),
    ] {
        let reply = herald.api.post(path, &body).await;
        reply.problem(&format!("{path} {body}"), &[400, 404, 422]);
    }
    assert!(herald.is_running());
}
