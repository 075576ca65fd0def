//! `ops doctor`: every dependency, setting and privilege, what is wrong, and how to mend it.

mod broker;
mod database;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use shared::stripe::StripeArgs;

use self::broker::check_broker;
use self::database::check_database;
use self::settings::{check_http, check_livemode, check_mail, check_secrets, check_stripe};
use crate::output::{Output, table};
use crate::{Database, OpsError};

/// What `ops doctor` takes: the settings of the services.
#[derive(clap::Args)]
pub struct Args {
    /// RabbitMQ URI
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: Option<String>,
    /// Prefix of exchange and queue names
    #[arg(
        long,
        env = "AMQP_PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    amqp_prefix: String,
    /// Endpoint secrets
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
    /// File with endpoint secrets
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Mode that this installation serves
    #[arg(long, env = "STRIPE_LIVEMODE")]
    livemode: Option<String>,
    #[command(flatten)]
    stripe: StripeArgs,
    /// Public address of the gateway
    #[arg(long, env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    gateway_listen: String,
    /// Admin address of the gateway
    #[arg(long, env = "GATEWAY_ADMIN_LISTEN", default_value = "127.0.0.1:9080")]
    gateway_admin_listen: String,
    /// Admin address of the worker
    #[arg(long, env = "WORKER_ADMIN_LISTEN", default_value = "127.0.0.1:9081")]
    worker_admin_listen: String,
    /// Mail server
    #[arg(long, env = "SMTP_URL", hide_env_values = true)]
    smtp_url: Option<String>,
    /// Directory for mails
    #[arg(long, env = "MAIL_DIR", default_value = "mail")]
    mail_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    mend: Option<String>,
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Ok,
        found: found.into(),
        mend: None,
    }
}

fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Warning,
        found: found.into(),
        mend: Some(mend.into()),
    }
}

fn failed(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Failed,
        found: found.into(),
        mend: Some(mend.into()),
    }
}

const TIMEOUT: Duration = Duration::from_secs(3);

/// Checks everything; fails when a check does.
pub async fn run(database: &Database, args: &Args, output: Output) -> Result<(), OpsError> {
    let (mut findings, mut away) = (Vec::new(), false);
    match database.connect().await {
        Ok(client) => findings.extend(check_database(&client).await?),
        Err(error) => {
            away |= matches!(error, OpsError::Unavailable(_));
            findings.push(failed(
                "database",
                error.to_string(),
                "set DATABASE_URL to a PostgreSQL that runs",
            ));
        }
    }
    let broker = check_broker(args).await;
    away |= broker
        .iter()
        .any(|finding| finding.check == "broker" && finding.state == State::Failed);
    findings.extend(broker);
    findings.extend([
        check_secrets(args),
        check_livemode(args),
        check_mail(args).await,
    ]);
    findings.extend(check_stripe(args).await);
    findings.push(check_http("gateway", &args.gateway_listen, "/healthz").await);
    findings.push(check_http("gateway readiness", &args.gateway_admin_listen, "/readyz").await);
    findings.push(check_http("worker readiness", &args.worker_admin_listen, "/readyz").await);
    output.print("findings", &findings, |findings| {
        table(
            ["check", "state", "found", "how to mend it"],
            findings.iter().map(|finding| {
                let state = format!("{:?}", finding.state).to_lowercase();
                [
                    finding.check.to_owned(),
                    state,
                    finding.found.clone(),
                    finding.mend.clone().unwrap_or_default(),
                ]
            }),
        )
    })?;
    let failures = findings
        .iter()
        .filter(|finding| finding.state == State::Failed)
        .count();
    match failures {
        0 => Ok(()),
        _ if away => Err(OpsError::Unavailable(format!("{failures} checks failed"))),
        _ => Err(OpsError::Unexpected(format!("{failures} checks failed"))),
    }
}
