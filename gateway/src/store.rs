//! The gateway's SQL. It runs under a role that can insert events and outbox rows, and little else.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, execute, query, with_client};
use tokio_postgres::types::ToSql;

use crate::envelope::Envelope;

/// Events, bodies and outbox rows in one statement, so that one round trip and one commit make a batch durable. A known
/// id only counts as delivered once more: a count above what was given says so. `DO UPDATE` and not a second statement,
/// because only it sees a row that another connection has just committed. Arrays are unnested in select lists and new rows
/// found with `IN`: bodies pass through without being copied into a function's result or into the hash table of a join.
const INSERT: &str = "
    WITH event AS (
        INSERT INTO webhook_events (id, type, livemode, api_version, account, created_at, deliveries)
        SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::boolean[]), unnest($4::text[]), unnest($5::text[]),
            unnest($6::timestamptz[]), unnest($7::integer[])
        ON CONFLICT (id) DO UPDATE SET deliveries = webhook_events.deliveries + excluded.deliveries
        RETURNING id, deliveries
    ), payload AS (
        INSERT INTO event_payloads (event_id, body)
        SELECT id, body
        FROM (SELECT unnest($1) AS id, unnest($7) AS deliveries, unnest($8::bytea[]) AS body) AS given
        WHERE (id, deliveries) IN (SELECT id, deliveries FROM event)
    )
    INSERT INTO outbox (event_id, available_at, traceparent)
    SELECT id, now() + make_interval(secs => $10), traceparent
    FROM (SELECT unnest($1) AS id, unnest($7) AS deliveries, unnest($9::text[]) AS traceparent) AS given
    WHERE (id, deliveries) IN (SELECT id, deliveries FROM event)
    RETURNING event_id, id";

/// The same for one event: without the arrays and joins of a batch it takes a third less of the database's time, which a
/// lone request waits for.
const INSERT_ONE: &str = "
    WITH event AS (
        INSERT INTO webhook_events (id, type, livemode, api_version, account, created_at, deliveries)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (id) DO UPDATE SET deliveries = webhook_events.deliveries + excluded.deliveries
        RETURNING id, deliveries
    ), payload AS (
        INSERT INTO event_payloads (event_id, body) SELECT id, $8 FROM event WHERE deliveries = $7
    )
    INSERT INTO outbox (event_id, available_at, traceparent)
    SELECT id, now() + make_interval(secs => $10), $9 FROM event WHERE deliveries = $7
    RETURNING event_id, id";

/// What both do with an event that is known, for the control that takes it out.
const COUNT_AGAIN: &str =
    "ON CONFLICT (id) DO UPDATE SET deliveries = webhook_events.deliveries + excluded.deliveries";

/// Stores events.
#[derive(Clone)]
pub struct EventStore {
    pool: Pool,
    timeout: Duration,
    outbox_grace: Duration,
}

/// An event to be stored.
pub struct Row<'a> {
    /// What was read of it.
    pub envelope: &'a Envelope,
    /// Its exact bytes.
    pub body: &'a [u8],
    /// The trace that its message continues.
    pub traceparent: &'a str,
}

/// What became of a webhook's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new: its message waits in this outbox row.
    New {
        /// The row's id.
        outbox_id: i64,
    },
    /// It was stored before.
    Duplicate,
}

impl EventStore {
    /// A store on a pool; each wait is bounded by `timeout`.
    pub fn new(pool: Pool, timeout: Duration, outbox_grace: Duration) -> Self {
        Self {
            pool,
            timeout,
            outbox_grace,
        }
    }

