//! The sink before the suite that every broadcast sink passes, by either of its routes.

#[path = "support/socket.rs"]
mod socket;
mod support;

use herald_contract::Broadcast;
use herald_sse::Config;
use herald_testkit::{BroadcastBench, Client, MemoryHistory, exercise_broadcast};
use socket::{CLOSE, Socket, TEXT};
use support::{EventSource, Server};
use ulid::Ulid;

#[async_trait::async_trait]
impl BroadcastBench for Server {
    fn sink(&self) -> &dyn Broadcast {
        &self.sse
    }

    fn history(&self) -> &MemoryHistory {
        &self.memory
    }

    async fn connect(&self, tenant: &str) -> Box<dyn Client> {
        Box::new(self.connect(&format!("tenantId={tenant}")).await)
    }
}

#[async_trait::async_trait]
impl Client for EventSource {
    async fn next(&mut self) -> Option<Ulid> {
        let message = self.next().await?;
        Some(message.id.parse().expect("a ULID"))
    }
}

#[tokio::test(start_paused = true)]
async fn the_sink_keeps_the_contract() {
    exercise_broadcast(&Server::not_started(Config::default())).await;
}

/// The sink as clients of `/ws` see it.
struct Sockets(Server);

#[async_trait::async_trait]
impl BroadcastBench for Sockets {
    fn sink(&self) -> &dyn Broadcast {
        &self.0.sse
    }

    fn history(&self) -> &MemoryHistory {
        &self.0.memory
    }

    async fn connect(&self, tenant: &str) -> Box<dyn Client> {
        let query = format!("tenantId={tenant}");
        let mut socket = Socket::connect(&self.0, &query, b"").await;
        assert_eq!(socket.text().await["herald"], "subscribed");
        Box::new(socket)
    }
}

/// As much of an event as is to be known; the payload may be text that is no Unicode.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    event_id: Ulid,
}

#[async_trait::async_trait]
impl Client for Socket {
    async fn next(&mut self) -> Option<Ulid> {
        match self.next().await? {
            (TEXT, text) => {
                let named: Named = serde_json::from_slice(&text).expect("an event");
                Some(named.event_id)
            }
            (CLOSE, _) => None,
            (other, _) => panic!("a frame that begins with {other:x}"),
        }
    }
}

#[tokio::test]
async fn it_keeps_the_contract_over_websockets_too() {
    exercise_broadcast(&Sockets(Server::not_started(Config::default()))).await;
}
