//! How things stand, asked once for everybody: one poll of the database per process, however many look.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use deadpool_postgres::Pool;
use http_body_util::{BodyExt, StreamBody};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::answers::Answers;
use super::lights::{Light, broker, light, service};
use super::probes::Prober;
use super::reply::{self, Reply};
use super::stream::{HEARTBEAT, frames};
use super::view;
use crate::store::alerts::{self, Alert};
use crate::store::console::groups::{self, Group};
use crate::store::console::overview::{self, Backlog, Death, MOST_COUNTED, Minute, Worker};
use crate::store::reconciliations::{self, Reconciliation};
use crate::store::rejections::{self, Total};

/// How often the database is asked.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long the database may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After so many polls the whole hour is read again, and not only its end: older events may have been processed.
const WHOLE_HOUR_EVERY: u32 = 20;
const HOUR: i64 = 60;
const MOST_ALERTS: i64 = 20;
/// Streams at a time.
const MAX_STREAMS: usize = 64;

/// How old the oldest unfinished event was.
#[derive(Clone, Copy)]
pub struct Age {
    /// When.
    pub at: Timestamp,
    /// In seconds.
    pub seconds: f64,
}

/// How things stand.
#[derive(Default)]
pub struct Facts {
    /// When that was.
    pub at: Timestamp,
    /// Database, broker, gateways, workers.
    pub lights: Vec<Light>,
    /// What waits; none when the database did not say.
    pub backlog: Option<Backlog>,
    /// The largest groups of dead letters.
    pub groups: Vec<Group>,
    /// The last deaths.
    pub deaths: Vec<Death>,
    /// Alerts that fire.
    pub alerts: Vec<Alert>,
    /// Webhooks refused in the last day, by cause; none when the database did not say.
    pub refused: Option<Vec<Total>>,
    /// Who worked on the newest events.
    pub workers: Vec<Worker>,
    /// The last comparison with Stripe's list of events, if there was any.
    pub reconciled: Option<Reconciliation>,
    /// The last hour, minute by minute.
    pub minutes: Vec<Minute>,
    /// The backlog's age since this process started, for an hour at the most.
    pub ages: Vec<Age>,
    /// How soon 50, 95 and 99 of 100 webhooks of the last minute were answered.
    pub answered: [String; 3],
}

impl Facts {
    fn add(&mut self, asked: Asked) {
        self.backlog = Some(asked.backlog);
        self.groups = asked.groups;
        self.deaths = asked.deaths;
        self.alerts = asked.alerts;
        self.refused = Some(asked.refused);
        self.workers = asked.workers;
        self.reconciled = asked.reconciled;
    }

    /// What came, was processed and died in the last hour.
    pub fn hour(&self) -> (i64, i64, i64) {
        self.minutes
            .iter()
            .fold((0, 0, 0), |(received, processed, dead), minute| {
                (
                    received + minute.received,
                    processed + minute.processed,
                    dead + minute.dead,
                )
            })
    }

    /// Of all that came in the last hour and is dead or processed, how many in a hundred are dead.
    pub fn failure_rate(&self) -> String {
        let (_, processed, dead) = self.hour();
        if processed + dead == 0 {
            return "–".to_owned();
        }
        format!("{:.1} %", 100.0 * dead as f64 / (processed + dead) as f64)
    }

    /// Seconds to being processed, of the median of the last minute in which anything was.
    pub fn median(&self) -> String {
        view::seconds_or_dash(&self.minutes.iter().rev().find_map(|minute| minute.median_s))
    }

    /// The same, of the slowest twentieth.
    pub fn p95(&self) -> String {
        view::seconds_or_dash(&self.minutes.iter().rev().find_map(|minute| minute.p95_s))
    }

    /// The same, of the slowest hundredth.
    pub fn p99(&self) -> String {
        view::seconds_or_dash(&self.minutes.iter().rev().find_map(|minute| minute.p99_s))
    }

