//! `ops trigger`: builds, signs and posts a realistic event, offline. The ids of one order's objects belong together:
//! each is derived from the order.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use shared::signature::SigningKey;

use crate::events;
use crate::lifecycles;
use crate::output::{Output, print_line};
use crate::store::catalogue::{OrderFacts, order_facts};
use crate::{Database, OpsError};

/// What `ops trigger` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Event type, such as payment_intent.succeeded; one without a template is sent as a bare event. Or `lifecycle`
    #[arg(required_unless_present = "types")]
    event_type: Option<String>,
    /// Name of the life cycle, such as paid-then-refunded
    lifecycle: Option<String>,
    /// Print the types that have a template, and the life cycles
    #[arg(long)]
    types: bool,
    /// Order that the event is about: amount, currency and references are read from the database
    #[arg(long)]
    order: Option<String>,
    /// Minor units; the order's by default
    #[arg(long, allow_negative_numbers = true)]
    amount: Option<i64>,
    /// Lower-case currency; the order's by default
    #[arg(long)]
    currency: Option<String>,
    /// Refunded until now, in minor units; all by default
    #[arg(long)]
    refunded: Option<i64>,
    /// PaymentIntent id; the order's by default
    #[arg(long)]
    payment_intent: Option<String>,
    /// Event id; a new one by default
    #[arg(long)]
    id: Option<String>,
    /// Send it this many times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
    /// Live or test mode
    #[arg(long, env = "STRIPE_LIVEMODE", default_value = "false", action = clap::ArgAction::Set)]
    livemode: bool,
    /// Where to post; http://GATEWAY_LISTEN/webhooks/stripe by default
    #[arg(long)]
    url: Option<String>,
    #[arg(
        long,
        env = "GATEWAY_LISTEN",
        default_value = "127.0.0.1:8080",
        hide = true
    )]
    gateway_listen: String,
    /// Endpoint secret; the first of a list signs
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
    /// File with endpoint secrets
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Print the body and post nothing
    #[arg(long)]
    print: bool,
}

#[derive(Serialize)]
struct Report {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    sent: u32,
    accepted: u32,
    status: u16,
    answer: Value,
    median_ms: f64,
}

const TIMEOUT: Duration = Duration::from_secs(30);

/// Triggers the event, or every event of a life cycle.
pub async fn run(database: &Database, args: &Args, output: Output) -> Result<(), OpsError> {
    if args.types {
        let lifecycles = lifecycles::names().map(|name| format!("lifecycle {name}"));
        let types: Vec<String> = events::types()
            .map(str::to_owned)
            .chain(lifecycles)
            .collect();
        return output.print("types", &types, |types| types.join("\n"));
    }
    let steps = steps(args)?;
    let facts = facts(database, args).await?;
    // The objects of one order, or else of one call, belong together.
    let seed = args.order.clone().unwrap_or_else(|| random_letters(12));
    let mut reports = Vec::new();
    for (event_type, refunded_percent) in &steps {
        let values = values(args, facts.as_ref(), &seed, *refunded_percent);
        let body = events::render(event_type, &values);
        let body = body.unwrap_or_else(|| events::unknown(event_type, &values));
        if args.print {
            print_line(&body)?;
            continue;
        }
        let id = values
            .get("event_id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        reports.push(post(args, event_type, id, &body).await?);
    }
    tell(&reports, output)?;
    match reports.iter().find(|report| report.accepted < report.sent) {
        None => Ok(()),
        Some(Report {
            status: 503,
            answer,
            ..
        }) => Err(OpsError::Unavailable(format!("answer 503: {answer}"))),
        Some(Report { status, answer, .. }) => {
            Err(OpsError::PartlyFailed(format!("answer {status}: {answer}")))
        }
    }
}

/// What to send: types, and how much of the amount went back until then, in percent.
fn steps(args: &Args) -> Result<Vec<(String, i64)>, OpsError> {
    match (args.event_type.as_deref(), args.lifecycle.as_deref()) {
        (Some("lifecycle"), name) => {
            let steps = lifecycles::find(name.unwrap_or_default()).ok_or_else(|| {
                let known = lifecycles::names().collect::<Vec<_>>().join(", ");
                OpsError::Usage(format!("name a life cycle: {known}"))
            })?;
            Ok(steps
                .iter()
                .map(|step| (step.event_type.to_owned(), step.refunded_percent))
                .collect())
        }
        (Some(event_type), None) => Ok(vec![(event_type.to_owned(), 100)]),
        (_, Some(extra)) => Err(OpsError::Usage(format!("`{extra}` is one word too many"))),
        (None, None) => Ok(Vec::new()),
    }
}

fn tell(reports: &[Report], output: Output) -> Result<(), OpsError> {
    let text = |report: &Report| {
        let Report {
            id,
            event_type,
            sent,
            accepted,
            status,
            median_ms,
            ..
        } = report;
        format!(
            "{id} {event_type}: {accepted} of {sent} accepted, last answer {status}, \
             median {median_ms:.1} ms\n"
        )
    };
    match reports {
        [] => Ok(()),
        [only] => output.print("triggered", only, text),
        several => output.print("triggered", &several, |all| all.iter().map(text).collect()),
    }
}

async fn facts(database: &Database, args: &Args) -> Result<Option<OrderFacts>, OpsError> {
    let Some(order) = args.order.as_deref().filter(|_| database.is_known()) else {
        return Ok(None);
    };
    let facts = order_facts(&database.connect().await?, order).await?;
    if facts.is_none() && args.amount.is_none() {
        let text = format!("there is no order {order}: name another, or give --amount");
        return Err(OpsError::NotFound(text));
    }
    Ok(facts)
}

/// What the templates' placeholders stand for.
fn values(
    args: &Args,
    facts: Option<&OrderFacts>,
    seed: &str,
    refunded_percent: i64,
) -> Map<String, Value> {
    let derived = |prefix: &str| format!("{prefix}_{}", letters_of(&format!("{prefix}|{seed}")));
    let reference = facts.and_then(|facts| facts.provider_checkout_ref.clone());
    let referred = |prefix: &str| {
        reference
            .clone()
            .filter(|reference| reference.starts_with(prefix))
    };
    let payment_intent = args
        .payment_intent
        .clone()
        .or_else(|| referred("pi_"))
        .unwrap_or_else(|| derived("pi"));
    let amount = args
        .amount
        .or(facts.map(|facts| facts.amount_cents))
        .unwrap_or(2_000);
    let refunded = args.refunded.unwrap_or(amount * refunded_percent / 100);
    let now = Timestamp::now();
    let values = json!({
        "event_id": args.id.clone().unwrap_or_else(|| format!("evt_{}", random_letters(24))),
        "created": now.as_second(),
        "created_rfc3339": now.to_string(),
        "expires_at": now.as_second() + 30 * 86_400,
        "livemode": args.livemode,
        "payment_intent_url": format!("/v1/payment_intents/{payment_intent}"),
        "client_secret": format!("{payment_intent}_secret_{}", random_letters(25)),
        "payment_intent": payment_intent,
        "charge": derived("ch"),
        "refund": derived("re"),
        "dispute": derived("dp"),
        "session": referred("cs_").unwrap_or_else(|| derived("cs_test")),
        "customer": derived("cus"),
        "subscription": derived("sub"),
        "invoice": derived("in"),
        "amount": amount,
        "amount_refunded": refunded,
        "fully_refunded": refunded >= amount,
        "currency": args.currency.clone().or(facts.map(|facts| facts.currency.clone())).unwrap_or("usd".to_owned()),
        "email": facts.map_or("buyer@example.com", |facts| facts.email.as_str()),
        "metadata": args.order.as_ref().map_or(json!({}), |order| json!({ "order_id": order })),
        "order_id": args.order,
        "request_id": format!("req_{}", random_letters(14)),
        "idempotency_key": random_letters(24),
        "failure_code": "card_declined",
        "decline_code": "insufficient_funds",
        "failure_message": "Your card has insufficient funds.",
    });
    match values {
        Value::Object(values) => values,
        _ => Map::new(),
    }
}

fn random_letters(length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    (0..length)
        .map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]))
        .collect()
}

