//! `/openapi.json` is true: each operation it names answers what it promises, each status it names
//! does occur, and what it does not name is not there.
//!
//! A 503 other than that of `/readyz` needs a broken database, and `default` a broken herald; these
//! are not provoked.

#[path = "openapi/document.rs"]
mod document;
#[path = "harness/http.rs"]
#[allow(dead_code, reason = "the stories use all of it")]
mod http;
#[path = "openapi/tokens.rs"]
mod tokens;
#[path = "harness/wait.rs"]
#[allow(dead_code, reason = "the stories use all of it")]
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use futures_util::{SinkExt as _, StreamExt as _};
use herald::app;
use herald::config::Config;
use herald::registry;
use herald::roles::Roles;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::{CancellationToken, DropGuard};

use document::{Document, METHODS, examples};
use http::{Api, Reply};
use wait::{eventually, seconds, within};

/// Every kind of sink. Web Push wants no event of these tests, so that nothing leaves the machine.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
max_body_bytes = 65536
max_payload_bytes = 16384
[sinks.sse]
kind = "sse"
[sinks.email]
kind = "email"
types = ["order.*"]
[sinks.push]
kind = "web_push"
types = ["never"]
"#;

/// More bytes than `max_body_bytes`.
const TOO_MUCH: usize = 66_000;

/// An id that nothing has.
const NOBODY: &str = "01JD5ZQ9V7C3M1T00000000ZZZ";

/// A herald in this process, and the document it serves.
struct Herald {
    api: Api,
    document: Document,
    /// Statuses by operation, such as `GET /events`: what has occurred.
    seen: BTreeMap<String, BTreeSet<u16>>,
    _stop: DropGuard,
    _home: TempDir,
}

impl Herald {
    async fn start() -> Self {
        Self::start_with("").await
    }

    async fn start_with(more: &str) -> Self {
        let home = TempDir::with_prefix("herald-openapi-").expect("a folder");
        let folder = home.path();
        let store = format!("[store]\nurl = \"sqlite://{}/h.db\"", folder.display());
        let file = folder.join("config.toml");
        let text = format!("data_dir = {folder:?}\n{store}\n{CONFIG}\n{more}");
        fs::write(&file, text).expect("written");
        let config = match Config::load(Some(&file), [], &registry::checks()) {
            Ok(loaded) => loaded.config,
            Err(faults) => panic!("{faults}"),
        };
        let stop = CancellationToken::new();
        let (tell, told) = oneshot::channel();
        tokio::spawn(app::run(config, Roles::ALL, stop.clone(), |address| {
            tell.send(address).expect("somebody waits");
        }));
        let address = within("herald starts", seconds(30), told).await;
        let api = Api::new(format!("http://{}", address.expect("herald starts")));
        Self {
            document: Document(api.get("/openapi.json").await.expect(200)),
            api,
            seen: BTreeMap::new(),
            _stop: stop.drop_guard(),
            _home: home,
        }
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str, status: u16) -> Reply {
        self.ask_with(method, path, &[], body, status).await
    }

    /// Asks, and holds the answer against the document.
    async fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        status: u16,
    ) -> Reply {
        let sent = self.api.request(method, path, headers, body.to_owned());
        let reply = sent.await.unwrap_or_else(|e| panic!("{e}"));
        let what = format!("{method} {path} {body:.100}");
        let said = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, status, "{what}: {said}");
        assert!(!said.contains("there is nothing here"), "{what}: no route");
        let response = self.note(method, path, status);
        let Some(content) = response.get("content") else {
            assert!(said.is_empty(), "{what}: {said}");
            return reply;
        };
        let kind = reply.headers["content-type"].to_str().expect("ASCII");
        let kind = kind.split(';').next().expect("at least one");
        let schema = &content[kind]["schema"];
        assert!(schema.is_object(), "{what}: {kind} is not documented");
        if kind.ends_with("json") {
            let faults = self.document.faults(schema, &reply.json(), "");
            assert!(faults.is_empty(), "{what}: {said}\n{}", faults.join("\n"));
        }
        reply
    }

    /// Remembers that the status occurred; returns what the document says of it.
    fn note(&mut self, method: &str, path: &str, status: u16) -> Value {
        let template = self.document.template(path);
        let operation = self.document.operation(method, &template);
        let response = self
            .document
            .resolve(&operation["responses"][status.to_string()])
            .clone();
        let operation = format!("{method} {template}");
        assert!(
            response.is_object(),
            "{operation}: {status} is not documented"
        );
        self.seen.entry(operation).or_default().insert(status);
        response
    }

    /// Waits until the list `field` that `path` answers has something, and returns its first.
    async fn first(&mut self, path: &str, field: &str) -> Value {
        let api = self.api.clone();
        eventually(path, seconds(30), async || {
            let answer = api.get(path).await.expect(200);
            answer[field].get(0).cloned()
        })
        .await
    }

    /// Sends the document's own example, or the one of this name.
    async fn ask_example(&mut self, method: &str, path: &str, name: &str, status: u16) -> Reply {
        let body = self.document.example_body(method, path, name);
        self.ask(method, path, &body, status).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_each_documented_status_as_documented() {
    let mut herald = Herald::start().await;
    events(&mut herald).await;
    stream(&mut herald).await;
    socket(&mut herald).await;
    mails_and_dead_letters(&mut herald).await;
    push(&mut herald).await;
    sinks(&mut herald).await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/openapi.json"] {
        herald.ask("GET", path, "", 200).await;
    }
    what_every_change_refuses(&mut herald).await;
    let mut careful = Herald::start_with(tokens::CONFIG).await;
    tokens::check(&mut careful).await;
    for (operation, statuses) in careful.seen {
        herald.seen.entry(operation).or_default().extend(statuses);
    }

    for (method, path) in herald.document.operations() {
        let operation = herald.document.operation(method, &path);
        let responses = operation["responses"].as_object().expect("an object");
        // Also leaves out "default", which is no number.
        let documented = responses.keys().filter_map(|s| s.parse().ok());
        let documented: BTreeSet<u16> = documented.filter(|status| *status < 500).collect();
        let operation = format!("{method} {path}");
        let seen = herald.seen.remove(&operation).unwrap_or_default();
        assert_eq!(
            seen, documented,
            "{operation}: what occurred, and what is documented"
        );
    }
}

