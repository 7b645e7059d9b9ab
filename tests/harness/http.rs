//! A client of herald's HTTP interface.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One herald's HTTP interface.
#[derive(Debug, Clone)]
pub struct Api {
    /// `http://127.0.0.1:PORT`
    pub base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The answer as an RFC 9457 problem, with what herald promises of one.
    pub fn problem(&self, what: &str, statuses: &[u16]) -> Value {
        let body = String::from_utf8_lossy(&self.body);
        assert!(
            statuses.contains(&self.status),
            "{what}: {} {body}",
            self.status
        );
        let kind = self.headers.get("content-type").expect("a content type");
        assert_eq!(kind, "application/problem+json", "{what}: {body}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{what}");
        for field in ["title", "detail"] {
            let said = problem[field].as_str().is_some_and(|t| !t.is_empty());
            assert!(said, "{what}: no {field} in {problem}");
        }
        problem
    }

    /// The JSON of an answer that has this status.
    pub fn expect(self, status: u16) -> Value {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{body}");
        self.json()
    }
}

impl Api {
    pub fn new(base: impl Into<String>) -> Self {
        Self {
            base: base.into(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Sends a request and leaves the body to the caller.
    ///
    /// # Errors
    /// The server cannot be reached or hangs up.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        self.client
            .request(request)
            .await
            .map_err(|e| format!("{e:?}"))
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// As [`Api::send`], or no answer in good time.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, String> {
        tokio::time::timeout(PATIENCE, async {
            let response = self.send(method, path, headers, body).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?;
            Ok(Reply {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
            })
        })
        .await
        .map_err(|_| format!("{method} {path}: no answer in {PATIENCE:?}"))?
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
            .await
            .unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.try_post(path, body)
            .await
            .unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// A POST to a server that may be gone.
    ///
    /// # Errors
    /// As [`Api::request`].
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Reply, String> {
        let json = [("content-type", "application/json")];
        self.request("POST", path, &json, body.to_string()).await
    }

    /// The value of a metric, named with its labels as `/metrics` shows them. `None` when the
    /// server does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let reply = self.request("GET", "/metrics", &[], "").await.ok()?;
        let text = String::from_utf8(reply.body.to_vec()).ok()?;
        let mut lines = text.lines();
        let (_, value) = lines.find_map(|line| line.split_once(' ').filter(|l| l.0 == name))?;
        value.parse().ok()
    }

    /// What `GET /sinks` says of one.
    pub async fn sink(&self, name: &str) -> Value {
        let answer = self.get("/sinks").await.expect(200);
        let sinks = answer["sinks"].as_array().expect("a list");
        let found = sinks.iter().find(|sink| sink["name"] == name);
        found.expect("a sink of this name").clone()
    }

    /// The tenant's whole feed by REST, page by page: the order that every stream must have.
    pub async fn feed(&self, tenant: &str, limit: usize) -> Vec<Value> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let path = format!("/events?tenantId={tenant}&after={after}&limit={limit}&order=asc");
            let page = self.get(&path).await.expect(200);
            let events = page["events"].as_array().expect("a list").clone();
            if events.is_empty() {
                return all;
            }
            after = page["nextAfter"].as_i64().expect("a number");
            all.extend(events);
        }
    }

    /// The ids of [`Api::feed`].
    pub async fn feed_ids(&self, tenant: &str) -> Vec<String> {
        let feed = self.feed(tenant, 500).await;
        feed.iter().map(|e| text(e, "eventId")).collect()
    }
}

/// A field that holds text.
pub fn text(value: &Value, field: &str) -> String {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no text {field} in {value}"))
        .to_owned()
}
