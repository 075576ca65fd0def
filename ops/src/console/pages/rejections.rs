//! Webhooks that gateways refused, by cause: what is stored of them, and what gateways count since they started.

use std::collections::BTreeMap;

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;
use crate::page::{Cursor, next_page};
use crate::store::rejections::{self, Rejection, Total};

const PAGE: i64 = 50;

#[derive(Template)]
#[template(path = "console/rejections.html")]
struct Page {
    frame: Frame,
    totals: Vec<Total>,
    stored: Vec<Rejection>,
    cause: String,
    next: Option<String>,
    gateways: Vec<(String, Option<BTreeMap<String, i64>>)>,
    rows: Vec<Row>,
    accepted: i64,
    duplicates: i64,
}

impl Page {
    fn meaning(&self, cause: &str) -> &'static str {
        meaning(cause)
    }
}

struct Row {
    outcome: String,
    meaning: &'static str,
    count: i64,
}

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
    let cause = visit.query.get("cause");
    let behind = match visit.query.get("cursor").map(str::parse::<Cursor>) {
        None => None,
        Some(Ok(cursor)) => Some(cursor),
        Some(Err(problem)) => return Err(OpsError::Usage(problem)),
    };
    let client = app.client().await?;
    let totals = rejections::totals(&client).await?;
    let stored = rejections::list(&client, (cause, None), behind.as_ref(), PAGE).await?;
    let next = next_page(&stored, PAGE, |row| (row.at, row.id.clone())).map(|next| {
        let (cause, next) = (cause.unwrap_or_default(), next.to_string());
        format!(
            "/rejections?cause={}&cursor={}",
            view::encoded(cause),
            view::encoded(&next)
        )
    });
    // The services may be slow to answer: the connection is not kept meanwhile.
    drop(client);
    let gateways = app.prober.webhooks(&app.gateways).await;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (outcome, count) in gateways
        .iter()
        .filter_map(|(_, counts)| counts.as_ref())
        .flatten()
    {
        *counts.entry(outcome.clone()).or_default() += count;
    }
    let accepted = counts.remove("accepted").unwrap_or(0);
    let duplicates = counts.remove("duplicate").unwrap_or(0);
    let row = |(outcome, count): (String, i64)| Row {
        meaning: meaning(&outcome),
        outcome,
        count,
    };
    let mut rows: Vec<Row> = counts.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    let page = Page {
        frame: Frame::new(visit, "rejections"),
        totals,
        stored,
        cause: cause.unwrap_or_default().to_owned(),
        next,
        gateways,
        rows,
        accepted,
        duplicates,
    };
    Ok(reply::page(StatusCode::OK, &page))
}

fn meaning(outcome: &str) -> &'static str {
    match outcome {
        "signature_missing" => "no Stripe-Signature header: not from Stripe",
        "signature_malformed" => "a Stripe-Signature header that is none",
        "signature_mismatch" => {
            "signed with another secret: an attack, or a secret that was rolled and not told"
        }
        "signature_retired" => {
            "signed with a secret that was replaced: it is still in use at Stripe"
        }
        "signature_stale" => {
            "a right signature that is too old: a replay, or a clock that is wrong"
        }
        "invalid_payload" => "signed, but not an event",
        "broken_body" => "a body that ended early",
        "slow_body" => "a body that did not arrive in time",
        "payload_too_large" => "a body over GATEWAY_MAX_BODY_BYTES",
        "rate_limited" => "too many failed verifications from one client",
        "database" | "too_many_waiting" | "deadline" | "interrupted" => {
            "answered 503: Stripe will send it again"
        }
        _ => "",
    }
}