async fn events(herald: &mut Herald) {
    let key = [("idempotency-key", "order-7-created")];
    herald.ask_example("POST", "/events", "one", 201).await;
    herald.ask_example("POST", "/events", "one", 200).await;
    herald.ask_example("POST", "/events", "several", 201).await;
    herald.ask_example("POST", "/events", "several", 201).await;
    let event = |tenant: &str, kind: &str, payload: &str| {
        json!({"tenantId": tenant, "type": kind, "payload": payload}).to_string()
    };
    for status in [201, 200] {
        let body = event("acme", "note", "once");
        herald
            .ask_with("POST", "/events", &key, &body, status)
            .await;
    }
    let taken = herald.document.example_body("POST", "/events", "one");
    let taken = taken.replace("acme", "globex");
    for (body, status) in [
        (taken, 409),
        (event("", "note", ""), 400),
        (event("acme", "a b", ""), 422),
        (event("acme", "note", &"x".repeat(17_000)), 413),
    ] {
        herald.ask("POST", "/events", &body, status).await;
    }

    herald.first("/events?tenantId=acme", "events").await;
    for (query, status) in [
        ("tenantId=acme", 200),
        (
            "tenantId=acme&after=0&limit=1&order=desc&types=order.*,user.created",
            200,
        ),
        ("after=0", 400),
        ("tenantId=acme&order=up", 400),
        ("tenantId=acme&after=999999", 404),
        ("tenantId=acme&limit=0", 422),
    ] {
        let path = format!("/events?{query}");
        herald.ask("GET", &path, "", status).await;
    }
    for template in ["/events/{eventId}", "/events/{eventId}/deliveries"] {
        let path = herald.document.example_path(template);
        herald.ask("GET", &path, "", 200).await;
        let unknown = template.replace("{eventId}", NOBODY);
        herald.ask("GET", &unknown, "", 404).await;
        let malformed = template.replace("{eventId}", "seven");
        herald.ask("GET", &malformed, "", 400).await;
    }
}

/// A stream has no end, so it is read to its first event.
async fn stream(herald: &mut Herald) {
    let path = "/sse?tenantId=acme&after=0&types=order.*&named=true";
    let opened = herald.api.send("GET", path, &[], "").await;
    let mut response = opened.expect("a stream");
    let documented = herald.note("GET", path, response.status().as_u16());
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for (name, header) in documented["headers"].as_object().expect("an object") {
        let value = response.headers()[name.as_str()].to_str().expect("ASCII");
        assert_eq!(header["schema"]["const"], value, "{name}");
    }
    let mut text = String::new();
    let data = within("the first event", seconds(30), async {
        loop {
            let data = text.lines().find_map(|line| line.strip_prefix("data: "));
            if let (Some(data), true) = (data, text.ends_with("\n\n")) {
                return data.to_owned();
            }
            let frame = response.frame().await.expect("more").expect("readable");
            text += std::str::from_utf8(&frame.into_data().expect("data")).expect("UTF-8");
        }
    })
    .await;
    let event: Value = serde_json::from_str(&data).expect("JSON");
    let schema = &herald.document.0["components"]["schemas"]["Event"];
    assert_eq!(herald.document.faults(schema, &event, ""), [""; 0]);
    assert!(text.contains("retry: "), "{text}");

    herald.ask("GET", "/sse", "", 400).await;
    herald
        .ask("GET", "/sse?tenantId=acme&types=a*b", "", 422)
        .await;
}

