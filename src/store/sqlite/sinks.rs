//! Checkpoints: where each sink stands.

use chrono::Utc;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Sqlite, stamp};
use crate::store::{Checkpoint, StoreError, Witness};

const REGISTER: &str = "
INSERT INTO checkpoints (sink, seq) SELECT ?1, seq FROM feed_state WHERE true
ON CONFLICT (sink) DO UPDATE SET sink = excluded.sink
RETURNING sink, seq, paused";

const ALL: &str = "SELECT sink, seq, paused FROM checkpoints ORDER BY sink";

const ADVANCE: &str = "
UPDATE checkpoints SET seq = ?2, updated_at = ?5
FROM feed_state f
WHERE sink = ?1 AND checkpoints.seq < ?2 AND f.seq >= ?2
  AND (?3 IS NULL OR EXISTS (
      SELECT 1 FROM feed w JOIN events e ON e.id = w.aggregate_id
      WHERE w.seq = ?3 AND e.event_id = ?4))";

const PAUSE: &str = "UPDATE checkpoints SET paused = ?2, updated_at = ?3 WHERE sink = ?1";

const FORGET: &str = "DELETE FROM checkpoints WHERE sink = ?1";

impl Sqlite {
    pub(super) async fn insert_checkpoint(&self, sink: &str) -> Result<Checkpoint, StoreError> {
        let row = sqlx::query(REGISTER)
            .bind(sink)
            .fetch_one(&self.writer)
            .await?;
        Ok(checkpoint(&row)?.1)
    }

    pub(super) async fn read_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>, StoreError> {
        let rows = sqlx::query(ALL).fetch_all(&self.readers).await?;
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
            .bind(stamp(Utc::now()))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    pub(super) async fn set_paused(&self, sink: &str, paused: bool) -> Result<bool, StoreError> {
        let done = sqlx::query(PAUSE)
            .bind(sink)
            .bind(paused)
            .bind(stamp(Utc::now()))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn delete_checkpoint(&self, sink: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(FORGET).bind(sink).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }
}

fn checkpoint(row: &SqliteRow) -> Result<(String, Checkpoint), StoreError> {
    let at = Checkpoint {
        seq: row.try_get(1)?,
        paused: row.try_get(2)?,
    };
    Ok((row.try_get(0)?, at))
}
