//! The sink as its host sees it, before a mail server that follows a script.

mod server;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use herald_contract::{Delivery, Event, Outcome, Recipient, Sink, SinkConfig};
use herald_routes::Access;
use serde_json::json;
use tower_service::Service;
use ulid::Ulid;

use crate::{Config, Email};
use server::{Reply, Server};

pub fn event(kind: &str, payload: serde_json::Value) -> Event {
    let json = json!({
        "eventId": Ulid(0x0001_8bcf_e568_0000_0000_0000_0000_002a),
        "aggregateId": 9,
        "tenantId": "acme",
        "type": kind,
        "payload": payload,
        "createdAt": "2023-11-14T22:13:20.123456Z",
    });
    Event::from_json(7, json.to_string().as_bytes()).expect("an event")
}

fn sink(config: serde_json::Value, folder: &std::path::Path) -> Arc<Email> {
    let config: Config = serde_json::from_value(config).expect("well-formed");
    assert_eq!(config.faults(), []);
    let host = herald_testkit::host("email", folder);
    Arc::new(Email::new(config, host).expect("a sink"))
}

fn smtp(server: &Server, more: serde_json::Value) -> Arc<Email> {
    let mut smtp = json!({
        "host": "127.0.0.1", "port": server.port(), "security": "none", "timeout": "5s",
    });
    let table = smtp.as_object_mut().expect("a table");
    table.extend(more.as_object().expect("a table").clone());
    sink(
        json!({"transport": "smtp", "smtp": smtp}),
        "unused".as_ref(),
    )
}

async fn deliver(sink: &Email, to: &str, payload: serde_json::Value) -> Outcome {
    let delivery = Delivery {
        event: Arc::new(event("order.created", payload)),
        recipient: Recipient::new(to),
        attempt: 1,
    };
    let mut outcomes = sink.deliver(&[delivery]).await;
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

fn is_retry(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { .. })
}

#[tokio::test]
async fn a_mail_arrives_intact_and_the_servers_answer_is_kept() {
    let server = Server::start(|_, _| None).await;
    let sink = smtp(&server, json!({}));
    sink.health().await.expect("reachable");
    let text = format!(".\r\n..two\r\nZoë 日本\r\n.\r\n{}", "x".repeat(3000));
    let outcome = deliver(&sink, "jane@example.com", json!(text)).await;
    let response = Some("250 fine".to_owned());
    assert_eq!(outcome, Outcome::Delivered { response });
    let mails = server.mails();
    let (_, body) = mails[0].split_once("\r\n\r\n").expect("a body");
    let decoded = server::decode(&mails[0], body);
    assert!(decoded.starts_with(&text), "{decoded}");
}

#[tokio::test]
async fn connections_are_kept_and_no_more_are_opened_than_the_pool_holds() {
    let server = Server::start(|_, _| None).await;
    let sink = smtp(&server, json!({"pool": 2}));
    for _ in 0..3 {
        deliver(&sink, "jane@example.com", json!({})).await;
    }
    assert_eq!(server.connections(), 1);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let sink = Arc::clone(&sink);
        tasks.push(tokio::spawn(async move {
            deliver(&sink, "jane@example.com", json!({})).await
        }));
    }
    for task in tasks {
        let outcome = task.await.expect("no panic");
        assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    }
    assert_eq!(server.mails().len(), 23);
    assert!(server.connections() <= 2, "{}", server.connections());
}

