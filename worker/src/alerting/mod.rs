//! Alerting: looks at the rules, by one worker at a time, and writes what must be told. `sender` tells it.

mod hook;
pub mod rules;
mod sender;

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use jiff::{SignedDuration, Timestamp};
use lettre::message::Mailbox;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use hook::Hook;
pub use sender::Sender;

use crate::alerting::rules::News;
use crate::store::alerting::{self, Notice};

const INTERVAL: Duration = Duration::from_secs(5);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// The summary of a day is told this long after its end, by UTC.
const SUMMARY_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// Who is told, and how often.
#[derive(Clone)]
pub struct AlertSettings {
    /// By mail.
    pub mail_to: Vec<Mailbox>,
    /// By HTTP.
    pub hook: Option<Hook>,
    /// What still fires is told again after this time.
    pub repeat: Duration,
}

impl AlertSettings {
    fn channels(&self) -> Vec<&'static str> {
        let mail = Some("mail").filter(|_| !self.mail_to.is_empty());
        let hook = self.hook.as_ref().map(|_| "hook");
        mail.into_iter().chain(hook).collect()
    }
}

/// Looks at the rules.
pub struct Alerting {
    pool: Pool,
    settings: AlertSettings,
    livemode: bool,
}

impl Alerting {
    /// For an installation of this mode.
    pub fn new(pool: Pool, settings: AlertSettings, livemode: bool) -> Self {
        Self {
            pool,
            settings,
            livemode,
        }
    }

    /// Looks until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.run_once().await {
                debug!(%error, "alerting waits");
            }
            if !sleep_unless(&shutdown, INTERVAL).await {
                return;
            }
        }
    }

    /// Looks once, unless another worker does at this moment.
    pub async fn run_once(&self) -> Result<(), StoreError> {
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            self.look(client).await
        })
        .await
    }

    async fn look(&self, client: &mut Object) -> Result<(), StoreError> {
        let tx = client.transaction().await?;
        let Some(now) = alerting::try_lock(&tx).await? else {
            return Ok(());
        };
        let measured = alerting::measure(&tx, self.livemode).await?;
        let firing = rules::firing(&measured);
        let repeat = SignedDuration::try_from(self.settings.repeat).unwrap_or(SignedDuration::MAX);
        let known = alerting::known(&tx).await?;
        let mut notices = Vec::new();
        for news in rules::news(&firing, &known, now, repeat) {
            alerting::note(&tx, &news).await?;
            notices.push(notice(&news, now));
        }
        let channels = self.settings.channels();
        if !channels.is_empty() {
            notices.extend(alerting::untold(&tx, &channels).await?);
            notices.extend(self.summary(&tx, now, &channels).await?);
        }
        alerting::queue(&tx, &channels, &notices).await?;
        Ok(tx.commit().await?)
    }

    /// The summary of the last day that is over, if nobody wrote it yet.
    async fn summary(
        &self,
        tx: &deadpool_postgres::Transaction<'_>,
        now: Timestamp,
        channels: &[&'static str],
    ) -> Result<Option<Notice>, StoreError> {
        let told = (now - SUMMARY_AFTER).to_zoned(jiff::tz::TimeZone::UTC);
        let Ok(day) = told.date().yesterday() else {
            return Ok(None);
        };
        let name = format!("summary/{day}");
        if alerting::is_queued(tx, channels, &name).await? {
            return Ok(None);
        }
        let body = alerting::summary(tx, &day.to_string()).await?;
        Ok(Some(Notice {
            name,
            subject: format!("Tollgate on {day}"),
            body,
        }))
    }
}

/// What is told of it.
fn notice(news: &News, now: Timestamp) -> Notice {
    let named = |rule: &str, key: &str, what: &str| format!("{rule}/{key}/{what}/{now}");
    match news {
        News::Fires(alert) => {
            warn!(rule = alert.rule, key = alert.key, "alert fires");
            Notice {
                name: named(alert.rule, &alert.key, "fires"),
                subject: format!("[firing] {}: {}", alert.rule, alert.message),
                body: alert.message.clone(),
            }
        }
        News::FiresStill(alert, since) => Notice {
            name: named(alert.rule, &alert.key, "fires still"),
            subject: format!("[still firing] {}: {}", alert.rule, alert.message),
            body: format!("since {since:.0}: {}", alert.message),
        },
        News::Resolved {
            rule,
            key,
            message,
            since,
        } => {
            info!(rule, key, "alert resolved");
            Notice {
                name: named(rule, key, "resolved"),
                subject: format!("[resolved] {rule}: {message}"),
                body: format!("It fired since {since:.0}: {message}"),
            }
        }
    }
}
