//! Alerting: looks at the rules, and at the day that is over, by one worker at a time each, and writes what must be told.
//! `sender` tells it.

mod hook;
pub mod rules;
mod sender;
pub mod summary;

use std::time::Duration;

use deadpool_postgres::{Object, Pool, Transaction};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lettre::message::Mailbox;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use hook::Hook;
pub use sender::Sender;

use crate::alerting::rules::News;
use crate::store::alerting::{self, Notice};

const RULES_INTERVAL: Duration = Duration::from_secs(5);
const RULES_TIMEOUT: Duration = Duration::from_secs(10);
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
const SUMMARY_TIMEOUT: Duration = Duration::from_secs(120);
/// The summary of a day is told this long after its end, by UTC.
const SUMMARY_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// More at once are told in one notice.
const MANY_NOTICES: usize = 10;

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

    /// Looks until `shutdown`. Where nobody is named it leaves that to other workers: what it noted, they would not tell.
    pub async fn run(self, shutdown: CancellationToken) {
        if self.settings.channels().is_empty() {
            return shutdown.cancelled().await;
        }
        let rules = async {
            loop {
                note_failure("rules", self.run_once().await);
                if !sleep_unless(&shutdown, RULES_INTERVAL).await {
                    return;
                }
            }
        };
        let summaries = async {
            loop {
                note_failure("summary", self.summarise_once().await);
                if !sleep_unless(&shutdown, SUMMARY_INTERVAL).await {
                    return;
                }
            }
        };
        tokio::join!(rules, summaries);
    }

    /// Looks at the rules once, unless another worker does at this moment.
    pub async fn run_once(&self) -> Result<(), StoreError> {
        let look = async |client: &mut Object| self.look(client).await;
        with_client(&self.pool, RULES_TIMEOUT, look).await
    }

    async fn look(&self, client: &mut Object) -> Result<(), StoreError> {
        let tx = client.transaction().await?;
        let Some(now) = alerting::try_lock(&tx, "alerting").await? else {
            return Ok(());
        };
        let measured = alerting::measure(&tx, self.livemode).await?;
        let known = alerting::known(&tx).await?;
        let firing = rules::firing(&measured, &known);
        let repeat = SignedDuration::try_from(self.settings.repeat).unwrap_or(SignedDuration::MAX);
        let channels = self.settings.channels();
        let mut notices = Vec::new();
        for news in rules::news(&firing, &known, now, repeat) {
            alerting::note(&tx, &news).await?;
            notices.push(notice(&news, now));
        }
        notices.extend(alerting::untold(&tx, &channels).await?);
        tell(&tx, &channels, &notices, now).await?;
        Ok(tx.commit().await?)
    }

    /// Sums up the last day that is over, unless that was done or another worker does it at this moment.
    pub async fn summarise_once(&self) -> Result<(), StoreError> {
        let summarise = async |client: &mut Object| self.summarise(client).await;
        with_client(&self.pool, SUMMARY_TIMEOUT, summarise).await
    }

    /// In a transaction of its own: a day that takes long to sum up must not keep an alert back.
    async fn summarise(&self, client: &mut Object) -> Result<(), StoreError> {
        let tx = client.transaction().await?;
        let Some(now) = alerting::try_lock(&tx, "summary").await? else {
            return Ok(());
        };
        let (channels, over) = (self.settings.channels(), now - SUMMARY_AFTER);
        let Ok(day) = over.to_zoned(TimeZone::UTC).date().yesterday() else {
            return Ok(());
        };
        let name = format!("summary/{day}");
        if alerting::is_queued(&tx, &channels, &name).await? {
            return Ok(());
        }
        alerting::take_time(&tx).await?;
        let numbers = alerting::day(&tx, &day.to_string()).await?;
        let notice = Notice {
            name,
            subject: format!("Tollgate on {day}"),
            body: summary::text(&numbers),
        };
        alerting::queue(&tx, &channels, &[notice]).await?;
        Ok(tx.commit().await?)
    }
}

fn note_failure(duty: &str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        warn!(duty, %error, "alerting waits");
    }
}

/// Queues notices, or one of all of them where there are many: a flood of mails is not read.
async fn tell(
    tx: &Transaction<'_>,
    channels: &[&'static str],
    notices: &[Notice],
    now: Timestamp,
) -> Result<(), StoreError> {
    if notices.len() <= MANY_NOTICES {
        return alerting::queue(tx, channels, notices).await;
    }
    let lines: Vec<&str> = notices
        .iter()
        .map(|notice| notice.subject.as_str())
        .collect();
    let all = Notice {
        name: format!("bundle/{now}"),
        subject: format!("[{} notices] {}", notices.len(), lines[0]),
        body: lines.join("\n"),
    };
    alerting::bundle(tx, channels, notices).await?;
    alerting::queue(tx, channels, &[all]).await
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
