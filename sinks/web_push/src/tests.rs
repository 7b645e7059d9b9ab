//! The sink as its host sees it, against a push service and a subscription store made for tests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use herald_contract::{
    Cursor, Delivery, Event, History, Host, Outcome, Place, Recipient, Sink as _, Subscription,
    Subscriptions, TypeFilter, Unavailable,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use ulid::Ulid;

use crate::encrypt::tests::{browser, open};
use crate::{Config, WebPush, base64url};

mod delivery;
mod http_routes;

/// An event with its payload.
pub fn event(tenant: &str, kind: &str, payload: Value) -> Event {
    Event {
        seq: 1,
        event_id: Ulid::generate(),
        aggregate_id: 7,
        tenant_id: tenant.into(),
        kind: kind.into(),
        payload: serde_json::value::to_raw_value(&payload).expect("JSON"),
        metadata: None,
        created_at: DateTime::UNIX_EPOCH,
    }
}

/// Subscriptions in memory, which can be away.
#[derive(Default)]
struct Store {
    rows: Mutex<Vec<Subscription>>,
    away: Mutex<bool>,
    questions: Mutex<usize>,
}

impl Store {
    fn rows(&self) -> Result<std::sync::MutexGuard<'_, Vec<Subscription>>, Unavailable> {
        *self.questions.lock().expect("whole") += 1;
        if *self.away.lock().expect("whole") {
            return Err(Unavailable("the database is away".into()));
        }
        Ok(self.rows.lock().expect("whole"))
    }
}

#[async_trait]
impl Subscriptions for Store {
    async fn put(&self, mut new: Subscription) -> Result<Ulid, Unavailable> {
        let mut rows = self.rows()?;
        let same = |s: &Subscription| s.tenant_id == new.tenant_id && s.endpoint == new.endpoint;
        if let Some(old) = rows.iter().position(same) {
            new.id = rows.remove(old).id;
        }
        rows.push(new.clone());
        Ok(new.id)
    }

    async fn remove(&self, tenant: &str, endpoint: &str) -> Result<bool, Unavailable> {
        let mut rows = self.rows()?;
        let before = rows.len();
        rows.retain(|s| s.tenant_id != tenant || s.endpoint != endpoint);
        Ok(rows.len() < before)
    }

    async fn forget(&self, id: Ulid) -> Result<(), Unavailable> {
        self.rows()?.retain(|s| s.id != id);
        Ok(())
    }

    async fn of_tenants(&self, tenants: &[&str]) -> Result<Vec<Subscription>, Unavailable> {
        let rows = self.rows()?;
        let of = |s: &&Subscription| tenants.contains(&s.tenant_id.as_str());
        Ok(rows.iter().filter(of).cloned().collect())
    }

    async fn get(&self, ids: &[Ulid]) -> Result<Vec<Subscription>, Unavailable> {
        let rows = self.rows()?;
        Ok(rows
            .iter()
            .filter(|s| ids.contains(&s.id))
            .cloned()
            .collect())
    }
}

/// This sink reads no history.
struct NoHistory;

#[async_trait]
impl History for NoHistory {
    async fn resolve(&self, _: &str, _: Cursor) -> Result<Place, Unavailable> {
        Ok(Place::Unknown)
    }

    async fn page(
        &self,
        _: &str,
        _: &TypeFilter,
        _: i64,
        _: i64,
        _: usize,
    ) -> Result<Vec<Arc<Event>>, Unavailable> {
        Ok(Vec::new())
    }

    async fn latest(&self, _: &str, _: i64) -> Result<Option<Ulid>, Unavailable> {
        Ok(None)
    }
}

/// A sink with its store and its data folder.
struct Bench {
    sink: Arc<WebPush>,
    store: Arc<Store>,
    _folder: TempDir,
}

fn bench(config: Value) -> Bench {
    let config: Config = serde_json::from_value(config).expect("well-formed");
    let folder = tempfile::tempdir().expect("folder");
    let store = Arc::new(Store::default());
    let host = Host {
        sink: "push".into(),
        history: Arc::new(NoHistory),
        subscriptions: store.clone(),
        data_dir: folder.path().join("push"),
    };
    Bench {
        sink: Arc::new(WebPush::new(config, host).expect("made")),
        store,
        _folder: folder,
    }
}

/// A browser's subscription at `endpoint`, and what opens its messages.
fn subscription(
    tenant: &str,
    user: Option<&str>,
    endpoint: &str,
) -> (Subscription, impl FnOnce(&[u8]) -> Vec<u8>) {
    let (private, receiver) = browser();
    let (p256dh, auth) = receiver.to_base64();
    let subscription = Subscription {
        id: Ulid::generate(),
        tenant_id: tenant.into(),
        user_id: user.map(str::to_owned),
        endpoint: endpoint.into(),
        p256dh,
        auth,
        created_at: Utc::now(),
    };
    (subscription, move |body| open(private, &receiver, body))
}

/// A push service on this machine: it keeps what it is sent and answers as told, 201 otherwise.
#[derive(Clone, Default)]
struct PushService {
    received: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answers: Arc<Mutex<VecDeque<Response>>>,
}

impl PushService {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("port");
        let address = listener.local_addr().expect("bound");
        let app = axum::Router::new()
            .fallback(Self::answer)
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    async fn answer(State(service): State<Self>, request: Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("whole").to_bytes();
        service
            .received
            .lock()
            .expect("whole")
            .push((head.headers, body));
        let next = service.answers.lock().expect("whole").pop_front();
        next.unwrap_or_else(|| StatusCode::CREATED.into_response())
    }

    fn will_answer(&self, response: Response) {
        self.answers.lock().expect("whole").push_back(response);
    }

    fn received(&self) -> Vec<(HeaderMap, Bytes)> {
        self.received.lock().expect("whole").clone()
    }
}

fn delivery(event: Event, recipient: Recipient) -> Delivery {
    Delivery {
        event: Arc::new(event),
        recipient,
        attempt: 1,
    }
}

/// As the runner has it after the first attempt.
fn without_hint(subscription: &Subscription) -> Recipient {
    Recipient {
        key: subscription.id.to_string(),
        hint: None,
    }
}
