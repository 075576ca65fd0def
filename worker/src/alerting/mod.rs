//! Alerting: looks at the rules, and at the day that is over, by one worker at a time each, and writes what must be told.
//! `sender` tells it.

pub mod charges;
mod hook;
pub mod measured;
pub mod news;
pub mod notices;
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
use shared::stripe::StripeSettings;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use hook::Hook;
pub use sender::Sender;

use crate::alerting::charges::{AtStripe, Payments};
use crate::alerting::news::News;
use crate::alerting::notices::{DeadPayment, Notice, Raised, Site};
use crate::alerting::summary::{Due, Report};
use crate::store::{alert_rules, alerting, summary as numbers};

const RULES_INTERVAL: Duration = Duration::from_secs(5);
const RULES_TIMEOUT: Duration = Duration::from_secs(10);
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
const SUMMARY_TIMEOUT: Duration = Duration::from_secs(120);
/// The summary of a day is told this long after its end.
const SUMMARY_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// How long Stripe may take to list a day's charges.
const STRIPE_TIMEOUT: Duration = Duration::from_secs(120);
/// A day of more charges is not compared with Stripe's.
const MOST_CHARGES: usize = 10_000;
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
    /// Whose days are summed up.
    pub time_zone: TimeZone,
    /// With whose money a day's is compared.
    pub stripe: Option<StripeSettings>,
    /// Where notices come from.
    pub site: Site,
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
}

impl Alerting {
    /// One that tells those whom the settings name.
    pub fn new(pool: Pool, settings: AlertSettings) -> Self {
        Self { pool, settings }
    }

