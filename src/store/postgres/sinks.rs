//! Checkpoints: where each sink stands.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::Postgres;
use crate::store::{Checkpoint, StoreError, Witness};

const REGISTER: &str = "
INSERT INTO herald.checkpoints (sink, seq) SELECT $1, seq FROM herald.feed_state
ON CONFLICT (sink) DO UPDATE SET sink = excluded.sink
RETURNING sink, seq, paused";

const ALL: &str = "SELECT sink, seq, paused FROM herald.checkpoints ORDER BY sink";

const ADVANCE: &str = "
UPDATE herald.checkpoints c SET seq = $2, updated_at = now()
FROM herald.feed_state f
WHERE c.sink = $1 AND c.seq < $2 AND f.seq >= $2
  AND ($3::bigint IS NULL OR EXISTS (
      SELECT FROM herald.feed w JOIN herald.events e ON e.id = w.aggregate_id
      WHERE w.seq = $3 AND e.event_id = $4))";

const PAUSE: &str = "
UPDATE herald.checkpoints SET paused = $2, updated_at = now() WHERE sink = $1";

const FORGET: &str = "DELETE FROM herald.checkpoints WHERE sink = $1";

impl Postgres {
    pub(super) async fn insert_checkpoint(&self, sink: &str) -> Result<Checkpoint, StoreError> {
        let row = sqlx::query(REGISTER)
            .bind(sink)
            .fetch_one(&self.pool)
            .await?;
        Ok(checkpoint(&row)?.1)
    }

    pub(super) async fn read_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>, StoreError> {
        let rows = sqlx::query(ALL).fetch_all(&self.pool).await?;
        rows.iter().map(checkpoint).collect()
    }

    pub(super) async fn advance_checkpoint(
        &self,
        sink: &str,
        seq: i64,
        witness: Option<Witness>,
    ) -> Result<(), StoreError> {
        sqlx::query(ADVANCE)
            .bind(sink)
            .bind(seq)
            .bind(witness.map(|w| w.seq))
            .bind(witness.map(|w| w.event_id.to_string()))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(super) async fn set_paused(&self, sink: &str, paused: bool) -> Result<bool, StoreError> {
        let done = sqlx::query(PAUSE)
            .bind(sink)
            .bind(paused)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn delete_checkpoint(&self, sink: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(FORGET).bind(sink).execute(&self.pool).await?;
        Ok(done.rows_affected() > 0)
    }
}

fn checkpoint(row: &PgRow) -> Result<(String, Checkpoint), StoreError> {
    let at = Checkpoint {
        seq: row.try_get(1)?,
        paused: row.try_get(2)?,
    };
    Ok((row.try_get(0)?, at))
}