#[tokio::test]
async fn answers_are_told_apart_by_who_can_mend_them() {
    let cases = [
        ("RCPT", "451 4.3.0 try later", true),
        ("RCPT", "450 greylisted", true),
        ("RCPT", "550 5.1.1 no such user", false),
        ("RCPT", "553 mailbox name not allowed", false),
        ("RCPT", "530 5.7.0 authenticate first", true),
        ("RCPT", "554 5.7.1 relay access denied", true),
        ("MAIL", "550 5.1.8 bad sender", true),
        ("MAIL", "452 4.3.1 disk full", true),
        ("DATA", "554 no", false),
        ("DATA", "421 closing", true),
        (".", "452 4.2.2 mailbox full", true),
        (".", "552 5.3.4 too big", false),
        (".", "550 5.7.1 policy", true),
        ("EHLO", "554 go away", true),
    ];
    for (verb, answer, again) in cases {
        let server = Server::start(move |_, command| {
            command.starts_with(verb).then_some(Reply::Say(answer))
        })
        .await;
        let sink = smtp(&server, json!({}));
        for attempt in ["new", "kept"] {
            let outcome = deliver(&sink, "jane@example.com", json!({})).await;
            let (Outcome::Retry { cause, .. } | Outcome::Reject { cause }) = &outcome else {
                panic!("{verb} {answer} on a {attempt} connection: {outcome:?}");
            };
            assert_eq!(is_retry(&outcome), again, "{verb} {answer}: {outcome:?}");
            assert!(cause.contains(answer), "{cause}");
        }
    }
}

