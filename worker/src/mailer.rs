//! Sends queued mails. At least once: a worker that dies between the mail server's yes and the row's update sends the
//! mail again, with the same Message-ID.

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use lettre::Message;
use lettre::message::Mailbox;
use shared::backoff::Backoff;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use shared::orders::{Notice, NoticeKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::mail::{Outlet, render};
use crate::metrics::Metrics;
use crate::store::emails::{self, Email};

const BATCH: i64 = 8;
const IDLE: Duration = Duration::from_millis(500);
/// How long a mail that was sent waits for others to be noted with: a crash meanwhile sends it again.
const GATHER: Duration = Duration::from_millis(5);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the minute for which a mail is claimed.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
/// Some 20 s with the waits between them.
const NOTE_TRIES: u32 = 10;
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(3_600);
/// Some 21 hours: a mail server may be away for a night.
const MAX_ATTEMPTS: i32 = 30;

/// Sends mails.
pub struct Mailer {
    pool: Pool,
    outlet: Outlet,
    from: Mailbox,
    metrics: Metrics,
}

impl Mailer {
    /// A mailer.
    pub fn new(pool: Pool, outlet: Outlet, from: Mailbox, metrics: Metrics) -> Self {
        Self {
            pool,
            outlet,
            from,
            metrics,
        }
    }

    /// Sends until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.run_once().await {
                Ok(0) => IDLE,
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    debug!(%error, "the mailer waits");
                    IDLE * 4
                }
            };
            if !sleep_unless(&shutdown, pause).await {
                return;
            }
        }
    }

    /// Tries one batch of mails, and returns how many were due.
    pub async fn run_once(&self) -> Result<usize, StoreError> {
        let due = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            emails::claim(client, BATCH).await
        })
        .await?;
        if !due.is_empty() {
            shared::failpoint!("mailer.after_claim");
        }
        let (sent, to_note) = mpsc::channel(due.len().max(1));
        let deliver = async {
            let results = join_all(due.iter().map(|email| self.deliver(email, &sent))).await;
            drop(sent);
            results.into_iter().collect::<Result<(), _>>()
        };
        let (delivered, noted) = tokio::join!(deliver, self.note_all(to_note));
        delivered.and(noted)?;
        Ok(due.len())
    }

    /// Notes what was sent while the others are still being sent: what comes meanwhile, and a moment later, shares a
    /// commit.
    async fn note_all(&self, mut sent: mpsc::Receiver<i64>) -> Result<(), StoreError> {
        while let Some(first) = sent.recv().await {
            let mut ids = vec![first];
            let others = async {
                while let Some(id) = sent.recv().await {
                    ids.push(id);
                }
            };
            let _ = tokio::time::timeout(GATHER, others).await;
            self.note_sent(&ids).await?;
        }
        Ok(())
    }

    async fn deliver(&self, email: &Email, sent: &mpsc::Sender<i64>) -> Result<(), StoreError> {
        let (Some(kind), Ok(notice)) = (email.kind, &email.notice) else {
            return self
                .give_up(email, "this version cannot read the mail's row")
                .await;
        };
        let (name, mail) = match self.make(email, kind, notice.clone()).await {
            Ok(made) => made,
            Err(problem) => return self.give_up(email, &problem).await,
        };
        match tokio::time::timeout(SEND_TIMEOUT, self.outlet.send(&name, mail)).await {
            Ok(Ok(())) => {
                shared::failpoint!("mailer.after_send");
                info!(
                    email_id = email.id,
                    kind = kind.as_str(),
                    attempt = email.attempt,
                    "mail sent"
                );
                self.metrics.email("sent");
                // There is room for all, and where nobody notes any more the claim runs out.
                let _ = sent.send(email.id).await;
                Ok(())
            }
            Ok(Err(error)) => self.retry(email, &error.to_string()).await,
            Err(_) => self.retry(email, "mail server: no answer in time").await,
        }
    }

    /// Beside the events, which would have to wait while QR codes are drawn.
    async fn make(
        &self,
        email: &Email,
        kind: NoticeKind,
        notice: Notice,
    ) -> Result<(String, Message), String> {
        let (from, recipient, key) = (
            self.from.clone(),
            email.recipient.clone(),
            email.key.clone(),
        );
        let make = move || render(&from, &recipient, kind, &key, &notice);
        let made = tokio::task::spawn_blocking(make).await;
        made.map_err(|panic| panic.to_string())?
            .map_err(|error| error.to_string())
    }

    /// Tries for as long as the claim lasts: once it is over, the mail would go out again.
    async fn note_sent(&self, ids: &[i64]) -> Result<(), StoreError> {
        let mut backoff = Backoff::reconnect();
        for _ in 0..NOTE_TRIES {
            match self
                .update(async |client| emails::sent(client, ids).await)
                .await
            {
                Err(error) => debug!(%error, "sent mails are not noted yet"),
                noted => return noted,
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        self.update(async |client| emails::sent(client, ids).await)
            .await
    }

    async fn retry(&self, email: &Email, problem: &str) -> Result<(), StoreError> {
        if email.attempt >= MAX_ATTEMPTS {
            return self.give_up(email, problem).await;
        }
        let doublings = u32::try_from(email.attempt - 1).unwrap_or(0).min(16);
        let longest = FIRST_RETRY
            .saturating_mul(1 << doublings)
            .min(LONGEST_RETRY);
        let after = longest.mul_f64(rand::random_range(0.5..=1.0));
        warn!(
            email_id = email.id,
            attempt = email.attempt,
            retry_in_s = after.as_secs(),
            "mail not sent"
        );
        self.metrics.email("retried");
        self.update(async |client| {
            emails::retry_later(client, email.id, &storable(problem), after).await
        })
        .await
    }

    async fn give_up(&self, email: &Email, problem: &str) -> Result<(), StoreError> {
        error!(
            email_id = email.id,
            attempt = email.attempt,
            "mail failed for good"
        );
        self.metrics.email("failed");
        self.update(async |client| emails::failed(client, email.id, &storable(problem)).await)
            .await
    }

    async fn update(
        &self,
        statement: impl AsyncFnOnce(&mut deadpool_postgres::Object) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        with_client(&self.pool, DATABASE_TIMEOUT, statement).await
    }
}

fn storable(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(1_000).collect()
}