    /// Stores events with the exact bytes of their bodies, all or none, and says what became of each. Rows must be
    /// sorted by id, so that two batches never wait for each other; of equal ids the first counts. When this returns,
    /// the events are durable.
    pub async fn insert(&self, rows: &[Row<'_>]) -> Result<Vec<Stored>, StoreError> {
        let mut deliveries: Vec<i32> = Vec::with_capacity(rows.len());
        let mut firsts: Vec<&Row> = Vec::with_capacity(rows.len());
        for row in rows {
            match (firsts.last(), deliveries.last_mut()) {
                (Some(last), Some(count)) if last.envelope.id == row.envelope.id => *count += 1,
                _ => {
                    firsts.push(row);
                    deliveries.push(1);
                }
            }
        }
        let new = match (firsts.as_slice(), deliveries.as_slice()) {
            ([row], [deliveries]) => self.insert_one(row, *deliveries).await?,
            _ => self.insert_distinct(&firsts, &deliveries).await?,
        };
        let mut new: HashMap<&str, i64> = new.iter().map(|row| (row.get(0), row.get(1))).collect();
        let what = rows.iter().map(|row| {
            new.remove(row.envelope.id.as_str())
                .map_or(Stored::Duplicate, |outbox_id| Stored::New { outbox_id })
        });
        Ok(what.collect())
    }

    /// Which of these events are stored. It waits for nobody's lock.
    pub async fn find_known(&self, ids: &[&str]) -> Result<HashSet<String>, StoreError> {
        const KNOWN: &str = "SELECT id FROM webhook_events WHERE id = ANY($1)";
        let known = with_client(&self.pool, self.timeout, async |client| {
            query(client, KNOWN, &[&ids]).await
        })
        .await?;
        Ok(known.iter().map(|row| row.get(0)).collect())
    }

    /// The event's outbox row, if it was new.
    async fn insert_one(
        &self,
        row: &Row<'_>,
        deliveries: i32,
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let Row {
            envelope,
            body,
            traceparent,
        } = row;
        let grace = self.outbox_grace.as_secs_f64();
        self.run(
            INSERT_ONE,
            &[
                &envelope.id,
                &envelope.event_type,
                &envelope.livemode,
                &envelope.api_version,
                &envelope.account,
                &envelope.created_at,
                &deliveries,
                body,
                traceparent,
                &grace,
            ],
        )
        .await
    }

    /// Outbox rows of the ids that were new.
    async fn insert_distinct(
        &self,
        rows: &[&Row<'_>],
        deliveries: &[i32],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let column = |read: fn(&Envelope) -> Option<&str>| -> Vec<Option<&str>> {
            rows.iter().map(|row| read(row.envelope)).collect()
        };
        let ids = column(|envelope| Some(&envelope.id));
        let types = column(|envelope| Some(&envelope.event_type));
        let api_versions = column(|envelope| envelope.api_version.as_deref());
        let accounts = column(|envelope| envelope.account.as_deref());
        let livemodes: Vec<_> = rows.iter().map(|row| row.envelope.livemode).collect();
        let created_at: Vec<_> = rows.iter().map(|row| row.envelope.created_at).collect();
        let bodies: Vec<_> = rows.iter().map(|row| row.body).collect();
        let traceparents: Vec<_> = rows.iter().map(|row| row.traceparent).collect();
        let grace = self.outbox_grace.as_secs_f64();
        self.run(
            INSERT,
            &[
                &ids,
                &types,
                &livemodes,
                &api_versions,
                &accounts,
                &created_at,
                &deliveries,
                &bodies,
                &traceparents,
                &grace,
            ],
        )
        .await
    }

    async fn run(
        &self,
        insert: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let mut insert = Cow::Borrowed(insert);
        if shared::sabotaged!("unique_key") {
            insert = insert.replace(COUNT_AGAIN, "ON CONFLICT DO NOTHING").into();
        }
        with_client(&self.pool, self.timeout, async |client| {
            query(client, &insert, params).await
        })
        .await
    }
}

/// Clears the outbox. Its commits need not be durable: a row that comes back is published once more, to no effect.
#[derive(Clone)]
pub struct OutboxStore {
    pool: Pool,
    timeout: Duration,
}

impl OutboxStore {
    /// A store on a pool; each wait is bounded by `timeout`.
    pub fn new(pool: Pool, timeout: Duration) -> Self {
        Self { pool, timeout }
    }

    /// Clears rows whose messages the broker has confirmed.
    pub async fn clear(&self, ids: &[i64]) -> Result<(), StoreError> {
        with_client(&self.pool, self.timeout, async |client| {
            execute(client, "DELETE FROM outbox WHERE id = ANY($1)", &[&ids]).await
        })
        .await?;
        Ok(())
    }
}
