//! The dead-letter recorder: brings what the broker put aside into the database. An undecodable message is kept whole; a
//! message of a live event counts as one failed attempt, so that innocent neighbours of a poison message survive.

use std::sync::Arc;

use deadpool_postgres::Pool;
use shared::broker::Message;
use shared::database::{StoreError, with_client};
use shared::trace_context::TraceContext;
use tracing::warn;

use crate::fingerprint::fingerprint;
use crate::processor::{Handled, Processor};
use crate::store::dead_letters;

const DATABASE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Records dead letters.
pub struct Recorder {
    pool: Pool,
    processor: Arc<Processor>,
}

impl Recorder {
    /// A recorder.
    pub fn new(pool: Pool, processor: Arc<Processor>) -> Self {
        Self { pool, processor }
    }

    /// Records one message of the dead-letter queue.
    pub async fn record(
        &self,
        message: &[u8],
        trace: &TraceContext,
    ) -> Result<Handled, StoreError> {
        let event_id = match Message::read_event_id(message) {
            Ok(event_id) => event_id,
            Err(error) => {
                return self
                    .keep(message, "undecodable_message", &error.to_string())
                    .await;
            }
        };
        match self
            .processor
            .record_lost_delivery(&event_id, trace)
            .await?
        {
            Handled::UnknownEvent => {
                self.keep(
                    message,
                    "unknown_event",
                    "the message names an event that is not stored",
                )
                .await
            }
            handled => Ok(handled),
        }
    }

    async fn keep(
        &self,
        message: &[u8],
        reason: &'static str,
        error: &str,
    ) -> Result<Handled, StoreError> {
        warn!(
            reason,
            bytes = message.len(),
            "a message that is no event's is kept as a dead letter"
        );
        let error = error.replace('\0', "");
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            dead_letters::keep_message(
                client,
                message,
                reason,
                &error,
                &fingerprint("recorder", reason, &error),
            )
            .await
        })
        .await?;
        Ok(Handled::Attempted)
    }
}
