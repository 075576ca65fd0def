//! One run: page after page of the list, each imported in one transaction, at a rate that leaves room for live traffic.

use std::collections::HashSet;
use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::store::{self, NewEvent, Run};
use super::{ReconcileError, Tally, Window};
use crate::database::{StoreError, with_client};
use crate::envelope::Envelope;
use crate::stripe::{BREATH, Page, Query, StripeApi};

/// Times that the import of a page is tried where another transaction is in the way.
const MAX_TRIES: u32 = 6;
/// A million events: whoever has more undelivered ones should look at them in parts.
const MAX_PAGES: usize = 10_000;
/// How often a run tells that it is alive. [`store::LEASE`] allows for several that are late.
const BEAT: Duration = Duration::from_secs(5);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// What becomes of events that are not known.
#[derive(Clone, Copy)]
enum Aim {
    /// They are stored, for this run.
    Import(i64),
    /// They are counted.
    Count,
}

/// Compares Stripe's list with what is stored.
pub struct Reconciler {
    /// Where events are stored; two connections are used.
    pub pool: Pool,
    /// Stripe's list.
    pub api: StripeApi,
    /// The mode that is served.
    pub livemode: bool,
    /// Events imported in a second, at the most.
    pub rate_per_s: u32,
}

impl Reconciler {
    /// Carries out a run that has begun, until its end or `shutdown`, and notes how it ended.
    pub async fn run(
        &self,
        run: Run,
        shutdown: &CancellationToken,
    ) -> Result<Tally, ReconcileError> {
        let Run { id, window } = run;
        let walked = tokio::select! {
            walked = self.walk(window, Aim::Import(id)) => walked,
            () = self.beat(id) => Err(ReconcileError::Lost),
            () = shutdown.cancelled() => Err(ReconcileError::Interrupted),
        };
        let error = walked.as_ref().err().map(ToString::to_string);
        let noted = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            store::finish(client, id, error.as_deref()).await
        });
        match (walked, noted.await) {
            (Ok(_), Ok(false)) => Err(ReconcileError::Lost),
            (Ok(_), Err(error)) => Err(error.into()),
            (walked, _) => walked,
        }
    }

    /// Counts what a run would import, and changes nothing.
    pub async fn count(&self, window: Window) -> Result<Tally, ReconcileError> {
        self.walk(window, Aim::Count).await
    }

    /// Tells that the run is alive, until it is not the one that runs any more.
    async fn beat(&self, id: i64) {
        loop {
            tokio::time::sleep(BEAT).await;
            let told = with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
                store::beat(client, id).await
            });
            if let Ok(false) = told.await {
                return;
            }
        }
    }

    async fn walk(&self, window: Window, aim: Aim) -> Result<Tally, ReconcileError> {
        let (mut tally, mut after) = (Tally::default(), None::<String>);
        for _ in 0..MAX_PAGES {
            let query = Query {
                since: window.since,
                until: window.until,
                undelivered: !window.everything,
                after: after.as_deref(),
            };
            let page = self.api.events_patiently(&query).await?;
            let imported = self.take(&page, aim, &mut tally).await?;
            if !page.has_more {
                return Ok(tally);
            }
            after = Some(last_id(&page)?);
            tokio::time::sleep(pause(imported, self.rate_per_s)).await;
        }
        Err(ReconcileError::TooMany(100 * MAX_PAGES))
    }

    /// Imports or counts what is new of a page, all or nothing. Returns how much that was.
    async fn take(
        &self,
        page: &Page<Box<RawValue>>,
        aim: Aim,
        tally: &mut Tally,
    ) -> Result<u32, ReconcileError> {
        let events = read(&page.data, self.livemode)?;
        let seen = Tally {
            pages: 1,
            listed: count(page.data.len()),
            unreadable: count(page.data.len() - events.len()),
            ..Tally::default()
        };
        let events = distinct(events);
        let new = self.keep(&events, aim, &seen).await?;
        tally.add(&seen, count(new.len()));
        for event in events
            .iter()
            .filter(|event| new.contains(&event.envelope.id))
        {
            let event_type = event.envelope.event_type.clone();
            *tally.types.entry(event_type).or_default() += 1;
        }
        Ok(u32::try_from(new.len()).unwrap_or(u32::MAX))
    }

    /// The ids of what was new. A webhook may store the same event at the same moment: then it is tried again.
    async fn keep(
        &self,
        events: &[NewEvent<'_>],
        aim: Aim,
        seen: &Tally,
    ) -> Result<HashSet<String>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let kept = with_client(&self.pool, DATABASE_TIMEOUT, async |client| match aim {
                Aim::Import(run) => store::import(client, run, events, seen).await,
                Aim::Count => store::unknown(client, events).await,
            });
            match kept.await {
                Err(StoreError::Conflict(_)) if tries < MAX_TRIES => {}
                kept => return kept,
            }
        }
    }
}

