//! What the document says of tokens: each operation asks for the scope that its `security` names, by
//! a herald that asks for tokens. The operations are those of the document, so that none is left out.

use std::time::Duration;

use herald::auth::{Grant, Tokens};
use herald::config::Auth;
use herald_routes::Scope;

use super::{Herald, NOBODY};
use crate::wait::eventually;

const SECRET: &str = "a secret of more than thirty-two bytes";

pub const CONFIG: &str = "[auth]\nmode = \"jwt\"\nleeway = \"0s\"\n\
                          secret = \"a secret of more than thirty-two bytes\"\n";

/// Without these, `/ws` is no WebSocket, whoever asks.
const HANDSHAKE: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A header with a token of tenant `acme`.
fn bearer(scopes: &[Scope], seconds: u64) -> String {
    let config = Auth {
        secret: Some(SECRET.to_owned()),
        ..Auth::default()
    };
    let grant = Grant {
        tenant: Some("acme".to_owned()),
        scopes: scopes.to_vec(),
        subject: None,
        ttl: Duration::from_secs(seconds),
    };
    let signed = Tokens::new(&config).expect("a key").sign(&grant);
    format!("Bearer {}", signed.expect("a secret").0)
}

fn scope(name: &str) -> Scope {
    let mut all = Scope::ALL.into_iter();
    all.find(|scope| scope.name() == name).expect("a scope")
}

/// The status alone, and whether it comes with a challenge: a stream has no end to wait for.
async fn status(
    herald: &Herald,
    method: &str,
    path: &str,
    body: &str,
    token: Option<&str>,
) -> (u16, String) {
    let mut headers = match path.starts_with("/ws") {
        true => HANDSHAKE.to_vec(),
        false => Vec::new(),
    };
    headers.extend(token.map(|token| ("authorization", token)));
    let response = herald
        .api
        .send(method, path, &headers, body.to_owned())
        .await;
    let response = response.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    let challenge = response.headers().get("www-authenticate");
    let challenge = challenge.map(|value| value.to_str().expect("ASCII").to_owned());
    (response.status().as_u16(), challenge.unwrap_or_default())
}

/// Asks each operation with and without what it needs, and notes the statuses.
pub async fn check(herald: &mut Herald) {
    for (method, template) in herald.document.operations() {
        let path = herald.document.example_path(&template);
        let what = format!("{method} {path}");
        let operation = herald.document.operation(method, &template);
        let security = operation["security"].as_array().expect("a list").clone();
        let Some(first) = security.first() else {
            let (code, _) = status(herald, method, &path, "", None).await;
            assert_eq!(code, 200, "{what} is open");
            continue;
        };
        let body = match operation["requestBody"].is_null() {
            true => String::new(),
            false => herald.document.example_body(method, &template, "one"),
        };
        let needed = scope(first["token"][0].as_str().expect("one"));
        let others = Scope::ALL.into_iter().filter(|other| *other != needed);
        let others: Vec<_> = others.filter(|other| *other != Scope::Admin).collect();
        let lacks = bearer(&others, 600);
        for (token, code, challenge) in [
            (None, 401, "Bearer realm=\"herald\"".to_owned()),
            (
                Some(lacks.as_str()),
                403,
                format!(
                    "Bearer realm=\"herald\", error=\"insufficient_scope\", scope=\"{}\"",
                    needed.name()
                ),
            ),
        ] {
            let mut headers = match template == "/ws" {
                true => HANDSHAKE.to_vec(),
                false => Vec::new(),
            };
            headers.extend(token.map(|token| ("authorization", token)));
            let reply = herald.ask_with(method, &path, &headers, &body, code).await;
            assert_eq!(reply.headers["www-authenticate"], *challenge, "{what}");
        }
        let by_query = format!("{path}?access_token={}", &bearer(&Scope::ALL, 600)[7..]);
        let (code, _) = status(herald, method, &by_query, &body, None).await;
        assert_eq!(code == 401, security.len() == 1, "{what}: {code}, by query");
        for enough in [needed, Scope::Admin] {
            let token = bearer(&[enough], 600);
            let (code, _) = status(herald, method, &path, &body, Some(&token)).await;
            assert!(code != 401 && code != 403, "{what}: {code} with {enough:?}");
        }
    }
    expired(herald).await;
}

/// An EventSource that comes back with a token that has expired is told to stop.
async fn expired(herald: &mut Herald) {
    let token = bearer(&[Scope::Subscribe], 1);
    let path = format!("/sse?access_token={}", &token[7..]);
    let back = [("last-event-id", NOBODY)];
    eventually("the token expires", Duration::from_secs(30), async || {
        let (code, challenge) = status(herald, "GET", &path, "", None).await;
        (code != 200).then_some((code, challenge))
    })
    .await;
    let (code, challenge) = status(herald, "GET", &path, "", None).await;
    assert_eq!(code, 401);
    assert!(challenge.contains("invalid_token"), "{challenge}");
    herald.ask_with("GET", &path, &back, "", 204).await;
}