    /// Webhooks refused in the last hour.
    pub fn refused_in_hour(&self) -> String {
        let sum = |totals: &Vec<Total>| totals.iter().map(|total| total.hour).sum::<i64>();
        self.refused
            .as_ref()
            .map_or("unknown".to_owned(), |totals| view::number(&sum(totals)))
    }

    /// How old the oldest unfinished event is, in words.
    pub fn oldest_text(&self) -> String {
        self.oldest().map_or("–".to_owned(), |age| view::span(&age))
    }

    /// How old the oldest unfinished event is.
    pub fn oldest(&self) -> Option<SignedDuration> {
        let at = self.backlog.as_ref()?.oldest_at?;
        Some(self.at.duration_since(at).max(SignedDuration::ZERO))
    }

    /// Whether the oldest unfinished event should worry somebody: `warning` after a minute, `down` after five.
    pub fn age_level(&self) -> &'static str {
        match self.oldest().map(|age| age.as_secs()) {
            Some(300..) => "down",
            Some(60..) => "warning",
            _ => "up",
        }
    }

    /// How the last reconciliation ended, in a word.
    pub fn reconciled_word(&self) -> &'static str {
        match self.reconciled.as_ref().map(|run| run.state.as_str()) {
            None => "never",
            Some("failed") => "failed",
            Some("running") => "runs",
            Some(_) => "done",
        }
    }

    /// How much waits.
    pub fn waiting(&self) -> String {
        match &self.backlog {
            None => "unknown".to_owned(),
            Some(backlog) if backlog.events > MOST_COUNTED => {
                format!("over {}", view::number(&MOST_COUNTED))
            }
            Some(backlog) => view::number(&backlog.events),
        }
    }
}

#[derive(Template)]
#[template(path = "console/overview_live.html")]
struct Fragment<'a> {
    facts: &'a Facts,
}

/// How things stand, and the part of the overview that shows it.
pub struct Snapshot {
    /// The facts.
    pub facts: Facts,
    /// As HTML.
    pub html: String,
}

/// What the poll asks.
pub struct Sources {
    /// The database.
    pub pool: Pool,
    /// The services.
    pub prober: Prober,
    /// Admin addresses of gateways.
    pub gateways: Vec<String>,
    /// Admin addresses of workers.
    pub workers: Vec<String>,
}

/// The newest snapshot, and those who wait for the next one.
pub struct Live {
    newest: watch::Receiver<Arc<Snapshot>>,
    slots: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// What a poll keeps for the next one.
#[derive(Default)]
struct History {
    polls: u32,
    minutes: BTreeMap<Timestamp, Minute>,
    ages: VecDeque<Age>,
    answers: Answers,
}

impl Live {
    /// Polls once, then gives what goes on polling until `background` ends. Streams end with `shutdown`.
    pub async fn start(
        sources: Sources,
        background: CancellationToken,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let mut history = History::default();
        let (sender, newest) = watch::channel(Arc::new(history.poll(&sources).await));
        let polling = async move {
            while sleep_unless(&background, INTERVAL).await {
                sender.send_replace(Arc::new(history.poll(&sources).await));
            }
        };
        let live = Self {
            newest,
            slots: Arc::new(Semaphore::new(MAX_STREAMS)),
            shutdown,
        };
        (live, polling)
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Arc<Snapshot> {
        self.newest.borrow().clone()
    }

    /// A stream of server-sent events, one for each snapshot to come.
    pub fn stream(&self) -> Reply {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            let busy = reply::text(StatusCode::SERVICE_UNAVAILABLE, "too many streams");
            return reply::retry_after(busy, HEARTBEAT);
        };
        let body = StreamBody::new(frames(self.newest.clone(), self.shutdown.clone(), slot));
        let mut answer = Response::new(body.boxed_unsync());
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        answer
    }
}

/// What the database said.
struct Asked {
    backlog: Backlog,
    groups: Vec<Group>,
    deaths: Vec<Death>,
    alerts: Vec<Alert>,
    refused: Vec<Total>,
    workers: Vec<Worker>,
    reconciled: Option<Reconciliation>,
}

impl History {
    async fn poll(&mut self, sources: &Sources) -> Snapshot {
        let at = Timestamp::now();
        let (gateways, workers, answers, asked) = tokio::join!(
            sources.prober.ask(&sources.gateways),
            sources.prober.ask(&sources.workers),
            sources.prober.answers(&sources.gateways),
            self.ask_database(&sources.pool, at)
        );
        self.answers.note(at, answers);
        let database = match &asked {
            Ok(_) => light("Database", "up", "up", "it answers"),
            Err(error) => {
                debug!(%error, "the database did not answer");
                light("Database", "down", "down", "no answer")
            }
        };
        let lights = vec![
            database,
            broker(&gateways, &workers),
            service("Gateway", &gateways),
            service("Worker", &workers),
        ];
        let mut facts = Facts {
            at,
            lights,
            minutes: self.last_hour(at),
            answered: self.answers.last_minute(),
            ..Facts::default()
        };
        if let Ok(asked) = asked {
            facts.add(asked);
        }
        self.note_age(&facts);
        facts.ages = self.ages.iter().copied().collect();
        let html = Fragment { facts: &facts }.render().unwrap_or_default();
        Snapshot { facts, html }
    }

