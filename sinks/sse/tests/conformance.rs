//! The sink before the suite that every broadcast sink passes.

mod support;

use herald_contract::Broadcast;
use herald_sse::Config;
use herald_testkit::{BroadcastBench, Client, MemoryHistory, exercise_broadcast};
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
