//! From the outbox to the feed: the relay's only write, made by the one who leads.

use std::fs::{File, TryLockError};
use std::sync::Arc;

use async_trait::async_trait;
use herald_contract::Event;
use sqlx::Row as _;
use tokio::sync::OwnedMutexGuard;

use super::feed::read_feed;
use super::{Sqlite, limited};
use crate::store::{Sequencer, StoreError};

const ANYTHING: &str = "SELECT EXISTS (SELECT 1 FROM outbox)";

/// Writers take turns here, so the order of the ids is the order of the commits. An outbox row
/// that somebody inserts a second time is dropped: its event is in the feed.
const NUMBER: &str = "
INSERT INTO feed (seq, aggregate_id, tenant_id)
SELECT (SELECT seq FROM feed_state) + row_number() OVER (ORDER BY e.id), e.id, e.tenant_id
FROM (SELECT aggregate_id FROM outbox ORDER BY aggregate_id LIMIT ?1) c
JOIN events e ON e.id = c.aggregate_id
WHERE NOT EXISTS (SELECT 1 FROM feed f WHERE f.aggregate_id = c.aggregate_id)";

/// The same rows, since nobody else writes within the transaction.
const CLAIM: &str = "
DELETE FROM outbox
WHERE aggregate_id IN (SELECT aggregate_id FROM outbox ORDER BY aggregate_id LIMIT ?1)";

const MOVE_END: &str = "UPDATE feed_state SET seq = seq + ?1 RETURNING seq";

/// Holds the lead within this process for as long as it lives. The lock on the file stays with
/// the store.
struct Claim {
    store: Sqlite,
    _lead: OwnedMutexGuard<Option<File>>,
}

#[async_trait]
impl Sequencer for Claim {
    async fn sequence(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        self.store.within(self.store.move_outbox(limit)).await
    }
}

impl Sqlite {
    async fn move_outbox(&self, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        // An idle poll reads and takes no lock.
        let waiting = sqlx::query(ANYTHING).fetch_one(&self.readers).await?;
        if !waiting.try_get::<bool, _>(0)? {
            return Ok(Vec::new());
        }
        let mut transaction = self.begin().await?;
        let numbered = sqlx::query(NUMBER)
            .bind(limited(limit))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        let numbered = i64::try_from(numbered).unwrap_or(i64::MAX);
        sqlx::query(CLAIM)
            .bind(limited(limit))
            .execute(&mut *transaction)
            .await?;
        let end: i64 = sqlx::query(MOVE_END)
            .bind(numbered)
            .fetch_one(&mut *transaction)
            .await?
            .try_get(0)?;
        let events = read_feed(&mut *transaction, end - numbered, limit).await?;
        transaction.commit().await?;
        Ok(events)
    }

    /// Takes the lead within this process and, the first time, the lock on the file that keeps
    /// other processes out. The lock is the operating system's: it goes with the process, however
    /// that ends, and the file beside the database may stay.
    pub(super) async fn lead(&self) -> Result<Option<Box<dyn Sequencer>>, StoreError> {
        let Ok(mut lead) = Arc::clone(&self.lead).try_lock_owned() else {
            return Ok(None);
        };
        if lead.is_none() {
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&*self.lock_path)
                .map_err(sqlx::Error::Io)?;
            match lock.try_lock() {
                Ok(()) => *lead = Some(lock),
                Err(TryLockError::WouldBlock) => return Err(self.in_use()),
                Err(TryLockError::Error(e)) => return Err(sqlx::Error::Io(e).into()),
            }
        }
        Ok(Some(Box::new(Claim {
            store: self.clone(),
            _lead: lead,
        })))
    }

    fn in_use(&self) -> StoreError {
        StoreError::InUse(format!(
            "{} is in use by another herald process; one process at a time can run on a SQLite \
             file: stop the other, or use PostgreSQL",
            self.path.display()
        ))
    }
}