    async fn ask_database(&mut self, pool: &Pool, now: Timestamp) -> Result<Asked, StoreError> {
        let whole = self.polls.is_multiple_of(WHOLE_HOUR_EVERY);
        let since = minutes_before(now, if whole { HOUR } else { 1 });
        let asked = with_client(pool, TIMEOUT, async |client| {
            let client = &*client;
            Ok(Asked {
                backlog: overview::backlog(client).await?,
                groups: groups::list(client, None, 8).await?,
                deaths: overview::recent_deaths(client).await?,
                alerts: alerts::list(client, false, MOST_ALERTS).await?,
                refused: rejections::totals(client).await?,
                workers: overview::workers(client).await?,
                reconciled: reconciliations::list(client, None, 1).await?.pop(),
            })
        })
        .await?;
        self.polls = self.polls.wrapping_add(1);
        let minutes = with_client(pool, TIMEOUT, async |client| {
            overview::minutes(&*client, since).await
        });
        // An hour of very many events may take too long: charts that stand still are no database that is down.
        let minutes = match minutes.await {
            Ok(minutes) => minutes,
            Err(error) => {
                warn!(%error, "the charts are not brought up to date");
                return Ok(asked);
            }
        };
        self.minutes
            .retain(|at, _| *at >= minutes_before(now, HOUR) && *at < since);
        self.minutes
            .extend(minutes.into_iter().map(|minute| (minute.at, minute)));
        Ok(asked)
    }

    /// All sixty minutes, also those in which nothing came.
    fn last_hour(&self, now: Timestamp) -> Vec<Minute> {
        let first = minutes_before(now, HOUR - 1);
        (0..HOUR)
            .map(|minute| {
                let at = first + SignedDuration::from_mins(minute);
                self.minutes.get(&at).cloned().unwrap_or(Minute {
                    at,
                    received: 0,
                    processed: 0,
                    dead: 0,
                    median_s: None,
                    p95_s: None,
                    p99_s: None,
                })
            })
            .collect()
    }

    fn note_age(&mut self, facts: &Facts) {
        if facts.backlog.is_some() {
            let seconds = facts.oldest().map_or(0.0, |age| age.as_secs_f64());
            self.ages.push_back(Age {
                at: facts.at,
                seconds,
            });
        }
        let oldest = minutes_before(facts.at, HOUR);
        self.ages.retain(|age| age.at >= oldest);
    }
}

/// The beginning of the minute that was so many minutes ago.
fn minutes_before(now: Timestamp, minutes: i64) -> Timestamp {
    let second = now.as_second();
    let second = second - second.rem_euclid(60) - 60 * minutes;
    Timestamp::from_second(second).unwrap_or(now)
}
