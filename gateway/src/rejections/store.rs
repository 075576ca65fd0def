//! The SQL of rejections. The gateway may insert them, and not even read them.

use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, execute, with_client};

use super::{Batch, Tally};

/// Stores rejections. Its commits need not be durable: what a crash of the database undoes is a few counts.
#[derive(Clone)]
pub struct RejectionStore {
    pool: Pool,
    timeout: Duration,
}

impl RejectionStore {
    /// A store on a pool; each wait is bounded by `timeout`.
    pub fn new(pool: Pool, timeout: Duration) -> Self {
        Self { pool, timeout }
    }

    /// Stores a batch, once however often it is given.
    pub(super) async fn insert(&self, batch: &Batch) -> Result<(), StoreError> {
        const INSERT: &str = "
            INSERT INTO rejections (id, cause, count, client, body_sha256, body_bytes)
            SELECT $1 || '-' || cause, cause, count, client, body_sha256, body_bytes
            FROM unnest($2::text[], $3::bigint[], $4::inet[], $5::bytea[], $6::integer[])
                AS given (cause, count, client, body_sha256, body_bytes)
            ON CONFLICT DO NOTHING";
        let tallies: Vec<(&&str, &Tally)> = batch.tallies.iter().collect();
        let causes: Vec<_> = tallies.iter().map(|(cause, _)| **cause).collect();
        let counts: Vec<_> = tallies.iter().map(|(_, tally)| tally.count).collect();
        let clients: Vec<_> = tallies.iter().map(|(_, tally)| tally.client).collect();
        let bodies = || tallies.iter().map(|(_, tally)| tally.body.as_ref());
        let hashes: Vec<_> = bodies()
            .map(|body| body.map(|(hash, _)| hash.as_slice()))
            .collect();
        let sizes: Vec<_> = bodies().map(|body| body.map(|(_, bytes)| *bytes)).collect();
        with_client(&self.pool, self.timeout, async |client| {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&batch.name, &causes, &counts, &clients, &hashes, &sizes];
            execute(client, INSERT, &params).await
        })
        .await?;
        Ok(())
    }
}
