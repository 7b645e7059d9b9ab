//! The sink as its host sees it, against a push service and a subscription store made for tests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chrono::Utc;
use herald_contract::{
    Delivery, Event, Host, Outcome, Recipient, Sink as _, Subscription, Subscriptions as _,
};
use herald_testkit::MemorySubscriptions;
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
        created_at: Utc::now(),
    }
}

/// A sink with its store and its data folder.
struct Bench {
    sink: Arc<WebPush>,
    store: Arc<MemorySubscriptions>,
    _folder: TempDir,
}

fn bench(config: Value) -> Bench {
    let config: Config = serde_json::from_value(config).expect("well-formed");
    let folder = tempfile::tempdir().expect("folder");
    let store = Arc::new(MemorySubscriptions::default());
    let host = Host {
        subscriptions: store.clone(),
        ..herald_testkit::host("push", folder.path().join("push"))
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
    Recipient::new(subscription.id.to_string())
}
