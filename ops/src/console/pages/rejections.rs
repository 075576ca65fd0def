//! Webhooks that gateways refused, by cause. Gateways only count them: a refusal leaves no row.

use std::collections::BTreeMap;

use askama::Template;
use hyper::StatusCode;

use crate::OpsError;
use crate::console::app::App;
use crate::console::reply::{self, Reply};
use crate::console::view::{self, Frame};
use crate::console::visit::Visit;

#[derive(Template)]
#[template(path = "console/rejections.html")]
struct Page {
    frame: Frame,
    gateways: Vec<(String, Option<BTreeMap<String, i64>>)>,
    rows: Vec<Row>,
    accepted: i64,
    duplicates: i64,
}

struct Row {
    outcome: String,
    meaning: &'static str,
    count: i64,
}

/// The page.
pub async fn show(app: &App, visit: &Visit) -> Result<Reply, OpsError> {
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
        "signature_stale" => {
            "a right signature that is too old: a replay, or a clock that is wrong"
        }
        "invalid_payload" => "signed, but not an event",
        "payload_too_large" => "a body over GATEWAY_MAX_BODY_BYTES",
        "rate_limited" => "too many failed verifications from one client",
        "database" | "too_many_waiting" | "deadline" | "interrupted" => {
            "answered 503: Stripe will send it again"
        }
        _ => "",
    }
}
