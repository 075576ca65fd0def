//! Tells what alerting wrote: by mail, and by the hook. At least once, with the same Message-ID.

use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use lettre::Message;
use lettre::message::Mailbox;
use sha2::{Digest, Sha256};
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::AlertSettings;
use crate::mail::Outlet;
use crate::store::alerting::{self, QueuedNotice};

const IDLE: Duration = Duration::from_secs(1);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the minute for which a notice is claimed.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// Some six hours.
const MAX_ATTEMPTS: i32 = 45;
const MAX_SUBJECT_CHARS: usize = 200;

/// Sends notices.
pub struct Sender {
    pool: Pool,
    settings: AlertSettings,
    outlet: Outlet,
    from: Mailbox,
}

impl Sender {
    /// A sender.
    pub fn new(pool: Pool, settings: AlertSettings, outlet: Outlet, from: Mailbox) -> Self {
        Self {
            pool,
            settings,
            outlet,
            from,
        }
    }

    /// Sends until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.run_once().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => IDLE,
                Err(error) => {
                    debug!(%error, "the sender of alerts waits");
                    IDLE
                }
            };
            if !sleep_unless(&shutdown, pause).await {
                return;
            }
        }
    }

    /// Sends one notice. False when none is due.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let due = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            alerting::claim(client, &self.settings.channels()).await
        })
        .await?;
        let Some(notice) = due else {
            return Ok(false);
        };
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.send(&notice)).await;
        let result = sent.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| match result {
            Ok(()) => {
                info!(
                    notice = notice.id,
                    channel = notice.channel,
                    "alert notice sent"
                );
                alerting::sent(client, notice.id).await
            }
            Err(problem) => {
                warn!(
                    notice = notice.id,
                    channel = notice.channel,
                    "alert notice not sent"
                );
                let again = (notice.attempt < MAX_ATTEMPTS).then(|| wait(notice.attempt));
                alerting::not_sent(client, notice.id, &problem, again).await
            }
        })
        .await?;
        Ok(true)
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
