//! One cause of death: its letters, its state, its note.

use askama::Template;
use hyper::StatusCode;
use jiff::Timestamp;

use super::groups::state;
use crate::OpsError;
use crate::console::app::App;
use crate::console::auth::Role;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::discard::MOST;
use crate::filter::Filter;
use crate::store::console::groups::{self, Group, Letter};
use crate::store::dead_letters;
use crate::triage;

const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "console/group.html")]
struct Page {
    frame: Frame,
    group: Group,
    letters: Vec<Letter>,
    next: Option<String>,
}

/// The page.
pub async fn show(app: &App, visit: &Visit, fingerprint: &str) -> Result<Reply, OpsError> {
    let client = app.client().await?;
    let group = groups::find(&client, fingerprint)
        .await?
        .ok_or_else(|| not_found(fingerprint))?;
    let before = match visit.query.get("before") {
        Some(raw) => Some(place(raw)?),
        None => None,
    };
    let most = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let mut letters = groups::letters(&client, fingerprint, before, most).await?;
    let more = letters.len() > PAGE;
    letters.truncate(PAGE);
    let next = letters.last().filter(|_| more).map(|last| {
        let place = view::encoded(&format!("{},{}", last.died_at, last.id));
        format!("/dead-letters/{}?before={place}", group.fingerprint)
    });
    let frame = Frame::new(visit, "dead-letters");
    let page = Page {
        frame,
        group,
        letters,
        next,
    };
    Ok(reply::page(StatusCode::OK, &page))
}

fn not_found(fingerprint: &str) -> OpsError {
    OpsError::NotFound(format!("there is no group {fingerprint}"))
}

fn place(raw: &str) -> Result<(Timestamp, i64), OpsError> {
    let parsed = raw
        .split_once(',')
        .and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    parsed.ok_or_else(|| OpsError::Usage("this page has no such place".to_owned()))
}

/// Puts the group into a state, with a note.
pub async fn change(app: &App, visit: &Visit, fingerprint: &str) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let state = state(visit.form.get("state").unwrap_or_default())?;
    let note = visit.form.get("note").unwrap_or_default();
    let mut client = app.client().await?;
    triage::change(&mut client, fingerprint, state, note, &visit.who.name).await?;
    Ok(reply::see_other(&format!("/dead-letters/{fingerprint}")))
}

/// Gives up every open letter of the group, as many as were shown.
pub async fn discard(app: &App, visit: &Visit, fingerprint: &str) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let accountable = visit.accountable()?;
    let shown: Option<i64> = visit.form.get("count").and_then(|count| count.parse().ok());
    let shown = shown.ok_or_else(|| OpsError::Usage("look at the group first".to_owned()))?;
    let filter = Filter {
        fingerprints: vec![fingerprint.to_owned()],
        ..Filter::default()
    };
    let mut client = app.client().await?;
    let open = dead_letters::count(&client, &filter).await?;
    if open != shown {
        let text =
            format!("the group has {open} open letters now, and not {shown}: look at it again");
        return Err(OpsError::Conflict(text));
    }
    if open > MOST {
        visit.must(Role::Admin)?;
    }
    crate::discard::discard(&mut client, &filter, open, &accountable).await?;
    Ok(reply::see_other(&format!("/dead-letters/{fingerprint}")))
}
