//! Dead letters are told of: to the broker's dead-letter stream, and as events of the operators'
//! tenant, if there is one.
//!
//! The ledger knows which letters have not been told of. They are read from there and marked when
//! they were told, so that what is told is what the ledger holds, and a crash or a broker that is
//! away delays the news and loses none. It may come twice to the stream, and never to the tenant:
//! there a letter has an idempotency key.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::to_raw_value;
use tokio::time::timeout;

use super::Runner;
use crate::backoff::Backoff;
use crate::broker::BrokerError;
use crate::store::{LedgerRow, NewEvent};

/// The type of an event that tells of a dead letter. Its payload is the letter.
const TYPE: &str = "herald.dead_letter";

/// Letters that are told of at a time.
const SOME: usize = 500;

/// How often the ledger is asked although nobody died here: for what a crash left.
const LOOK: Duration = Duration::from_secs(60);

impl Runner {
    /// Tells whenever somebody has died, apart from the deliveries, which do not wait for it.
    pub(super) async fn tell_of_the_dead(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let wait = match self.tell_all().await {
                Ok(()) => {
                    failures = 0;
                    LOOK
                }
                Err(error) => {
                    failures += 1;
                    self.failed("cannot tell of dead letters", &error);
                    Backoff::INTERNAL.after(failures)
                }
            };
            let _ = timeout(wait, self.died.notified()).await;
        }
    }

    async fn tell_all(&self) -> Result<(), BrokerError> {
        let sink = &self.settings.name;
        loop {
            let letters = self.store.dead_untold(sink, SOME).await?;
            if letters.is_empty() {
                return Ok(());
            }
            self.tell(&letters).await?;
            let keys: Vec<_> = letters
                .iter()
                .map(|letter| (letter.event_id, letter.recipient.as_str()))
                .collect();
            self.store.dead_told(sink, &keys).await?;
        }
    }

    async fn tell(&self, letters: &[LedgerRow]) -> Result<(), BrokerError> {
        self.broker.dead_letters(letters).await?;
        if let Some(tenant) = &self.settings.dead_letter_tenant {
            let events: Vec<NewEvent> = letters
                .iter()
                // A dead letter about a dead letter would beget another.
                .filter(|letter| letter.kind != TYPE)
                .filter_map(|letter| event(letter, tenant))
                .collect();
            if !events.is_empty() {
                self.store.emit(&events).await?;
            }
        }
        Ok(())
    }
}

/// Its key is unique for each death: a letter that was replayed may die again.
fn event(letter: &LedgerRow, tenant: &Arc<str>) -> Option<NewEvent> {
    let LedgerRow { sink, event_id, .. } = letter;
    let died = letter.updated_at.timestamp_micros();
    // A recipient may be longer than a key.
    let mut recipient = DefaultHasher::new();
    letter.recipient.hash(&mut recipient);
    let recipient = recipient.finish();
    Some(NewEvent {
        event_id: ulid::Ulid::generate(),
        tenant_id: tenant.to_string(),
        kind: TYPE.to_owned(),
        payload: to_raw_value(letter).ok()?,
        metadata: None,
        idempotency_key: Some(format!("dead/{sink}/{event_id}/{recipient:x}/{died}")),
    })
}
