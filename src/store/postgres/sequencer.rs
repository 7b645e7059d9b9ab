//! From the outbox to the feed: the relay's only write, made by the one who leads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use herald_contract::Event;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::Postgres;
use crate::store::rows::Columns as _;
use crate::store::{Sequencer, StoreError};

/// The lock that the leader's session holds: "herald" in ASCII, in each database for itself.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(x'686572616c64'::bigint)";

/// One statement, so one round trip and one transaction; `$filter` is put behind the join.
///
/// Deleting claims the rows. The lock on feed_state makes two sequencers take turns, and the
/// later one's numbers follow the earlier one's, since a locked row is read in its newest
/// version. Nothing is locked or written when nothing waits.
macro_rules! sequence {
    ($filter:literal) => {
        concat!(
            "
WITH claimed AS (
    DELETE FROM herald.outbox WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM herald.outbox WHERE aggregate_id > $1 ORDER BY aggregate_id LIMIT $2))
    RETURNING aggregate_id
), head AS (
    SELECT seq FROM herald.feed_state WHERE EXISTS (SELECT FROM claimed) FOR UPDATE
), numbered AS MATERIALIZED (
    SELECT (SELECT seq FROM head) + row_number() OVER (ORDER BY e.id) AS seq, e.id, e.event_id,
           e.tenant_id, e.type, e.payload::text, e.metadata::text, e.created_at
    FROM claimed c JOIN herald.events e ON e.id = c.aggregate_id ",
            $filter,
            "
), fed AS (
    INSERT INTO herald.feed (seq, aggregate_id, tenant_id) SELECT seq, id, tenant_id FROM numbered
), moved AS (
    UPDATE herald.feed_state SET seq = seq + (SELECT count(*) FROM numbered)
    WHERE EXISTS (SELECT FROM numbered)
)
SELECT * FROM numbered ORDER BY seq"
        )
    };
}

/// The relay's statement.
pub const SEQUENCE: &str = sequence!("");

/// For when somebody inserted an outbox row a second time, which violates the feed's uniqueness:
/// such rows are dropped, since their event is in the feed.
const SEQUENCE_NEW: &str =
    sequence!("WHERE NOT EXISTS (SELECT FROM herald.feed f WHERE f.aggregate_id = c.aggregate_id)");

/// Whether anything waits at or below the hint: committed late, behind those already claimed.
const LATE: &str = "SELECT EXISTS (SELECT FROM herald.outbox WHERE aggregate_id <= $1)";

/// A look below the hint that takes longer than this is made less often.
const QUICK: Duration = Duration::from_millis(1);

/// Claims from the outbox by `aggregate_id`, above a hint: the highest one claimed so far.
///
/// While some old transaction is open anywhere in the database, dead index entries of rows long
/// claimed cannot be removed, and a scan from the beginning walks over all of them: 30 times
/// slower after some 100,000 events. So a cheap look first asks whether anything waits below the
/// hint. While that look is quick it is made before every claim, and the feed's order is the
/// commits' order for every producer that waits for one commit before it makes the next. Once it
/// is slow it is made at most half of the time; a transaction that commits late then waits for
/// the next look, and may come after one that committed in between.
struct Claim {
    connection: PgConnection,
    hint: i64,
    next_look: Instant,
}

#[async_trait]
impl Sequencer for Claim {
    async fn sequence(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        let above = if self.late_ones_wait().await? {
            i64::MIN
        } else {
            self.hint
        };
        let rows = match self.claim(SEQUENCE, above, limit).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                self.claim(SEQUENCE_NEW, above, limit).await?
            }
            claimed => claimed?,
        };
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            let event = row.event(0)?;
            self.hint = self.hint.max(event.aggregate_id);
            events.push(Arc::new(event));
        }
        Ok(events)
    }
}

impl Claim {
    async fn claim(
        &mut self,
        statement: &'static str,
        above: i64,
        limit: usize,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(statement)
            .bind(above)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut self.connection)
            .await
    }

    async fn late_ones_wait(&mut self) -> Result<bool, StoreError> {
        if self.hint == i64::MIN || Instant::now() < self.next_look {
            return Ok(false);
        }
        let began = Instant::now();
        let late = sqlx::query(LATE)
            .bind(self.hint)
            .fetch_one(&mut self.connection)
            .await?
            .try_get(0)?;
        let took = began.elapsed();
        if took > QUICK {
            self.next_look = Instant::now() + took;
        }
        Ok(late)
    }
}

impl Postgres {
    pub(super) async fn lead(&self) -> Result<Option<Box<dyn Sequencer>>, StoreError> {
        let mut connection = self.connect_alone().await?;
        let leads: bool = sqlx::query(TRY_LOCK)
            .fetch_one(&mut connection)
            .await?
            .try_get(0)?;
        Ok(leads.then(|| {
            Box::new(Claim {
                connection,
                hint: i64::MIN,
                next_look: Instant::now(),
            }) as Box<dyn Sequencer>
        }))
    }
}
