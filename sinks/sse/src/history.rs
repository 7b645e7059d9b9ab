//! Reading history within bounds: so many queries at once, so much time for each.
//!
//! After a restart every client comes back at the same moment, and each asks the database where it
//! stands and what it has missed. They queue here, so that they do not take the whole connection
//! pool from the sinks that share it.

use std::sync::Arc;
use std::time::Duration;

use herald_contract::{Cursor, Event, History, Place, TypeFilter, Unavailable};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use ulid::Ulid;

/// Queries under way at once.
const READERS: usize = 8;
/// For one query, with its wait for a turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a page that a client is waiting for, with all repetitions.
const OUTAGE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

pub struct Reader {
    history: Arc<dyn History>,
    turns: Semaphore,
    page: usize,
}

/// What one query read of a stretch.
pub struct Page {
    pub events: Vec<Arc<Event>>,
    /// Whether the stretch ends with it.
    pub last: bool,
    /// Whether events may be missing at its beginning, because they have expired.
    pub hole: bool,
}

/// A stretch of a tenant's feed: `after < seq <= upto`.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    pub tenant: &'a str,
    pub types: &'a TypeFilter,
    pub after: i64,
    pub upto: i64,
    /// Whether it is to begin with the oldest event that is kept: then nothing before that is
    /// missing.
    pub from_oldest: bool,
}

impl Reader {
    /// `page` is the number of events that one query reads at most.
    pub fn new(history: Arc<dyn History>, page: usize) -> Self {
        Self {
            history,
            turns: Semaphore::new(READERS),
            page,
        }
    }

    pub async fn resolve(&self, tenant: &str, cursor: Cursor) -> Result<Place, Unavailable> {
        self.bounded(self.history.resolve(tenant, cursor)).await
    }

    pub async fn latest(&self, tenant: &str, upto: i64) -> Result<Option<Ulid>, Unavailable> {
        self.bounded(self.history.latest(tenant, upto)).await
    }

    /// The next page of a stretch. Asks again when the database is away.
    ///
    /// # Errors
    /// It has been away for 30 s.
    pub async fn page(&self, stretch: Stretch<'_>) -> Result<Page, Unavailable> {
        let mut cause = Unavailable("no answer in time".into());
        let pages = async {
            let mut pause = FIRST_PAUSE;
            loop {
                match self.page_once(stretch).await {
                    Ok(page) => return page,
                    Err(e) => cause = e,
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        timeout(OUTAGE, pages).await.map_err(|_| cause)
    }

    /// What expires is asked for after the page: events that went before it was read are found
    /// out, and one that went since costs a client a needless reset at most.
    async fn page_once(&self, stretch: Stretch<'_>) -> Result<Page, Unavailable> {
        let Stretch {
            tenant,
            types,
            after,
            upto,
            from_oldest,
        } = stretch;
        let page = async {
            let events = self
                .history
                .page(tenant, types, after, upto, self.page)
                .await?;
            let hole = !from_oldest && self.history.expired().await? > after;
            Ok(Page {
                last: events.len() < self.page,
                events,
                hole,
            })
        };
        self.bounded(page).await
    }

    async fn bounded<T>(
        &self,
        query: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let turn = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            query.await
        };
        timeout(PATIENCE, turn)
            .await
            .unwrap_or_else(|_| Err(Unavailable("no answer in time".into())))
    }
}
