//! From the outbox to the feed: the relay's only write, made by the one who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use herald_contract::Event;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use super::Postgres;
use crate::store::rows::Columns as _;
use crate::store::{LEAD_HEARTBEAT, Sequencer, StoreError, within};

/// The lock that the leader's session holds: "herald" in ASCII, in each database for itself.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(x'686572616c64'::bigint)";

/// For the leader's session, which must not outlive a leader that hangs (stopped, or behind a
/// network that lets nothing through): a session that is idle for longer than [`LEAD_LASTS`] ends,
/// and so does one whose answer nobody reads. The first needs PostgreSQL 14.
const END_WITH_LEADER: &str = "
SELECT set_config('tcp_user_timeout', $1, false),
       CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('idle_session_timeout', $1, false) END";

/// How long the lead of a leader that hangs lasts: four times what [`Sequencer`] promises to need.
const LEAD_LASTS: Duration = LEAD_HEARTBEAT.saturating_mul(4);

/// For the leader's connection. Planning [`SEQUENCE`] takes longer than running it, so it is
/// planned once; and as the outbox is now empty, now a million rows long, that one plan must not
/// depend on its size when it was made. Nested loops over indexes are right for every size.
const PLAN_ONCE: &str = "
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off";

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
        (SELECT ctid FROM herald.outbox WHERE aggregate_id = ANY ($3))
        UNION ALL
        (SELECT ctid FROM herald.outbox WHERE aggregate_id > $1 ORDER BY aggregate_id LIMIT $2)))
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

/// By which the relay claims: rows above `$1`, `$2` at most, and those in `$3`, go from the outbox
/// to the feed, and come back with their payload.
pub const SEQUENCE: &str = sequence!("");

/// For when somebody inserted an outbox row a second time, which violates the feed's uniqueness:
/// such rows are dropped, since their event is in the feed.
const SEQUENCE_NEW: &str =
    sequence!("WHERE NOT EXISTS (SELECT FROM herald.feed f WHERE f.aggregate_id = c.aggregate_id)");

/// Whether anything waits at or below the hint; the oldest transaction that is still open, and the
/// first that has not begun.
const LOOK: &str = "
SELECT EXISTS (SELECT FROM herald.outbox WHERE aggregate_id <= $1),
       pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint
FROM pg_current_snapshot() AS now";

/// Between two looks below the hint, at least; and how many times what the last one took.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_SHARE: u32 = 20;

/// How many of the newest gaps are remembered. Each costs an index probe a claim.
const MAX_GAPS: usize = 500;

/// Claims from the outbox by `aggregate_id`, above a hint: the highest one claimed so far.
///
/// A scan from the outbox's beginning would be simple, but while some old transaction is open
/// anywhere in the database, index entries of rows long claimed cannot be removed, and the scan
/// walks over all of them: 30 times slower after some 100,000 events.
///
/// Below the hint a row can appear only where an id was skipped: its transaction is still open, or
/// was rolled back. Every claim asks for these gaps too, in the same snapshot. So an event that
/// was emitted after another one's commit follows it in the feed. A gap is forgotten once every
/// transaction that was open when it was noticed has ended. What appears in a forgotten gap all
/// the same (there were [`MAX_GAPS`] newer ones, the leader changed, or a client took its id long
/// before its transaction wrote) is found by a look below the hint, which costs a twentieth of the
/// time at most.
struct Claim {
    connection: PgConnection,
    timeout: Duration,
    hint: i64,
    /// With the first transaction that began after the gap was noticed, from the next look on.
    gaps: BTreeMap<i64, Option<i64>>,
    next_look: Instant,
}

#[async_trait]
impl Sequencer for Claim {
    async fn sequence(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        // A connection whose other end has vanished says nothing for many minutes.
        within(self.timeout, self.sequence_some(limit)).await
    }
}

impl Claim {
    async fn sequence_some(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
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
            self.claimed(event.aggregate_id);
            events.push(Arc::new(event));
        }
        Ok(events)
    }

    async fn claim(
        &mut self,
        statement: &'static str,
        above: i64,
        limit: usize,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(statement)
            .bind(above)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(self.gaps.keys().copied().collect::<Vec<_>>())
            .fetch_all(&mut self.connection)
            .await
    }

    /// Moves the hint up to `id`, over gaps if ids were skipped; or closes a gap.
    fn claimed(&mut self, id: i64) {
        if id <= self.hint {
            self.gaps.remove(&id);
            return;
        }
        if self.hint != i64::MIN {
            let newest = id.saturating_sub(MAX_GAPS as i64).max(self.hint + 1);
            self.gaps.extend((newest..id).map(|gap| (gap, None)));
            while self.gaps.len() > MAX_GAPS {
                self.gaps.pop_first();
            }
        }
        self.hint = id;
    }

    async fn late_ones_wait(&mut self) -> Result<bool, StoreError> {
        if self.hint == i64::MIN || Instant::now() < self.next_look {
            return Ok(false);
        }
        let began = Instant::now();
        let row = sqlx::query(LOOK)
            .bind(self.hint)
            .fetch_one(&mut self.connection)
            .await?;
        let (late, oldest_open, next): (bool, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        self.gaps
            .retain(|_, after| after.is_none_or(|after| oldest_open < after));
        for after in self.gaps.values_mut() {
            after.get_or_insert(next);
        }
        self.next_look = Instant::now() + (began.elapsed() * LOOK_SHARE).max(LOOK_EVERY);
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
        if !leads {
            connection.close().await?;
            return Ok(None);
        }
        connection.execute(PLAN_ONCE).await?;
        sqlx::query(END_WITH_LEADER)
            .bind(LEAD_LASTS.as_millis().to_string())
            .execute(&mut connection)
            .await?;
        Ok(Some(Box::new(Claim {
            connection,
            timeout: self.timeout * 2,
            hint: i64::MIN,
            gaps: BTreeMap::new(),
            next_look: Instant::now(),
        })))
    }
}
