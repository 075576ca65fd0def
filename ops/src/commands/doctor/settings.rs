//! What the doctor makes of settings and of the addresses in them.

use shared::settings::Check;
use shared::stripe::{ApiError, Query};
use tokio::net::TcpStream;

use super::{Args, Finding, TIMEOUT, failed, ok, warning};

pub fn check_secrets(args: &Args) -> Finding {
    let text = match (&args.webhook_secret, &args.webhook_secret_file) {
        (Some(_), Some(_)) => {
            return failed(
                "secrets",
                "both STRIPE_WEBHOOK_SECRET and STRIPE_WEBHOOK_SECRET_FILE are set",
                "unset one",
            );
        }
        (Some(text), None) => text.clone(),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return failed("secrets", format!("file: {error}"), "make it readable"),
        },
        (None, None) => String::new(),
    };
    let secrets: Vec<&str> = text
        .split([',', '\n'])
        .map(str::trim)
        .filter(|secret| !secret.is_empty())
        .collect();
    let mend = "copy the endpoint's signing secret (whsec_…) from Stripe's dashboard";
    match secrets.as_slice() {
        [] => failed("secrets", "STRIPE_WEBHOOK_SECRET is not set", mend),
        all if all.iter().all(|secret| secret.starts_with("whsec_")) => {
            ok("secrets", format!("{} known", all.len()))
        }
        _ => warning("secrets", "one does not start with whsec_", mend),
    }
}

pub fn check_livemode(args: &Args) -> Finding {
    match args.livemode.as_deref() {
        Some(mode @ ("true" | "false")) => ok("mode", format!("STRIPE_LIVEMODE={mode}")),
        Some(other) => failed(
            "mode",
            format!("STRIPE_LIVEMODE={other}"),
            "set it to true or false",
        ),
        None => warning(
            "mode",
            "STRIPE_LIVEMODE is not set: test mode",
            "set it: events of the other mode are ignored",
        ),
    }
}

/// Whether the key reads Stripe's lists; nothing where no key is set.
pub async fn check_stripe(args: &Args) -> Option<Finding> {
    let mend = "set STRIPE_SECRET_KEY to an active key that may read events, of the mode of STRIPE_LIVEMODE";
    let mut check = Check::default();
    let parsed = args.stripe.parse(&mut check);
    let stripe = match check.finish(parsed) {
        Ok(stripe) => stripe?,
        Err(problems) => return Some(failed("stripe", problems.texts().join("; "), mend)),
    };
    let api = match stripe.api(args.livemode.as_deref() == Some("true")) {
        Ok(api) => api,
        Err(error) => return Some(failed("stripe", format!("the key {error}"), mend)),
    };
    let now = jiff::Timestamp::now();
    let newest = Query {
        since: now,
        until: now,
        undelivered: true,
        after: None,
    };
    if let Err(error) = api.events(&newest).await {
        return Some(failed("stripe", error.to_string(), mend));
    }
    Some(match api.may_list_charges().await {
        Ok(()) => ok(
            "stripe",
            "the key reads Stripe's lists of events and charges",
        ),
        Err(error @ ApiError::Key { .. }) => warning(
            "stripe",
            error.to_string(),
            "let the key read charges too: the daily summary is not compared with Stripe's money else",
        ),
        Err(error) => warning("stripe", error.to_string(), "try again in a while"),
    })
}

pub async fn check_mail(args: &Args) -> Finding {
    let Some(url) = args
        .smtp_url
        .as_deref()
        .filter(|url| !url.trim().is_empty())
    else {
        let found = format!(
            "SMTP_URL is not set: mails become files in {}",
            args.mail_dir.display()
        );
        return warning("mail", found, "set SMTP_URL for real mails");
    };
    let Ok(url) = reqwest::Url::parse(url) else {
        return failed(
            "mail",
            "SMTP_URL is not a URL",
            "write it as smtp://user:password@host:587?tls=required",
        );
    };
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .unwrap_or(if url.scheme() == "smtps" { 465 } else { 587 });
    match tokio::time::timeout(TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => ok("mail", format!("{host}:{port} accepts connections")),
        _ => failed(
            "mail",
            format!("{host}:{port} cannot be reached"),
            "check SMTP_URL and the network",
        ),
    }
}

pub async fn check_http(check: &'static str, address: &str, path: &str) -> Finding {
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .build()
        .unwrap_or_default();
    match client.get(format!("http://{address}{path}")).send().await {
        Ok(answer) if answer.status().is_success() => ok(check, format!("{address} answers")),
        Ok(answer) => {
            let found = format!(
                "{address}{path}: {}",
                answer.text().await.unwrap_or_default()
            );
            failed(
                check,
                found,
                "look at the service's log; the answer names what it lacks",
            )
        }
        Err(_) => warning(
            check,
            format!("nothing answers at {address}"),
            "start it, or say where it listens",
        ),
    }
}
