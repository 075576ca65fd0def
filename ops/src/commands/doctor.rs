//! `ops doctor`: every dependency, setting and privilege, what is wrong, and how to mend it.

use std::path::PathBuf;
use std::time::Duration;

use deadpool_postgres::Object;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use serde::Serialize;
use shared::broker::{BrokerSettings, within};
use shared::database::{query, query_opt};
use shared::migrations::require_current;
use shared::settings::Check;
use shared::stripe::{Query, StripeArgs};
use tokio::net::TcpStream;

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

async fn check_database(client: &Object) -> Result<Vec<Finding>, OpsError> {
    const SERVER: &str = "
        SELECT current_setting('server_version'), current_setting('server_version_num')::integer,
            current_setting('fsync'), current_setting('full_page_writes'),
            (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
            current_setting('transaction_read_only'), current_user::text,
            extract(epoch FROM clock_timestamp())::float8";
    let row = query_opt(client, SERVER, &[])
        .await?
        .ok_or_else(|| OpsError::Unexpected("no answer".to_owned()))?;
    let (version, number, user): (String, i32, String) = (row.get(0), row.get(1), row.get(6));
    let mut findings = vec![match number {
        140_000.. => ok("database", format!("PostgreSQL {version} as {user}")),
        _ => failed(
            "database",
            format!("PostgreSQL {version}"),
            "use PostgreSQL 14 or later",
        ),
    }];
    for (check, value) in [
        ("fsync", row.get::<_, String>(2)),
        ("full_page_writes", row.get(3)),
    ] {
        findings.push(match value.as_str() {
            "on" => ok(check, "on"),
            _ => failed(
                check,
                value,
                format!("set {check} = on in postgresql.conf: a crash would lose accepted events"),
            ),
        });
    }
    let synchronous: String = row.get(4);
    findings.push(match synchronous.as_str() {
        "off" | "local" | "remote_write" => warning(
            "synchronous_commit",
            synchronous,
            "the services overrule it; set it to on for other programs",
        ),
        _ => ok("synchronous_commit", synchronous),
    });
    findings.push(match row.get::<_, &str>(5) {
        "off" => ok("writable", "yes"),
        _ => failed("writable", "read-only", "point DATABASE_URL at the primary"),
    });
    findings.push(check_clock(row.get(7)));
    findings.push(match require_current(&***client).await {
        Ok(()) => ok("schema", "current"),
        Err(error) => failed("schema", error.to_string(), "run `ops migrate`"),
    });
    if findings
        .iter()
        .all(|finding| finding.check != "schema" || finding.state == State::Ok)
    {
        findings.extend(check_privileges(client).await?);
    }
    Ok(findings)
}

fn check_clock(database_s: f64) -> Finding {
    let skew_s = (jiff::Timestamp::now().as_duration().as_secs_f64() - database_s).abs();
    if skew_s < 5.0 {
        ok("clock", format!("{skew_s:.1} s from the database's"))
    } else {
        warning(
            "clock",
            format!("{skew_s:.0} s from the database's"),
            "run NTP: signatures are checked against the clock",
        )
    }
}

async fn check_privileges(client: &Object) -> Result<Vec<Finding>, OpsError> {
    const ROLES: &str = "
        SELECT wanted FROM unnest(ARRAY['tollgate_gateway', 'tollgate_worker', 'tollgate_ops', 'tollgate_readonly']) wanted
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)";
    const MINE: &str = "
        SELECT concat_ws(' ', privilege, 'on', relation)
        FROM (VALUES ('webhook_events', 'SELECT'), ('event_attempts', 'SELECT'), ('dead_letters', 'SELECT'),
            ('rejections', 'SELECT'), ('reconciled_events', 'SELECT'), ('outbox', 'INSERT'), ('audit_log', 'INSERT'), ('replays', 'INSERT'),
            ('replay_items', 'INSERT'),
            ('orders', 'INSERT'), ('products', 'INSERT'))
            AS needed (relation, privilege)
        WHERE NOT has_table_privilege(relation, privilege)";
    const EXCESS: &str = "
        SELECT concat_ws(' ', role, 'has', privilege, 'on', relation)
        FROM (VALUES ('tollgate_gateway', 'event_payloads', 'SELECT'), ('tollgate_gateway', 'webhook_events', 'DELETE'),
            ('tollgate_gateway', 'rejections', 'SELECT'),
            ('tollgate_worker', 'event_payloads', 'UPDATE'), ('tollgate_worker', 'audit_log', 'INSERT'),
            ('tollgate_worker', 'webhook_events', 'INSERT'), ('tollgate_ops', 'webhook_events', 'INSERT'),
            ('tollgate_ops', 'audit_log', 'UPDATE'), ('tollgate_ops', 'audit_log', 'DELETE'),
            ('tollgate_readonly', 'event_payloads', 'SELECT'))
            AS forbidden (role, relation, privilege)
        WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = role) AND has_table_privilege(role, relation, privilege)";
    let texts = async |sql: &str| -> Result<Vec<String>, OpsError> {
        Ok(query(client, sql, &[])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect())
    };
    let (roles, mine, excess) = (
        texts(ROLES).await?,
        texts(MINE).await?,
        texts(EXCESS).await?,
    );
    Ok(vec![
        match roles.as_slice() {
            [] => ok("roles", "all there"),
            _ => warning(
                "roles",
                format!("missing: {}", roles.join(", ")),
                "run `ops migrate` as a user who may create roles",
            ),
        },
        match mine.as_slice() {
            [] => ok("privileges", "this user may do all that ops does"),
            _ => failed(
                "privileges",
                format!("lacking: {}", mine.join(", ")),
                "GRANT tollgate_ops TO this user",
            ),
        },
        match excess.as_slice() {
            [] => ok("least privilege", "no role may do more than it needs"),
            _ => warning(
                "least privilege",
                excess.join(", "),
                "REVOKE what was granted by hand",
            ),
        },
    ])
}

