//! One event: what happened to it, what it brought about, what it says, and the ways to go on.

use askama::Template;
use deadpool_postgres::Object;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::auth::Role;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::filter::Filter;
use crate::redact::{redact, tells};
use crate::store::console::effects::{self, Order, Related};
use crate::store::console::{audit, groups};
use crate::store::dead_letters::{self, DeadLetter};
use crate::store::events::{self, Event};
use crate::store::reconciliations;
use crate::timeline::{Moment, timeline};

/// How the payload is shown.
enum Payload {
    /// With personal data and secrets covered.
    Covered(String),
    /// As it is.
    Uncovered(String),
    /// It cannot be read, so nothing of it is shown.
    Opaque,
    /// It is not kept any more.
    Gone,
}

#[derive(Template)]
#[template(path = "console/event.html")]
struct Page {
    frame: Frame,
    event: Event,
    moments: Vec<Moment>,
    objects: Vec<String>,
    letter: Option<DeadLetter>,
    group_state: Option<String>,
    order: Option<Order>,
    related: Vec<Related>,
    audit: Vec<audit::Entry>,
    payload: Payload,
    size: i64,
    retried: bool,
    /// The reconciliation that imported it.
    reconciled: Option<i64>,
}

impl Page {
    fn took(&self, moment: &Moment) -> Option<String> {
        moment.took_ms.map(|ms| view::seconds(&(ms / 1_000.0)))
    }

    /// Whether the attempt before failed alike: a long error is told once.
    fn repeats(&self, moment: &Moment) -> bool {
        let before = |other: &&Moment| other.number.is_some() && other.number < moment.number;
        let last = self.moments.iter().rev().find(before);
        last.is_some_and(|last| last.error == moment.error)
    }

    /// What the dot of a moment looks like.
    fn look<'a>(&self, moment: &'a Moment) -> &'a str {
        moment.outcome.as_deref().unwrap_or(moment.what)
    }

    /// The events of the same objects, as a filter. An id of the shop's own may be an address of a person.
    fn objects_link(&self) -> Option<String> {
        let shown = |object: &&String| !tells(object);
        let shown: Vec<&str> = self
            .objects
            .iter()
            .filter(shown)
            .map(String::as_str)
            .collect();
        (!shown.is_empty()).then(|| super::events::link(&format!("object:{}", shown.join(","))))
    }

    fn can_reveal(&self) -> bool {
        matches!(self.payload, Payload::Covered(_) | Payload::Opaque)
    }

    fn can_retry(&self) -> bool {
        ["dead", "retrying"].contains(&self.event.state.as_str())
    }
}

const MOST_AUDIT: i64 = 50;

/// The page.
pub async fn show(app: &App, visit: &Visit, id: &str) -> Result<Reply, OpsError> {
    let client = app.client().await?;
    let id = view::decoded(id);
    let page = page(&client, visit, &id, false).await?;
    Ok(reply::page(StatusCode::OK, &page))
}

async fn page(client: &Object, visit: &Visit, id: &str, uncovered: bool) -> Result<Page, OpsError> {
    let event = events::find(client, id)
        .await?
        .ok_or_else(|| OpsError::NotFound(format!("there is no event {id}")))?;
    let body = events::body(client, id).await?;
    let objects = body
        .as_deref()
        .map(shared::references::object_ids)
        .unwrap_or_default();
    let order = effects::order(client, &objects).await?;
    let order_id = order.as_ref().map(|order| order.id.as_str());
    let mut related = effects::related(client, &objects, order_id).await?;
    related.retain(|other| other.id != event.id);
    let letter = dead_letters::find(client, None, id).await?;
    let group = match &letter {
        Some(letter) => groups::find(client, &letter.fingerprint).await?,
        None => None,
    };
    let filter = audit::Filter {
        event_id: Some(id),
        ..audit::Filter::default()
    };
    let attempts = events::attempts(client, id).await?;
    let deaths = events::deaths(client, id).await?;
    let audit = audit::list(client, &filter, MOST_AUDIT).await?;
    let unpublished = events::unpublished_since(client, id).await?;
    let size = body.as_ref().map_or(0, Vec::len);
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    Ok(Page {
        frame: Frame::new(visit, "events"),
        moments: timeline(&event, &attempts, &deaths, &audit, unpublished),
        audit,
        objects,
        payload: payload(body, uncovered),
        group_state: group.map(|group| group.state),
        retried: visit.query.ticked("retried"),
        reconciled: reconciliations::of_event(client, id).await?,
        event,
        letter,
        order,
        related,
        size,
    })
}

fn payload(body: Option<Vec<u8>>, uncovered: bool) -> Payload {
    match body {
        None => Payload::Gone,
        Some(body) if uncovered => Payload::Uncovered(String::from_utf8_lossy(&body).into_owned()),
        Some(body) => redact(&body).map_or(Payload::Opaque, Payload::Covered),
    }
}

/// Tries the event again, as `ops events retry` does.
pub async fn retry(app: &App, visit: &Visit, id: &str) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let id = view::decoded(id);
    let mut client = app.client().await?;
    crate::retry::retry(&mut client, &id, false, &visit.accountable()?).await?;
    let to = format!("/events/{}?retried=1", view::encoded(&id));
    Ok(reply::see_other(&to))
}

/// Gives a dead event up for good, as `ops dead-letters discard` does.
pub async fn discard(app: &App, visit: &Visit, id: &str) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let id = view::decoded(id);
    let accountable = visit.accountable()?;
    let mut client = app.client().await?;
    let event = events::find(&client, &id)
        .await?
        .ok_or_else(|| OpsError::NotFound(format!("there is no event {id}")))?;
    let filter = Filter {
        ids: vec![id],
        ..Filter::default()
    };
    let discarded = crate::discard::discard(&mut client, &filter, 1, &accountable).await?;
    if discarded.is_empty() {
        let state = event.state;
        return Err(OpsError::Conflict(format!(
            "only a dead event can be discarded, and this one was {state}"
        )));
    }
    Ok(reply::see_other(&format!(
        "/events/{}",
        view::encoded(&event.id)
    )))
}

/// Shows the payload as it is, once, and notes who saw it and why before it is shown.
pub async fn reveal(app: &App, visit: &Visit, id: &str) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let id = view::decoded(id);
    let mut client = app.client().await?;
    crate::reveal::note(&mut client, &id, &visit.accountable()?).await?;
    let page = page(&client, visit, &id, true).await?;
    Ok(reply::page(StatusCode::OK, &page))
}