fn letters_of(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..12])
}

async fn post(args: &Args, event_type: &str, id: String, body: &str) -> Result<Report, OpsError> {
    let url = args
        .url
        .clone()
        .unwrap_or_else(|| format!("http://{}/webhooks/stripe", args.gateway_listen));
    let key = SigningKey::new(&secret(args)?);
    let client = reqwest::Client::builder().timeout(TIMEOUT).build();
    let client = client.map_err(|error| OpsError::Unexpected(error.to_string()))?;
    let (mut accepted, mut status, mut answer, mut times_ms) = (0, 0, Value::Null, Vec::new());
    for _ in 0..args.repeat {
        let started = Instant::now();
        let request = client
            .post(&url)
            .header(
                "stripe-signature",
                key.sign(Timestamp::now().as_second(), body.as_bytes()),
            )
            .header("content-type", "application/json; charset=utf-8")
            .header(
                "user-agent",
                "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            )
            .body(body.to_owned());
        let unavailable = |error: reqwest::Error| OpsError::Unavailable(format!("{url}: {error}"));
        let response = request.send().await.map_err(unavailable)?;
        status = response.status().as_u16();
        accepted += u32::from(response.status().is_success());
        let text = response.text().await.map_err(unavailable)?;
        answer = serde_json::from_str(&text).unwrap_or(Value::String(text));
        times_ms.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    times_ms.sort_by(f64::total_cmp);
    let median_ms = times_ms[times_ms.len() / 2];
    Ok(Report {
        id,
        event_type: event_type.to_owned(),
        sent: args.repeat,
        accepted,
        status,
        answer,
        median_ms,
    })
}

fn secret(args: &Args) -> Result<String, OpsError> {
    let text = match (&args.webhook_secret, &args.webhook_secret_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|error| {
            OpsError::Usage(format!(
                "STRIPE_WEBHOOK_SECRET_FILE cannot be read: {error}"
            ))
        })?,
        (None, None) => String::new(),
    };
    let first = text
        .split([',', '\n'])
        .map(str::trim)
        .find(|secret| !secret.is_empty());
    first
        .map(str::to_owned)
        .ok_or_else(|| OpsError::Usage("STRIPE_WEBHOOK_SECRET is not set".to_owned()))
}