    /// Looks until `shutdown`. Where nobody is named it leaves that to other workers: what it noted, they would not tell.
    pub async fn run(self, shutdown: CancellationToken) {
        if self.settings.channels().is_empty() {
            return shutdown.cancelled().await;
        }
        let rules = async {
            loop {
                if let Err(error) = self.run_once().await {
                    note_failure("rules", &error);
                }
                if !sleep_unless(&shutdown, RULES_INTERVAL).await {
                    return;
                }
            }
        };
        let summaries = async {
            loop {
                // Stripe may take long to answer: a stop waits for none of that.
                let summarised = tokio::select! {
                    summarised = self.summarise_once() => summarised,
                    () = shutdown.cancelled() => return,
                };
                let pause = match summarised {
                    // Another day may have been missed.
                    Ok(true) => Duration::ZERO,
                    Ok(false) => SUMMARY_INTERVAL,
                    Err(error) => {
                        note_failure("summary", &error);
                        SUMMARY_INTERVAL
                    }
                };
                if !sleep_unless(&shutdown, pause).await {
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
        let (channels, site) = (self.settings.channels(), &self.settings.site);
        let measured = alert_rules::measure(&tx, site.livemode).await?;
        let known = alerting::known(&tx).await?;
        let firing = rules::firing(&measured, &known);
        let repeat = SignedDuration::try_from(self.settings.repeat).unwrap_or(SignedDuration::MAX);
        // Those that are left untold now come together later.
        let dead = match alerting::told_much(&tx).await? {
            true => Vec::new(),
            false => alerting::take_dead_payments(&tx).await?,
        };
        let raised = alerting::untold(&tx, &channels).await?;
        let mut notices: Vec<Notice> = dead.iter().map(|dead| site.dead_payment(dead)).collect();
        for news in news::news(&firing, &known, now, repeat) {
            log(&news);
            alerting::note(&tx, &news).await?;
            if !tells_of(&news, &dead, &raised) {
                notices.push(site.news(&news, now));
            }
        }
        notices.extend(raised.iter().map(|raised| site.raised(raised)));
        self.tell(&tx, &notices, now).await?;
        Ok(tx.commit().await?)
    }

    /// Queues notices, or one of all of them where there are many.
    async fn tell(
        &self,
        tx: &Transaction<'_>,
        notices: &[Notice],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let channels = self.settings.channels();
        if notices.len() <= MANY_NOTICES {
            return alerting::queue(tx, &channels, notices).await;
        }
        let all = self.settings.site.bundle(notices, now);
        alerting::bundle(tx, &channels, notices).await?;
        alerting::queue(tx, &channels, &[all]).await
    }

    /// Sums up the first day that is over and was not summed up, unless another worker does at this moment. False when
    /// there is none.
    pub async fn summarise_once(&self) -> Result<bool, StoreError> {
        let begin = async |client: &mut Object| {
            let tx = client.transaction().await?;
            let due = self.due(&tx).await?;
            // Its lock must be gone before the next one is asked for.
            tx.rollback().await?;
            Ok(due)
        };
        let Some(due) = with_client(&self.pool, RULES_TIMEOUT, begin).await? else {
            return Ok(false);
        };
        // Stripe takes its time: not within a transaction. Another worker may ask as well meanwhile, and tells nothing then.
        let there = self.at_stripe(&due).await;
        let summarise = async |client: &mut Object| self.summarise(client, due, there).await;
        with_client(&self.pool, SUMMARY_TIMEOUT, summarise).await
    }

    /// The day to be summed up, unless another worker does at this moment.
    async fn due(&self, tx: &Transaction<'_>) -> Result<Option<Due>, StoreError> {
        let Some(now) = alerting::try_lock(tx, "summary").await? else {
            return Ok(None);
        };
        let last = alerting::last_summary(tx, &self.settings.channels()).await?;
        let last = last.and_then(|day| day.parse().ok());
        let zone = &self.settings.time_zone;
        Ok(summary::due(now - SUMMARY_AFTER, zone, last))
    }

    /// A day's payments as Stripe lists their charges, or why there are none.
    async fn at_stripe(&self, due: &Due) -> Option<Result<Payments, String>> {
        let stripe = self.settings.stripe.as_ref()?;
        let api = match stripe.api(self.settings.site.livemode) {
            Ok(api) => api,
            Err(error) => return Some(Err(format!("the key {error}"))),
        };
        let mut payments = Payments::default();
        let day = (due.from, due.to);
        let asked = api.charges(day, MOST_CHARGES, |charge| payments.add(&charge));
        let problem = match tokio::time::timeout(STRIPE_TIMEOUT, asked).await {
            Ok(Ok(true)) => return Some(Ok(payments)),
            Ok(Ok(false)) => format!("it lists more than {MOST_CHARGES} charges"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no whole answer within {STRIPE_TIMEOUT:?}"),
        };
        warn!(problem, "the day is not compared with Stripe's");
        Some(Err(problem))
    }

    /// In a transaction of its own: a day that takes long to sum up must not keep an alert back. False where another
    /// worker was faster.
    async fn summarise(
        &self,
        client: &mut Object,
        due: Due,
        there: Option<Result<Payments, String>>,
    ) -> Result<bool, StoreError> {
        let tx = client.transaction().await?;
        if self.due(&tx).await?.is_none_or(|now| now.date != due.date) {
            return Ok(false);
        }
        numbers::take_time(&tx).await?;
        let report = Report {
            day: numbers::day(&tx, due.from, due.to).await?,
            at_stripe: held_against(&tx, there).await?,
            due,
        };
        let notice = report.notice(&self.settings.site);
        alerting::queue(&tx, &self.settings.channels(), &[notice]).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Stripe's payments, held against those that are kept here.
async fn held_against(
    tx: &Transaction<'_>,
    there: Option<Result<Payments, String>>,
) -> Result<AtStripe, StoreError> {
    let there = match there {
        None => return Ok(AtStripe::NotAsked),
        Some(Err(why)) => return Ok(AtStripe::Unknown(why)),
        Some(Ok(there)) => there,
    };
    let here = numbers::payments(tx, &there.references()).await?;
    Ok(AtStripe::Compared(charges::compare(&there, &here)))
}

/// Whether the events of a group that begins to fire are told one by one.
fn tells_of(news: &News, dead: &[DeadPayment], raised: &[Raised]) -> bool {
    let News::Fires(alert) = news else {
        return false;
    };
    alert.rule == "dead_payments"
        && (dead.iter().any(|dead| dead.fingerprint == alert.key)
            || raised
                .iter()
                .any(|raised| alert.message.contains(&raised.kind)))
}

fn note_failure(duty: &str, error: &StoreError) {
    warn!(duty, %error, "alerting waits");
}

fn log(news: &News) {
    match news {
        News::Fires(alert) => warn!(rule = alert.rule, key = alert.key, "alert fires"),
        News::Resolved { rule, key, .. } => info!(rule, key, "alert resolved"),
        News::FiresStill(..) => {}
    }
}
