//! Sends queued mails. At least once: a worker that dies between the mail server's yes and the row's update sends the
//! mail again, with the same Message-ID.

use std::panic::catch_unwind;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use lettre::Message;
use lettre::message::Mailbox;
use shared::backoff::Backoff;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use shared::orders::NoticeKind;
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
        let count = due.len();
        let mails = self.make_all(due).await.into_iter();
        let (sent, to_note) = mpsc::channel(count.max(1));
        let deliver = async {
            let deliveries = mails.map(|(email, made)| self.deliver(email, made, &sent));
            let results = join_all(deliveries).await;
            drop(sent);
            results.into_iter().collect::<Result<(), _>>()
        };
        let (delivered, noted) = tokio::join!(deliver, self.note_all(to_note));
        delivered.and(noted)?;
        Ok(count)
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

    /// Makes the mails beside the events, which would have to wait while QR codes are drawn.
    async fn make_all(&self, due: Vec<Email>) -> Vec<(Email, Result<Made, String>)> {
        if due.is_empty() {
            return Vec::new();
        }
        let from = self.from.clone();
        let make_all = move || due.into_iter().map(|email| make(&from, email)).collect();
        // It does not panic. If it did, the mails would be due again after their claim.
        tokio::task::spawn_blocking(make_all)
            .await
            .unwrap_or_default()
    }

    async fn deliver(
        &self,
        email: Email,
        made: Result<Made, String>,
        sent: &mpsc::Sender<i64>,
    ) -> Result<(), StoreError> {
        let Made { kind, name, mail } = match made {
            Ok(made) => made,
            Err(problem) => return self.give_up(&email, &problem).await,
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
            Ok(Err(error)) => self.retry(&email, &error.to_string()).await,
            Err(_) => self.retry(&email, "mail server: no answer in time").await,
        }
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

/// A mail that is ready to be sent.
struct Made {
    kind: NoticeKind,
    name: String,
    mail: Message,
}

fn make(from: &Mailbox, email: Email) -> (Email, Result<Made, String>) {
    let (Some(kind), Ok(notice)) = (email.kind, &email.notice) else {
        let problem = "this version cannot read the mail's row".to_owned();
        return (email, Err(problem));
    };
    // One mail that cannot be made must not keep the others of its batch back.
    let rendered = catch_unwind(|| render(from, &email.recipient, kind, &email.key, notice));
    let made = match rendered {
        Ok(Ok((name, mail))) => Ok(Made { kind, name, mail }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the mail could not be made".to_owned()),
    };
    (email, made)
}

fn storable(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(1_000).collect()
}