async fn check_broker(args: &Args) -> Vec<Finding> {
    let mend =
        "set AMQP_URL to a RabbitMQ that runs, with a user who may configure, write and read";
    let Some(uri) = args
        .amqp_url
        .as_deref()
        .map(str::trim)
        .filter(|url| !url.is_empty())
    else {
        return vec![failed("broker", "AMQP_URL is not set", mend)];
    };
    let Ok(uri) = uri.parse() else {
        return vec![failed("broker", "AMQP_URL is not an AMQP URI", mend)];
    };
    let settings = BrokerSettings {
        uri,
        prefix: args.amqp_prefix.clone(),
    };
    let connection = match settings.connect("tollgate-doctor").await {
        Ok(connection) => connection,
        Err(error) => return vec![failed("broker", error.to_string(), mend)],
    };
    let mut findings = vec![ok("broker", "connected")];
    let topology = settings.topology();
    for (check, queue) in [
        ("work queue", topology.fulfillment),
        ("dead-letter queue", topology.dead),
    ] {
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let asked = async {
            let channel = connection.create_channel().await?;
            channel
                .queue_declare(queue.clone(), passive, FieldTable::default())
                .await
        };
        findings.push(match within(TIMEOUT, asked).await {
            Ok(found) => {
                let (messages, consumers) = (found.message_count(), found.consumer_count());
                ok(
                    check,
                    format!("{queue}: {messages} messages ready, {consumers} consumers"),
                )
            }
            Err(_) => warning(
                check,
                format!("{queue} does not exist"),
                "start a gateway or a worker: they declare it",
            ),
        });
    }
    let _ = within(TIMEOUT, connection.close(200, "bye".into())).await;
    findings
}

fn check_secrets(args: &Args) -> Finding {
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

fn check_livemode(args: &Args) -> Finding {
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

/// Whether the key reads Stripe's list of events; nothing where no key is set.
async fn check_stripe(args: &Args) -> Option<Finding> {
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
    Some(match api.page(&newest).await {
        Ok(_) => ok("stripe", "the key reads Stripe's list of events"),
        Err(error) => failed("stripe", error.to_string(), mend),
    })
}

async fn check_mail(args: &Args) -> Finding {
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

async fn check_http(check: &'static str, address: &str, path: &str) -> Finding {
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
