//! herald that asks for signed tokens: whom it lets in, and how streams end and go on.

use std::process::Stdio;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::browser::chromium;
use crate::harness::{
    Api, Config, Heard, Herald, Home, Reply, Sse, WebSocket, eventually, given, seconds, text,
    within,
};
use crate::proxy::Proxy;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn config(keys: &str) -> Config {
    let auth = format!("mode = \"jwt\"\nleeway = \"0s\"\n{keys}");
    Config::embedded().sse().table("auth", &auth)
}

fn with_secret() -> Config {
    config(&format!("secret = \"{SECRET}\""))
}

/// `herald token` with these arguments.
async fn token(home: &Home, args: &[&str]) -> String {
    let printed = home.succeed(&[&["token"], args].concat()).await;
    printed.trim().to_owned()
}

async fn token_of(home: &Home, tenant: &str, scope: &str, ttl: &str) -> String {
    token(home, &["--tenant", tenant, "--scope", scope, "--ttl", ttl]).await
}

async fn ask(api: &Api, method: &str, path: &str, token: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let asked = api.request(method, path, &headers, body.to_string()).await;
    asked.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

fn event(tenant: &str, number: i64) -> Value {
    json!({"tenantId": tenant, "type": "order.created", "payload": {"number": number}})
}

async fn emit(api: &Api, token: &str, tenant: &str, number: i64) -> String {
    let emitted = ask(api, "POST", "/events", token, &event(tenant, number)).await;
    text(&emitted.expect(201), "eventId")
}

async fn start(home: &Home) -> Herald {
    home.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_kept_apart_whatever_they_ask_for() {
    let home = Home::new(&with_secret());
    let herald = start(&home).await;
    let api = &herald.api;
    let acme = token_of(&home, "acme", "subscribe,publish", "1h").await;
    let globex = token_of(&home, "globex", "subscribe,publish", "1h").await;
    let secret = emit(api, &acme, "acme", 1).await;
    let own = emit(api, &globex, "globex", 2).await;
    let nothing = json!({});
    for (method, path, status) in [
        ("GET", "/events?tenantId=acme".to_owned(), 403),
        ("GET", "/sse?tenantId=acme".to_owned(), 403),
        ("GET", format!("/events/{secret}"), 404),
        ("GET", format!("/events/{secret}/deliveries"), 404),
        ("GET", "/dead".to_owned(), 403),
        ("GET", "/sinks".to_owned(), 403),
        ("GET", "/metrics".to_owned(), 403),
    ] {
        let reply = ask(api, method, &path, &globex, &nothing).await;
        reply.problem(&path, &[status]);
    }
    let forged = ask(api, "POST", "/events", &globex, &event("acme", 3)).await;
    forged.problem("an event of another tenant", &[403]);
    // Without a tenant in the query it is the token's.
    let page = eventually("the feed has it", seconds(30), async || {
        let page = ask(api, "GET", "/events", &globex, &nothing).await;
        let page = page.expect(200)["events"].clone();
        page.as_array().filter(|events| !events.is_empty()).cloned()
    })
    .await;
    assert_eq!(page.len(), 1);
    assert_eq!(page[0]["eventId"], own);
    let query = format!("access_token={globex}&after=0");
    let mut stream = Sse::open(api, &query, None).await.expect("a stream");
    let first = within("an event", seconds(30), stream.next()).await;
    assert_eq!(first.expect("one").id, own);
    let (mut socket, said) = WebSocket::subscribed(api, &query).await;
    assert_eq!(said["tenantId"], "globex");
    assert_eq!(socket.event().await["eventId"], own);
    socket
        .say(&json!({"subscribe": {"tenantId": "acme"}}))
        .await;
    assert_eq!(socket.text().await["field"], "subscribe.tenantId");
    let renewed = json!({"renew": {"token": acme}});
    socket.say(&renewed).await;
    assert_eq!(socket.text().await["field"], "renew.token");
    for path in ["/sse", "/ws"] {
        let named = format!("tenantId=acme&access_token={globex}");
        let refused = match path {
            "/sse" => Sse::open(api, &named, None).await.err(),
            _ => WebSocket::open(api, &named).await.err(),
        };
        assert!(refused.is_some_and(|why| why.contains("403")), "{path}");
    }
    // Operators see all.
    let admin = token(&home, &["--scope", "admin"]).await;
    for tenant in ["acme", "globex"] {
        let path = format!("/events?tenantId={tenant}");
        let page = ask(api, "GET", &path, &admin, &nothing).await.expect(200);
        assert_eq!(page["events"].as_array().map(Vec::len), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_in_band_with_its_token_and_goes_on_with_another() {
    let home = Home::new(&with_secret());
    let herald = start(&home).await;
    let api = herald.api.clone();
    let publisher = token_of(&home, "acme", "publish", "1h").await;
    let emitting = tokio::spawn(async move {
        let mut pace = tokio::time::interval(seconds(1) / 50);
        let mut ids = Vec::new();
        for number in 0..300 {
            pace.tick().await;
            ids.push(emit(&api, &publisher, "acme", number).await);
        }
        ids
    });
    let (mut seen, mut tokens) = (Vec::new(), 0);
    let mut last: Option<String> = None;
    while seen.len() < 300 {
        tokens += 1;
        let token = token_of(&home, "acme", "subscribe", "2s").await;
        let query = format!("access_token={token}&after=0");
        let opened = Sse::open(&herald.api, &query, last.as_deref()).await;
        let mut stream = opened.expect("a stream");
        let all = async {
            loop {
                let message = stream.next().await.expect("a last word");
                if message.name == "herald.expired" {
                    assert_eq!(message.json(), json!({"reason": "token expired"}));
                    assert!(stream.next().await.is_none(), "it ends");
                    break;
                }
                seen.push(message.id);
            }
        };
        within("the token's end", seconds(20), all).await;
        last = Some(stream.last_id.clone());
        // Its browser comes back by itself, with the old URL, and is told to stop.
        let headers = [("last-event-id", stream.last_id.as_str())];
        let path = format!("/sse?{query}");
        let back = herald.api.request("GET", &path, &headers, "").await;
        assert_eq!(back.expect("an answer").status, 204);
    }
    let emitted = within("the last event", seconds(30), emitting).await;
    assert!(seen == emitted.expect("no panic"), "each once, in order");
    assert!(tokens > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_renewed_in_band_or_ends_with_its_token() {
    let home = Home::new(&with_secret());
    let herald = start(&home).await;
    let api = &herald.api;
    let short = token_of(&home, "acme", "subscribe,publish", "2s").await;
    let long = token_of(&home, "acme", "subscribe,publish", "1h").await;
    let (mut ends, _) = WebSocket::subscribed(api, &format!("access_token={short}")).await;
    let (mut stays, _) = WebSocket::subscribed(api, &format!("access_token={short}")).await;
    stays.say(&json!({"renew": {"token": long}})).await;
    assert_eq!(stays.text().await, json!({"herald": "renewed"}));
    let expired = json!({"herald": "expired", "reason": "token expired"});
    assert_eq!(ends.text().await, expired);
    let closed = Heard::Close(3000, "token expired".to_owned());
    assert_eq!(ends.next().await, closed);
    let id = emit(api, &long, "acme", 1).await;
    assert_eq!(stays.event().await["eventId"], id);
}

/// Signs with a private key, as an identity provider would.
async fn signed_by_openssl(home: &Home, key: &str, header: &str, claims: &Value) -> String {
    let script = r#"
        set -e
        encode() { base64 -w0 | tr '+/' '-_' | tr -d '='; }
        signed=$(printf %s "$2" | encode).$(printf %s "$3" | encode)
        printf %s "$signed" >signed
        openssl dgst -sha256 -sign "$1" -out signature signed
        printf '%s.%s' "$signed" "$(encode <signature)"
    "#;
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "bash", key, header, &claims.to_string()])
        .current_dir(home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within("openssl", seconds(30), command.output()).await;
    let output = output.expect("bash starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).expect("ASCII")
}

#[tokio::test(flavor = "multi_thread")]
async fn others_sign_tokens_with_a_key_of_which_herald_knows_the_public_half() {
    let home = Home::new(&config(
        "public_key_file = \"public.pem\"\naudience = \"herald\"",
    ));
    let script = "openssl genrsa -out private.pem 2048 \
                  && openssl pkey -in private.pem -pubout -out public.pem";
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(home.path());
    let made = within("a key", seconds(60), command.output()).await;
    let made = made.expect("bash starts");
    assert!(made.status.success(), "{made:?}");
    let herald = start(&home).await;
    let claims = |audience: &str| {
        let soon = chrono::Utc::now().timestamp() + 600;
        json!({"exp": soon, "tenant": "acme", "scope": "publish", "aud": [audience]})
    };
    let header = r#"{"alg":"RS256","kid":"1"}"#;
    let good = signed_by_openssl(&home, "private.pem", header, &claims("herald")).await;
    emit(&herald.api, &good, "acme", 1).await;
    let others = signed_by_openssl(&home, "private.pem", header, &claims("shop")).await;
    let confused = r#"{"alg":"HS256"}"#;
    let confused = signed_by_openssl(&home, "private.pem", confused, &claims("herald")).await;
    for (token, why) in [(others, "for others"), (confused, "no key here is for")] {
        let reply = ask(&herald.api, "POST", "/events", &token, &event("acme", 2)).await;
        let problem = reply.problem("a wrong token", &[401]);
        assert!(text(&problem, "detail").contains(why), "{problem}");
    }
    let refused = home
        .run(&["token", "--tenant", "acme", "--scope", "publish"])
        .await;
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("a public key verifies"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_on_the_command_line_for_curl_and_are_nowhere_in_the_log() {
    let everybody = with_secret().as_str().replace("127.0.0.1:0", "0.0.0.0:0");
    let everybody = format!("{everybody}\n[log]\nlevel = \"trace\"\n");
    let home = Home::with(&everybody);
    let herald = start(&home).await;
    let args = ["--tenant", "acme", "--scope", "subscribe,publish", "--json"];
    let made: Value = serde_json::from_str(&token(&home, &args).await).expect("JSON");
    let token = text(&made, "token");
    assert!(text(&made, "expiresAt").ends_with('Z'), "{made}");
    let base = herald.api.base.replace("0.0.0.0", "127.0.0.1");
    let curl = async |more: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "20", "-w", "%{http_code}"])
            // Any name will do: a page that points its name here has no token.
            .args(["-H", "Host: herald.example"])
            .args(more)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = within("curl", seconds(30), command.output()).await;
        String::from_utf8(output.expect("curl starts").stdout).expect("UTF-8")
    };
    let (events, bearer) = (
        format!("{base}/events"),
        format!("Authorization: Bearer {token}"),
    );
    let body = event("acme", 1).to_string();
    assert!(curl(&[&events, "-d", &body]).await.ends_with("401"));
    let answer = curl(&[&events, "-H", &bearer, "-d", &body]).await;
    assert!(answer.ends_with("201"), "{answer}");
    let wrong = format!("{bearer}x");
    assert!(curl(&[&events, "-H", &wrong]).await.ends_with("401"));
    let query = format!("access_token={token}&after=0");
    let api = Api::new(&*base);
    let mut stream = Sse::open(&api, &query, None).await.expect("a stream");
    within("an event", seconds(30), stream.next()).await;
    herald.terminate().await;
    let logged = std::fs::read_to_string(home.path().join("herald.log")).expect("a log");
    let signature = token.rsplit('.').next().expect("a part");
    assert!(!logged.contains(signature), "a token is in the log");
    for args in [
        &["token", "--scope", "subscribe"][..],
        &["token", "--tenant", "", "--scope", "subscribe"],
    ] {
        assert_eq!(home.run(args).await.status.code(), Some(1), "{args:?}");
    }
    for args in [
        &["token", "--tenant", "acme"][..],
        &["token", "--tenant", "acme", "--scope", "all"],
        &[
            "token", "--tenant", "acme", "--scope", "admin", "--ttl", "0s",
        ],
    ] {
        assert_eq!(home.run(args).await.status.code(), Some(2), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_watches_herald_needs_no_token_where_it_has_an_address_of_its_own() {
    let config = with_secret().table("operations", "listen = \"127.0.0.1:0\"");
    let home = Home::new(&config);
    // The first address that it tells.
    let watched = start(&home).await;
    let log = home.path().join("herald.log");
    let address = eventually("the other address", seconds(30), async || {
        let text = std::fs::read_to_string(&log).ok()?;
        let (_, rest) = text.split_once("console   ")?;
        let (address, _) = rest.split_once("/\n")?;
        Some(address.to_owned())
    })
    .await;
    let api = Api::new(address);
    assert_eq!(watched.api.get("/metrics").await.status, 200);
    assert_eq!(api.get("/metrics").await.status, 401);
    assert_eq!(api.get("/readyz").await.status, 200);
}

/// What the browser runs. It leaves all to its EventSource, and tells how that ends.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>story</title><script>
const got = [];
let expired = 0;
const source = new EventSource("/sse?" + location.search.slice(1));
source.onmessage = e => got.push(e.lastEventId);
source.addEventListener("herald.expired", () => expired += 1);
source.onerror = () => {
  if (source.readyState !== EventSource.CLOSED) return;
  // By another name, and so on another connection than the one that passed the 204 on.
  const here = location.origin.replace("127.0.0.1", "localhost");
  fetch(here + "/result", {method: "POST", mode: "no-cors", body: JSON.stringify({got, expired})});
};
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_comes_back_with_an_expired_token_stops_for_good() {
    let Some(browser) = given("browser", "HERALD_TEST_CHROMIUM") else {
        return;
    };
    let home = Home::new(&with_secret());
    let herald = start(&home).await;
    let publisher = token_of(&home, "acme", "publish", "1h").await;
    let id = emit(&herald.api, &publisher, "acme", 1).await;
    let random = StdRng::seed_from_u64(1);
    let mut proxy = Proxy::start(&herald.api.base, PAGE, random).await;
    proxy.leave_alone();
    let profile = TempDir::new().expect("a temporary folder");
    // Long enough for a browser to start.
    let token = token_of(&home, "acme", "subscribe", "15s").await;
    let url = format!("{}/test-page?after=0&access_token={token}", proxy.base);
    let _chromium = chromium(&browser, &profile, &url);
    let result = within("the browser's result", seconds(60), proxy.result()).await;
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result, json!({"got": [id], "expired": 1}));
    assert_eq!(proxy.streams(), 2, "it came back once");
}
