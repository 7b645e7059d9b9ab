//! The sink and a push service on this machine, before the suite that every sink passes.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use chrono::DateTime;
use herald_contract::{Event, Host, Sink, Subscription, Subscriptions as _};
use herald_testkit::{
    Arrival, FarEnd, MemorySubscriptions, SinkBench, event, event_id, exercise_sink, host,
};
use herald_web_push::WebPush;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::json;
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    subscriptions: Arc<MemorySubscriptions>,
    service: Service,
}

/// Its answer, and what it was sent.
type Service = Arc<Mutex<(StatusCode, Vec<Arrival>)>>;

/// The topic is what replaces a message that arrived before (RFC 8030 §5.4).
async fn receive(State(service): State<Service>, uri: Uri, headers: HeaderMap) -> StatusCode {
    let mut service = service.lock().expect("whole");
    if service.0.is_success() {
        service.1.push(Arrival {
            recipient: uri.path().trim_start_matches('/').to_owned(),
            mark: headers["topic"].to_str().expect("ASCII").to_owned(),
        });
    }
    service.0
}

impl Bench {
    async fn start() -> Self {
        let service = Service::default();
        let app = axum::Router::new()
            .fallback(receive)
            .with_state(service.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let subscriptions = Arc::new(MemorySubscriptions::default());
        for id in [1, 2, 3].map(event_id) {
            let row = Subscription {
                id,
                tenant_id: "acme".into(),
                user_id: None,
                endpoint: format!("http://{address}/{id}"),
                // The browser's keys in RFC 8291 §5.
                p256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4".into(),
                auth: "BTBZMqHH6r4Tts7J_aSIgg".into(),
                created_at: DateTime::UNIX_EPOCH,
            };
            subscriptions.put(row).await.expect("stored");
        }
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            subscriptions,
            service,
        }
    }
}

#[async_trait::async_trait]
impl SinkBench for Bench {
    fn sink(&self) -> Arc<dyn Sink> {
        let config = json!({
            "private_endpoints": "loopback",
            "templates": [{"topic": "{{ eventId }}", "title": "{{ payload.text }}"}],
        });
        let config = serde_json::from_value(config).expect("well-formed");
        let host = Host {
            subscriptions: self.subscriptions.clone(),
            ..host("push", self.folder.path())
        };
        Arc::new(WebPush::new(config, host).expect("a sink"))
    }

    fn wanted(&self, seq: i64) -> Arc<Event> {
        event(seq, "acme", "order.created", r#"{"text": "hello"}"#)
    }

    fn unwanted(&self, seq: i64) -> Arc<Event> {
        event(seq, "nobody", "order.created", r#"{"text": "hello"}"#)
    }

    async fn set(&self, far_end: FarEnd) -> bool {
        self.service.lock().expect("whole").0 = match far_end {
            FarEnd::Works => StatusCode::CREATED,
            FarEnd::FailsForNow => StatusCode::SERVICE_UNAVAILABLE,
            FarEnd::FailsForGood => StatusCode::GONE,
        };
        true
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        self.service.lock().expect("whole").1.clone()
    }
}

#[tokio::test]
async fn the_sink_keeps_the_contract() {
    exercise_sink(&Bench::start().await).await;
}
