//! Tells what alerting wrote: by mail, and by the hook. At least once, with the same Message-ID.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::join_all;
use jiff::Timestamp;
use lettre::Message;
use lettre::message::Mailbox;
use sha2::{Digest, Sha256};
use shared::backoff::Backoff;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::AlertSettings;
use crate::mail::Outlet;
use crate::metrics::Metrics;
use crate::store::alerting::{self, QueuedNotice};

const IDLE: Duration = Duration::from_secs(1);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the minute for which a notice is claimed.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// Some six hours.
const MAX_ATTEMPTS: i32 = 45;
/// Some 20 s with the waits between them.
const NOTE_TRIES: u32 = 10;
const MAX_SUBJECT_CHARS: usize = 200;

/// Sends notices.
pub struct Sender {
    pool: Pool,
    settings: AlertSettings,
    outlet: Outlet,
    from: Mailbox,
    metrics: Metrics,
}

impl Sender {
    /// A sender.
    pub fn new(
        pool: Pool,
        settings: AlertSettings,
        (outlet, from): (Outlet, Mailbox),
        metrics: Metrics,
    ) -> Self {
        Self {
            pool,
            settings,
            outlet,
            from,
            metrics,
        }
    }

    /// Sends until `shutdown`, on each channel for itself: one that does not answer keeps no other back.
    pub async fn run(self, shutdown: CancellationToken) {
        let channels = self.settings.channels();
        join_all(
            channels
                .iter()
                .map(|channel| self.run_channel(channel, &shutdown)),
        )
        .await;
        shutdown.cancelled().await;
    }

    async fn run_channel(&self, channel: &'static str, shutdown: &CancellationToken) {
        loop {
            let pause = match self.run_once(channel).await {
                Ok(true) => Duration::ZERO,
                Ok(false) => IDLE,
                Err(error) => {
                    debug!(%error, "the sender of alerts waits");
                    IDLE
                }
            };
            if !sleep_unless(shutdown, pause).await {
                return;
            }
        }
    }

    /// Sends one notice. False when none is due.
    async fn run_once(&self, channel: &'static str) -> Result<bool, StoreError> {
        let due = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            alerting::claim(client, channel).await
        })
        .await?;
        let Some(notice) = due else {
            return Ok(false);
        };
        let id = notice.id;
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.send(&notice)).await;
        match sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => {
                info!(notice = id, channel, "alert notice sent");
                self.metrics.alert_notice(channel, "sent");
                self.note_sent(id).await?;
            }
            Err(problem) => self.note_failed(&notice, channel, &problem).await?,
        }
        Ok(true)
    }

    /// Tries for as long as the claim lasts: once it is over, the notice would go out again.
    async fn note_sent(&self, id: i64) -> Result<(), StoreError> {
        let mut backoff = Backoff::reconnect();
        for _ in 0..NOTE_TRIES {
            let note = async |client: &mut Object| alerting::sent(client, id).await;
            match with_client(&self.pool, DATABASE_TIMEOUT, note).await {
                Err(error) => debug!(%error, "a sent notice is not noted yet"),
                noted => return noted,
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(StoreError::TimedOut)
    }

    async fn note_failed(
        &self,
        notice: &QueuedNotice,
        channel: &'static str,
        problem: &str,
    ) -> Result<(), StoreError> {
        let again = (notice.attempt < MAX_ATTEMPTS).then(|| wait(notice.attempt));
        warn!(
            notice = notice.id,
            channel,
            attempt = notice.attempt,
            "alert notice not sent"
        );
        let result = if again.is_some() { "retried" } else { "failed" };
        self.metrics.alert_notice(channel, result);
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            alerting::not_sent(client, notice.id, problem, again).await
        })
        .await
    }

    async fn send(&self, notice: &QueuedNotice) -> Result<(), String> {
        match (notice.channel.as_str(), &self.settings.hook) {
            ("hook", Some(hook)) => {
                let text = format!("{}\n{}", notice.subject, notice.body);
                hook.post(&text, Timestamp::now().as_second()).await
            }
            _ => self.mail(notice).await,
        }
    }

    async fn mail(&self, notice: &QueuedNotice) -> Result<(), String> {
        let name = format!("alert.{}", hex::encode(&Sha256::digest(&notice.name)[..16]));
        let subject: String = notice
            .subject
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_SUBJECT_CHARS)
            .collect();
        let mut mail = Message::builder()
            .from(self.from.clone())
            .subject(subject)
            .message_id(Some(format!("<{name}@{}>", self.from.email.domain())));
        for recipient in &self.settings.mail_to {
            mail = mail.to(recipient.clone());
        }
        let mail = mail
            .body(notice.body.clone())
            .map_err(|error| error.to_string())?;
        let sent = self.outlet.send(&name, mail).await;
        sent.map_err(|error| error.to_string())
    }
}

fn wait(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(16);
    FIRST_RETRY
        .saturating_mul(1 << doublings)
        .min(LONGEST_RETRY)
        .mul_f64(rand::random_range(0.5..=1.0))
}
