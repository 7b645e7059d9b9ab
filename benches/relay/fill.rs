//! Events to be relayed.

use sqlx::PgPool;

/// Bytes of each event's payload.
pub const PAYLOAD: usize = 200;

/// Fills the outbox with `count` events of [`PAYLOAD`] bytes.
pub async fn fill(pool: &PgPool, count: i64) -> anyhow::Result<()> {
    sqlx::query(
        "WITH e AS (
            INSERT INTO herald.events (tenant_id, type, payload)
            SELECT 'tenant-' || n % 10, 'bench.event',
                   json_build_object('n', n, 'fill', repeat('x', $2 - 25))
            FROM generate_series(1, $1) AS n RETURNING id, event_id)
         INSERT INTO herald.outbox (aggregate_id, event_id) SELECT id, event_id FROM e",
    )
    .bind(count)
    .bind(i32::try_from(PAYLOAD)?)
    .execute(pool)
    .await?;
    sqlx::query("VACUUM ANALYZE herald.events")
        .execute(pool)
        .await?;
    sqlx::query("VACUUM ANALYZE herald.outbox")
        .execute(pool)
        .await?;
    Ok(())
}
