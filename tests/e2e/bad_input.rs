//! Bad events: a clear answer, nothing stored, still alive.

use serde_json::{Value, json};

use crate::harness::{Api, Config, Home, eventually, seconds, text};

const EVENT: &str = r#"{"tenantId":"acme","type":"order.created","payload":{}}"#;

/// A body for `POST /events`, the statuses that are right, and the field that must be named.
struct Bad {
    what: &'static str,
    body: String,
    statuses: &'static [u16],
    field: Option<&'static str>,
}

fn bad(
    what: &'static str,
    body: impl Into<String>,
    statuses: &'static [u16],
    field: &'static str,
) -> Bad {
    Bad {
        what,
        body: body.into(),
        statuses,
        field: (!field.is_empty()).then_some(field),
    }
}

fn event(change: impl FnOnce(&mut Value)) -> String {
    let mut event: Value = serde_json::from_str(EVENT).expect("valid");
    change(&mut event);
    event.to_string()
}

fn set(field: &str, value: impl Into<Value>) -> String {
    event(|e| e[field] = value.into())
}

fn bodies() -> Vec<Bad> {
    let unreadable: &[u16] = &[400];
    let wrong: &[u16] = &[400, 422];
    let many: Value = (0..1_001)
        .map(|_| serde_json::from_str::<Value>(EVENT).expect("valid"))
        .collect();
    let one_of_three = format!(r#"[{EVENT},{},{EVENT}]"#, set("type", "a b"));
    let taken_twice = json!([
        {"tenantId": "acme", "type": "a", "payload": 1, "eventId": "01JD5Z0000000000000000000!"},
    ]);
    vec![
        bad("nothing", "", unreadable, ""),
        bad("no JSON", "{", unreadable, ""),
        bad(
            "something behind the JSON",
            format!("{EVENT} x"),
            unreadable,
            "",
        ),
        bad(
            "not UTF-8 in disguise",
            r#"{"tenantId":"\ud800"}"#,
            wrong,
            "",
        ),
        bad("a number", "7", wrong, ""),
        bad(
            "a deep nest",
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
            wrong,
            "",
        ),
        bad("an unknown field", set("tenant", "acme"), wrong, ""),
        bad(
            "no tenant",
            event(|e| {
                e.as_object_mut().expect("object").remove("tenantId");
            }),
            wrong,
            "",
        ),
        bad(
            "no type",
            event(|e| {
                e.as_object_mut().expect("object").remove("type");
            }),
            wrong,
            "",
        ),
        bad(
            "no payload",
            event(|e| {
                e.as_object_mut().expect("object").remove("payload");
            }),
            wrong,
            "",
        ),
        bad(
            "a tenant that is a number",
            set("tenantId", 7),
            wrong,
            "tenantId",
        ),
        bad(
            "a type that is a list",
            set("type", json!(["a"])),
            wrong,
            "type",
        ),
        bad("an empty tenant", set("tenantId", ""), wrong, "tenantId"),
        bad(
            "a tenant with space at its end",
            set("tenantId", "acme "),
            wrong,
            "tenantId",
        ),
        bad(
            "a tenant with LF",
            set("tenantId", "ac\nme"),
            wrong,
            "tenantId",
        ),
        bad(
            "a tenant with NUL",
            set("tenantId", "ac\0me"),
            wrong,
            "tenantId",
        ),
        bad(
            "a tenant that is too long",
            set("tenantId", "x".repeat(129)),
            wrong,
            "tenantId",
        ),
        bad("an empty type", set("type", ""), wrong, "type"),
        bad("a type with CR", set("type", "a\rid: 1"), wrong, "type"),
        bad("a type with LF", set("type", "a\ndata: 1"), wrong, "type"),
        bad("a type with NUL", set("type", "a\0"), wrong, "type"),
        bad("a type with a star", set("type", "order.*"), wrong, "type"),
        bad(
            "a type that is too long",
            set("type", "x".repeat(129)),
            wrong,
            "type",
        ),
        bad(
            "an id that is no ULID",
            set("eventId", "seven"),
            wrong,
            "eventId",
        ),
        bad(
            "an id with LF",
            set("eventId", "01JD5Z\n0000000000000000000"),
            wrong,
            "eventId",
        ),
        bad(
            "an id that is a number",
            set("eventId", 7),
            wrong,
            "eventId",
        ),
        bad(
            "a list with an id that is no ULID",
            taken_twice.to_string(),
            wrong,
            "",
        ),
        bad("a list with one bad event", one_of_three, wrong, ""),
        bad(
            "an event as a list of its values",
            r#"[["acme","order.created",{}]]"#,
            wrong,
            "",
        ),
        bad("too many events", many.to_string(), &[400, 413, 422], ""),
        bad(
            "a payload that is too large",
            set("payload", "x".repeat(300 << 10)),
            &[413],
            "payload",
        ),
        bad(
            "a body that is too large",
            set("payload", "x".repeat(5 << 20)),
            &[413],
            "",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_get_a_problem_that_names_the_fault_and_nothing_is_stored() {
    let home = Home::new(&Config::embedded().sse());
    let mut herald = home.start().await;
    // A connection for each: after a body that is too large the server closes it.
    let post = async |body: String| {
        let api = Api::new(herald.api.base.clone());
        api.request("POST", "/events", &[], body).await
    };
    let kept = post(EVENT.into()).await.expect("answers").expect(201);
    let taken = event(|e| {
        e["tenantId"] = "another-tenant".into();
        e["eventId"] = text(&kept, "eventId").into();
    });
    let taken = bad(
        "an id that another tenant's event has",
        taken,
        &[409, 422],
        "",
    );
    for bad in bodies().into_iter().chain([taken]) {
        let reply = post(bad.body).await;
        let reply = reply.unwrap_or_else(|e| panic!("{}: {e}", bad.what));
        let problem = reply.problem(bad.what, bad.statuses);
        if let Some(field) = bad.field {
            let named = problem["field"].as_str().unwrap_or_default();
            assert!(named.ends_with(field), "{}: {field} in {problem}", bad.what);
        }
    }
    // One more good one: it is the next, so nothing came between.
    let last = post(EVENT.into()).await.expect("answers").expect(201);
    let feed = eventually("both are in the feed", seconds(10), async || {
        let feed = herald.api.feed("acme", 100).await;
        (feed.len() >= 2).then_some(feed)
    })
    .await;
    let ids: Vec<_> = feed.iter().map(|e| text(e, "eventId")).collect();
    let expected = [text(&kept, "eventId"), text(&last, "eventId")];
    assert_eq!(ids, expected, "nothing else was stored");
    assert!(herald.api.feed("another-tenant", 100).await.is_empty());
    assert!(herald.is_running());
}