/// The handshake, and one message of each kind.
async fn socket(herald: &mut Herald) {
    let handshake = [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let elsewhere = [&handshake[..], &[("origin", "https://elsewhere.example")]].concat();
    let good = "/ws?tenantId=acme&after=0&types=order.*&ping=true";
    let opened = herald.api.send("GET", good, &handshake, "").await;
    let response = opened.expect("a WebSocket");
    let documented = herald.note("GET", good, response.status().as_u16());
    for (name, header) in documented["headers"].as_object().expect("an object") {
        let value = response.headers()[name.as_str()].to_str().expect("ASCII");
        assert_eq!(header["schema"]["const"], value, "{name}");
    }
    for (path, headers, status) in [
        (good, &elsewhere[..], 403),
        (good, &handshake[..3], 400),
        ("/ws?types=order.*", &handshake, 400),
        ("/ws?tenantId=acme&types=a*b", &handshake, 422),
        (good, &[], 426),
    ] {
        herald.ask_with("GET", path, headers, "", status).await;
    }

    let schemas = &herald.document.0["components"]["schemas"];
    let command = schemas["SocketCommand"]["example"].to_string();
    let address = herald.api.base.replacen("http", "ws", 1);
    let opened = connect_async(format!("{address}/ws?tenantId=acme&after=0")).await;
    let (mut socket, _) = opened.expect("a WebSocket");
    let mut said = BTreeSet::new();
    while said.len() < 5 {
        let message = within("a message", seconds(30), socket.next()).await;
        let text = message.expect("more").expect("readable").into_text();
        let message: Value = serde_json::from_str(&text.expect("text")).expect("JSON");
        let (schema, kind) = match message["herald"].as_str() {
            Some(kind) => ("SocketMessage", kind),
            None => ("Event", "event"),
        };
        let faults = herald.document.faults(&schemas[schema], &message, "");
        assert_eq!(faults, [""; 0], "{message}");
        if said.insert(kind.to_owned()) && kind == "event" {
            for say in [r#"{"unsubscribe":{}}"#, "{}", &command] {
                socket.send(Message::text(say)).await.expect("open");
            }
        }
    }
}

async fn mails_and_dead_letters(herald: &mut Herald) {
    let mail = herald.first("/mailbox.json", "mails").await;
    for path in ["/mailbox", "/mailbox.json"] {
        for (query, status) in [("", 200), ("?limit=many", 400), ("?limit=0", 422)] {
            let path = format!("{path}{query}");
            herald.ask("GET", &path, "", status).await;
        }
    }
    for template in ["/mailbox/{id}", "/mailbox/{id}/raw"] {
        let path = template.replace("{id}", mail["id"].as_str().expect("text"));
        herald.ask("GET", &path, "", 200).await;
        let unknown = herald.document.example_path(template);
        herald.ask("GET", &unknown, "", 404).await;
    }

    let bad =
        json!({"tenantId": "acme", "type": "order.created", "payload": {"email": "nobody at all"}});
    herald.ask("POST", "/events", &bad.to_string(), 201).await;
    for (way, field) in [("replay", "replayed"), ("drop", "dropped")] {
        herald.first("/dead", "dead").await;
        for (query, status) in [
            (
                "?sink=email&type=order.*&tenantId=acme&since=2000-01-01T00:00:00Z&limit=5",
                200,
            ),
            ("?since=yesterday", 400),
            ("?limit=0", 422),
        ] {
            let path = format!("/dead{query}");
            herald.ask("GET", &path, "", status).await;
        }
        let path = format!("/dead/{way}");
        let answer = herald.ask_example("POST", &path, "", 200).await.json();
        assert_eq!(answer[field], 1, "the example means the dead letter");
        herald
            .ask("POST", &path, r#"{"sinck": "email"}"#, 422)
            .await;
    }
}

async fn push(herald: &mut Herald) {
    let path = "/push/subscriptions";
    herald.ask("GET", "/push", "", 200).await;
    herald.ask("GET", "/client.js", "", 200).await;
    herald.ask("GET", "/client.d.ts", "", 200).await;
    herald.ask("GET", "/push/key", "", 200).await;
    herald.ask_example("POST", path, "", 201).await;
    let body = herald.document.example_body("POST", path, "");
    let mut flat: Value = serde_json::from_str(&body).expect("JSON");
    for field in ["endpoint", "keys"] {
        flat[field] = flat["subscription"][field].clone();
    }
    flat.as_object_mut()
        .expect("an object")
        .remove("subscription");
    herald.ask("POST", path, &flat.to_string(), 201).await;
    herald
        .ask("POST", path, r#"{"tenantId": "acme"}"#, 422)
        .await;
    herald.ask_example("DELETE", path, "", 204).await;
    herald.ask_example("DELETE", path, "", 404).await;
    herald
        .ask("DELETE", path, r#"{"tenantId": "acme"}"#, 422)
        .await;
}

async fn sinks(herald: &mut Herald) {
    herald.ask("GET", "/sinks", "", 200).await;
    for verb in ["pause", "resume"] {
        let template = format!("/sinks/{{name}}/{verb}");
        let path = herald.document.example_path(&template);
        herald.ask("POST", &path, "", 200).await;
        let unknown = template.replace("{name}", "nobody");
        herald.ask("POST", &unknown, "", 404).await;
    }
}

/// Pages of other origins; bodies that are no JSON or too large.
async fn what_every_change_refuses(herald: &mut Herald) {
    let too_much = format!("\"{}\"", "x".repeat(TOO_MUCH));
    for (method, template) in herald.document.operations() {
        if method == "GET" {
            continue;
        }
        let path = herald.document.example_path(&template);
        let elsewhere = [("origin", "https://elsewhere.example")];
        herald.ask_with(method, &path, &elsewhere, "{}", 403).await;
        if !herald.document.operation(method, &template)["requestBody"].is_null() {
            herald.ask(method, &path, "{", 400).await;
            herald.ask(method, &path, &too_much, 413).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_documented_is_not_allowed() {
    let herald = Herald::start().await;
    for path in herald.document.paths() {
        let documented = |m: &&str| !herald.document.operation(m, path).is_null();
        let allowed: BTreeSet<&str> = METHODS.into_iter().filter(documented).collect();
        let url = herald.document.example_path(path);
        for method in METHODS.into_iter().filter(|m| !allowed.contains(m)) {
            let what = format!("{method} {path}");
            let reply = herald.api.request(method, &url, &[], "{}").await;
            let reply = reply.unwrap_or_else(|e| panic!("{what}: {e}"));
            reply.problem(&what, &[405]);
            let allow = reply.headers["allow"].to_str().expect("ASCII");
            let named = allow.split(',').map(str::trim).filter(|m| *m != "HEAD");
            assert_eq!(named.collect::<BTreeSet<_>>(), allowed, "{what}: {allow}");
        }
    }
    let elsewhere = herald.api.get("/nowhere").await;
    elsewhere.problem("GET /nowhere", &[404]);
}

#[test]
fn every_route_of_the_source_is_documented() {
    let document = document();
    let plain = |path: &str| -> String {
        let parts = path.split('/');
        let parts = parts.map(|part| if part.starts_with('{') { "{}" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    let documented: BTreeSet<String> = document.paths().map(plain).collect();
    let mut found = BTreeSet::new();
    for folder in [
        "src/http",
        "sinks/email/src",
        "sinks/sse/src",
        "sinks/web_push/src",
    ] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let file = entry.expect("an entry").path();
            if file.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("text");
            for rest in text.split(".route(").skip(1) {
                let literal = rest.trim_start().strip_prefix('"').expect("a literal path");
                let path = literal.split('"').next().expect("at least one");
                // Parts of pages are no interface.
                let part = path.ends_with(".js") || path.ends_with(".css");
                if path == "/client.js" || !part {
                    found.insert(plain(path));
                }
            }
        }
    }
    assert_eq!(
        found, documented,
        "routes of the source, and those documented"
    );
}

#[test]
fn the_document_is_sound_and_its_examples_are_what_it_says() {
    let document = document();
    assert_eq!(document.0["openapi"], "3.1.0");
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    let ids: Vec<_> = document
        .operations()
        .iter()
        .map(|(m, p)| document.operation(m, p)["operationId"].to_string())
        .collect();
    assert_eq!(
        ids.iter().collect::<BTreeSet<_>>().len(),
        ids.len(),
        "{ids:?}"
    );
    let mut checked = 0;
    visit(&document.0, &mut |node| {
        document.resolve(node);
        let of_itself = node.get("type").map(|_| node);
        if let Some(schema) = node.get("schema").or(of_itself) {
            for example in examples(node) {
                let faults = document.faults(schema, example, "");
                assert!(faults.is_empty(), "{example}\n{}", faults.join("\n"));
                checked += 1;
            }
        }
    });
    assert!(checked > 20, "{checked} examples");
}

/// The document as it stands in the source.
fn document() -> Document {
    let text = fs::read_to_string(root().join("src/http/openapi.json")).expect("text");
    Document(serde_json::from_str(&text).expect("JSON"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Calls `see` with every object.
fn visit(node: &Value, see: &mut impl FnMut(&Value)) {
    if let Value::Object(members) = node {
        see(node);
        members.values().for_each(|part| visit(part, see));
    } else if let Value::Array(items) = node {
        items.iter().for_each(|part| visit(part, see));
    }
}