#[tokio::test]
async fn credentials_that_are_refused_are_tried_again_and_make_the_sink_unhealthy() {
    let server = Server::start(|_, command| {
        command
            .starts_with("AUTH")
            .then_some(Reply::Say("535 5.7.8 wrong password"))
    })
    .await;
    let sink = smtp(&server, json!({"username": "me", "password": "s3cret"}));
    let outcome = deliver(&sink, "jane@example.com", json!({})).await;
    assert!(is_retry(&outcome), "{outcome:?}");
    let fault = sink.health().await.expect_err("refused");
    assert!(fault.contains("535 5.7.8 wrong password"), "{fault}");
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_is_tried_again() {
    for verb in ["EHLO", "MAIL", "RCPT", "DATA", "."] {
        let server =
            Server::start(move |_, command| command.starts_with(verb).then_some(Reply::Close))
                .await;
        let sink = smtp(&server, json!({}));
        let outcome = deliver(&sink, "jane@example.com", json!({})).await;
        assert!(is_retry(&outcome), "{verb}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_restarted_costs_no_attempt() {
    for farewell in [Reply::Close, Reply::Say("421 4.3.2 shutting down")] {
        // The first connection carries one mail; then its server is gone.
        let server = Server::start(move |state, command| {
            (state.connection == 1 && state.mails == 1 && command.starts_with("MAIL"))
                .then_some(farewell)
        })
        .await;
        let sink = smtp(&server, json!({}));
        for _ in 0..2 {
            let outcome = deliver(&sink, "jane@example.com", json!({})).await;
            assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
        }
        assert_eq!(server.connections(), 2);
        assert_eq!(server.mails().len(), 2);
    }
}

#[tokio::test]
async fn a_silent_server_is_left_in_time_and_its_late_answer_confuses_nobody() {
    // The first message is never answered in time; the next one must not read that answer.
    let server = Server::start(|state, command| {
        (state.connection == 1 && command == ".").then_some(Reply::Hang)
    })
    .await;
    let sink = smtp(&server, json!({"timeout": "1s"}));
    let outcome = deliver(&sink, "jane@example.com", json!({})).await;
    assert!(is_retry(&outcome), "{outcome:?}");
    let outcome = deliver(&sink, "jane@example.com", json!({})).await;
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    assert_eq!(server.connections(), 2, "the first was given up");
}

#[tokio::test]
async fn nobody_listening_is_tried_again_and_unhealthy() {
    let server = Server::start(|_, _| None).await;
    let sink = smtp(&server, json!({}));
    server.stop().await;
    let outcome = deliver(&sink, "jane@example.com", json!({})).await;
    assert!(is_retry(&outcome), "{outcome:?}");
    assert!(sink.health().await.is_err());
    sink.drain(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_server_without_starttls_gets_no_mail() {
    let server = Server::start(|_, _| None).await;
    let sink = smtp(&server, json!({"security": "starttls"}));
    let outcome = deliver(&sink, "jane@example.com", json!({})).await;
    assert!(
        matches!(&outcome, Outcome::Retry { cause, .. } if cause.contains("STARTTLS")),
        "{outcome:?}"
    );
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn what_is_no_address_is_rejected_and_the_good_ones_get_mail() {
    let server = Server::start(|_, _| None).await;
    let sink = smtp(&server, json!({}));
    let to = "good@example.com, bad, evil@example.com>\r\nRCPT TO:<x@example.com";
    let event = Arc::new(event("order.created", json!({"email": to})));
    let recipients = sink.recipients(&[event]).await.expect("known").remove(0);
    let mut delivered = Vec::new();
    for recipient in recipients.expect("renders") {
        match deliver(&sink, &recipient.key, json!({})).await {
            Outcome::Delivered { .. } => delivered.push(recipient.key),
            Outcome::Reject { cause } => assert!(cause.contains("is not a mail address")),
            other => panic!("{}: {other:?}", recipient.key),
        }
    }
    assert_eq!(delivered, ["good@example.com"]);
    let outcome = deliver(&sink, "zoë@example.com", json!({})).await;
    assert!(
        matches!(&outcome, Outcome::Reject { cause } if cause.contains("SMTPUTF8")),
        "{outcome:?}"
    );
}

async fn get(sink: &Arc<Email>, path: &str, access: Option<Access>) -> (StatusCode, String) {
    let mut request = Request::get(path).body(Body::empty()).expect("a request");
    if let Some(access) = access {
        request.extensions_mut().insert(access);
    }
    let response = sink.routes().call(request).await.expect("an answer");
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    let body = String::from_utf8(body.expect("a body").to_vec()).expect("UTF-8");
    (status, body)
}

#[tokio::test]
async fn the_mailbox_shows_its_mails_to_those_who_may_see_them() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = sink(
        json!({"templates": [{
            "to": "{{ payload.email }}",
            "subject": "<b>{{ payload.name }}",
            "text": "Hi {{ payload.name }} <i>",
            "html": "<script>alert(\"1\")</script>{{ payload.name }}",
        }]}),
        folder.path(),
    );
    let admin = || Some(Access::unrestricted());
    sink.health().await.expect("writable");
    let (status, page) = get(&sink, "/mailbox", admin()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("No mail yet"), "{page}");

    let outcome = deliver(&sink, "jane@example.com", json!({"name": "Zoë"})).await;
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    let (_, json) = get(&sink, "/mailbox.json?limit=5", admin()).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let mail = &json["mails"][0];
    assert_eq!(mail["to"], "jane@example.com");
    assert_eq!(mail["subject"], "<b>Zoë");
    assert_eq!(mail["text"], "Hi Zoë <i>");
    assert_eq!(mail["eventId"], event("x", json!({})).event_id.to_string());
    let id = mail["id"].as_str().expect("an ID");

    let (_, page) = get(&sink, "/mailbox", admin()).await;
    assert!(page.contains("&lt;b&gt;Zoë") && page.contains(id), "{page}");
    let (status, page) = get(&sink, &format!("/mailbox/{id}"), admin()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("Hi Zoë &lt;i&gt;"), "{page}");
    assert!(
        page.contains("<iframe sandbox") && !page.contains("<script"),
        "{page}"
    );
    let (status, raw) = get(&sink, &format!("/mailbox/{id}/raw"), admin()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(raw.contains("multipart/alternative"), "{raw}");

    let lower = Access {
        tenant: None,
        scopes: vec![herald_routes::Scope::Publish],
        expires_at: None,
    };
    for path in [
        "/mailbox",
        "/mailbox.json",
        &format!("/mailbox/{id}"),
        &format!("/mailbox/{id}/raw"),
    ] {
        assert_eq!(get(&sink, path, None).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(
            get(&sink, path, Some(lower.clone())).await.0,
            StatusCode::FORBIDDEN
        );
    }
    for path in [
        "/mailbox/..%2f..%2fetc",
        "/mailbox/..%2f..%2fetc/raw",
        "/mailbox/01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ] {
        assert_eq!(
            get(&sink, path, admin()).await.0,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let (status, _) = get(&sink, "/mailbox.json?limit=0", admin()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_to_is_tried_again_and_unhealthy() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let sink = sink(json!({}), file.path());
    assert!(is_retry(
        &deliver(&sink, "jane@example.com", json!({})).await
    ));
    assert!(sink.health().await.is_err());
}
