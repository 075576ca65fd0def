//! A replay before it is one: which dead letters, what that would be, and the consent to exactly this.

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::commands::replay::{Consent, start as start_replay};
use crate::console::app::App;
use crate::console::auth::Role;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::{Fields, Visit};
use crate::filter::Filter;
use crate::store::replays::{self, NewReplay, Plan, Replay};

#[derive(Template)]
#[template(path = "console/plan.html")]
struct Page {
    frame: Frame,
    filter: String,
    /// The same, with times that do not move any more.
    fixed: String,
    rate: i32,
    force: bool,
    may_force: bool,
    plan: Option<Plan>,
    active: Option<Replay>,
    command: String,
}

impl Page {
    fn takes(&self, plan: &Plan) -> String {
        view::seconds(&(plan.count as f64 / f64::from(self.rate)))
    }

    fn share(&self, plan: &Plan, count: &i64) -> String {
        format!("{:.0}", 100.0 * *count as f64 / (plan.count.max(1)) as f64)
    }
}

/// Events a second unless said otherwise.
const USUAL_RATE: i32 = 20;

fn rate(fields: &Fields) -> Result<i32, OpsError> {
    let Some(raw) = fields.get("rate") else {
        return Ok(USUAL_RATE);
    };
    let rate = raw.parse().ok().filter(|rate| (1..=500).contains(rate));
    rate.ok_or_else(|| OpsError::Usage("the rate is 1 to 500 events a second".to_owned()))
}

/// The page: a plan, once a filter says something.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    visit.must(Role::Operator)?;
    let typed = visit.query.get("filter").unwrap_or_default();
    let (rate, force) = (rate(&visit.query)?, visit.query.ticked("force"));
    let filter = Filter::parse(typed, visit.now)?;
    let client = app.client().await?;
    let plan = if filter.says_something() {
        Some(replays::plan(&client, &filter, force).await?)
    } else {
        None
    };
    let fixed = filter.to_string();
    let page = Page {
        frame: Frame::new(visit, "replays"),
        command: format!(
            "ops dead-letters replay --filter {} --dry-run",
            view::quoted(typed)
        ),
        filter: typed.to_owned(),
        fixed,
        rate,
        force,
        may_force: visit.may(Role::Admin),
        plan,
        active: replays::find_active(&client).await?,
    };
    Ok(reply::page(StatusCode::OK, &page))
}

/// Makes the plan a replay, if it is still the one that was shown. Going beyond the caps is for admins.
pub async fn start(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let force = visit.form.ticked("force");
    visit.must(if force { Role::Admin } else { Role::Operator })?;
    let shown = visit
        .form
        .get("plan_hash")
        .ok_or_else(|| OpsError::Usage("look at the plan first".to_owned()))?;
    let filter = Filter::parse(visit.form.get("filter").unwrap_or_default(), visit.now)?;
    if !filter.says_something() {
        return Err(OpsError::Usage("say which dead letters".to_owned()));
    }
    let new = NewReplay {
        filter: &filter,
        created_by: &visit.who.name,
        reason: visit.reason()?,
        rate_per_s: rate(&visit.form)?,
        force,
    };
    let consent = Consent {
        given: true,
        plan_hash: Some(shown.to_owned()),
        max: None,
    };
    let mut client = app.client().await?;
    match start_replay(&mut client, &new, &consent).await?.replay {
        Some(replay) => Ok(reply::see_other(&format!("/replays/{}", replay.id))),
        None => Err(OpsError::Refused("there is nothing to replay".to_owned())),
    }
}
