//! What a backend gives the suite, and what the tests have in common.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald::store::{NewEvent, Sequencer, Store};
use herald_contract::Event;
use serde_json::value::RawValue;
use ulid::Ulid;

pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A migrated database, and ways around herald.
#[async_trait]
pub trait Database: Send + Sync {
    /// A store on it as another process would have it, with connections of its own.
    fn store(&self) -> Arc<dyn Store>;

    /// Runs SQL as another client would; tables need no schema's name. Answers the number of rows.
    async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error>;

    /// Makes every pending delivery due so many hours and a second earlier, as if time passed.
    async fn pass(&self, hours: i64);

    /// How many cases of a property it can take in the time of a test.
    fn cases(&self) -> u32;

    fn url(&self) -> &str;
}

/// A store under test and its database.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    database: Box<dyn Database>,
}

impl Fixture {
    pub fn new(database: impl Database + 'static) -> Arc<Self> {
        Arc::new(Self {
            store: database.store(),
            database: Box::new(database),
        })
    }

    /// Another store on the same database, with connections of its own.
    pub fn another(&self) -> Arc<dyn Store> {
        self.database.store()
    }

    pub fn url(&self) -> &str {
        self.database.url()
    }

    pub async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        self.database.execute(sql).await
    }

    pub async fn pass(&self, hours: i64) {
        self.database.pass(hours).await;
    }

    pub fn cases(&self) -> u32 {
        self.database.cases()
    }

    pub async fn emit(&self, events: &[NewEvent]) -> Vec<i64> {
        let emitted = self.store.emit(events).await.expect("emitted");
        emitted.iter().map(|e| e.aggregate_id).collect()
    }

    /// The lead. The server learns of a connection that was closed in its own time.
    pub async fn lead(&self) -> Box<dyn Sequencer> {
        for _ in 0..1000 {
            if let Some(lead) = self.store.try_lead().await.expect("asked for the lead") {
                return lead;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("somebody else leads");
    }

    /// Moves all that waits to the feed.
    pub async fn sequence(&self) -> Vec<Arc<Event>> {
        let mut lead = self.lead().await;
        let mut events = Vec::new();
        loop {
            let more = lead.sequence(1000).await.expect("sequenced");
            if more.is_empty() {
                return events;
            }
            events.extend(more);
        }
    }

    /// Emits and sequences.
    pub async fn feed(&self, events: &[NewEvent]) -> Vec<Arc<Event>> {
        self.emit(events).await;
        self.sequence().await
    }
}

pub fn ulid() -> Ulid {
    ulid::Generator::new()
        .generate()
        .expect("the first of its generator")
}

pub fn event(tenant: &str, kind: &str) -> NewEvent {
    NewEvent {
        event_id: ulid(),
        tenant_id: tenant.to_owned(),
        kind: kind.to_owned(),
        payload: json(r#"{"n": 1}"#),
        metadata: None,
        idempotency_key: None,
    }
}

pub fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("valid JSON")
}