impl Tally {
    fn add(&mut self, seen: &Tally, imported: i32) {
        self.pages += seen.pages;
        self.listed += seen.listed;
        self.unreadable += seen.unreadable;
        self.imported += imported;
        self.known += seen.listed - seen.unreadable - imported;
    }
}

/// A page has a hundred events at the most, and there are 10,000 pages.
fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn pause(imported: u32, rate_per_s: u32) -> Duration {
    let at_rate = f64::from(imported) / f64::from(rate_per_s.max(1));
    Duration::from_secs_f64(at_rate).max(BREATH)
}

/// The events of a page that can be stored. One of the other mode spoils the page: the key is not what it seems.
fn read(page: &[Box<RawValue>], livemode: bool) -> Result<Vec<NewEvent<'_>>, ReconcileError> {
    let readable = page.iter().filter_map(|raw| {
        let envelope = Envelope::read(raw.get().as_bytes()).ok()?;
        let body = raw.get();
        Some(NewEvent { envelope, body })
    });
    readable
        .map(|event| match event.envelope.livemode {
            Some(mode) if mode == livemode => Ok(event),
            _ => Err(ReconcileError::WrongMode {
                event_id: event.envelope.id,
                livemode,
            }),
        })
        .collect()
}

/// In the order in which the gateway stores events, each once.
fn distinct(mut events: Vec<NewEvent<'_>>) -> Vec<NewEvent<'_>> {
    events.sort_by(|a, b| a.envelope.id.cmp(&b.envelope.id));
    events.dedup_by(|a, b| a.envelope.id == b.envelope.id);
    events
}

fn last_id(page: &Page<Box<RawValue>>) -> Result<String, ReconcileError> {
    let last = page.data.last();
    let envelope = last.and_then(|raw| Envelope::read(raw.get().as_bytes()).ok());
    Ok(envelope.ok_or(ReconcileError::NoPlace)?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_leave_room_for_live_traffic() {
        assert_eq!(pause(100, 50), Duration::from_secs(2));
        assert_eq!(pause(0, 50), BREATH);
        assert_eq!(pause(1, 500), BREATH);
    }

    fn page(events: &[&str]) -> Vec<Box<RawValue>> {
        let raw = |text: &&str| RawValue::from_string((*text).to_owned()).unwrap();
        events.iter().map(raw).collect()
    }

    #[test]
    fn events_of_the_other_mode_spoil_their_page() {
        let own = r#"{"id":"evt_1","type":"a","livemode":false}"#;
        for other in [
            r#"{"id":"evt_2","type":"a","livemode":true}"#,
            r#"{"id":"evt_2","type":"a"}"#,
        ] {
            let error = read(&page(&[own, other]), false).err().unwrap();
            let text = "evt_2 is not of test mode, which is served here";
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn events_are_sorted_each_once_and_unreadable_ones_left_out() {
        let events = page(&[
            r#"{"id":"evt_2","type":"a","livemode":true}"#,
            r#"{"id":"evt_1","type":"a","livemode":true}"#,
            r#"{"id":"evt_2","type":"a","livemode":true}"#,
            r#"{"id":7,"type":"a","livemode":true}"#,
        ]);
        let read = read(&events, true).unwrap();
        assert_eq!(read.len(), 3);
        let read = distinct(read);
        let ids: Vec<&str> = read
            .iter()
            .map(|event| event.envelope.id.as_str())
            .collect();
        assert_eq!(ids, ["evt_1", "evt_2"]);
    }
}
