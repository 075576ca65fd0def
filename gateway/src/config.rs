//! The gateway's settings. The only module that knows their names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use hyper::StatusCode;
use shared::settings::{Check, Problems, ServiceArgs, ServiceSettings, address, count, duration};
use shared::signature::SigningKey;

/// Accepts Stripe's webhooks: verifies the signature, persists the event, publishes it, answers.
#[derive(Parser)]
#[command(name = "gateway", version)]
pub struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    /// Endpoint secrets, separated by commas; any of them may have signed
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
    /// File with endpoint secrets, separated by commas or lines; read again on SIGHUP
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// How far a signature's timestamp may be from now
    #[arg(long, env = "STRIPE_SIGNATURE_TOLERANCE", default_value = "300s")]
    signature_tolerance: String,
    /// Public address for webhooks
    #[arg(long, env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Address for /livez, /readyz and /metrics
    #[arg(long, env = "GATEWAY_ADMIN_LISTEN", default_value = "127.0.0.1:9080")]
    admin_listen: String,
    /// Paths that take webhooks, separated by commas
    #[arg(
        long,
        env = "GATEWAY_WEBHOOK_PATHS",
        default_value = "/webhooks/stripe"
    )]
    webhook_paths: String,
    /// Largest body taken, in bytes
    #[arg(long, env = "GATEWAY_MAX_BODY_BYTES", default_value = "1048576")]
    max_body_bytes: String,
    /// How long one request may take, from its first byte to the answer; connections may idle as long
    #[arg(long, env = "GATEWAY_REQUEST_TIMEOUT", default_value = "10s")]
    request_timeout: String,
    /// Answer to a request whose signature does not verify: 400 or 401
    #[arg(long, env = "GATEWAY_INVALID_SIGNATURE_STATUS", default_value = "400")]
    invalid_signature_status: String,
    /// Requests a minute that may fail verification per client address before the answer becomes 429
    #[arg(long, env = "GATEWAY_INVALID_PER_MINUTE", default_value = "600")]
    invalid_per_minute: String,
    /// Connections at a time; one more takes the place of an idle one
    #[arg(long, env = "GATEWAY_MAX_CONNECTIONS", default_value = "16384")]
    max_connections: String,
    /// Threads that serve requests; one takes more events than one database
    #[arg(long, env = "GATEWAY_THREADS", default_value = "1")]
    threads: String,
    /// Connections that write events; three more do the rest
    #[arg(long, env = "GATEWAY_DB_CONNECTIONS", default_value = "3")]
    db_connections: String,
    /// How long a request waits for the database before the answer becomes 503
    #[arg(long, env = "GATEWAY_DB_TIMEOUT", default_value = "2s")]
    db_timeout: String,
    /// How long the gateway alone may publish an event before the workers' relay takes over
    #[arg(long, env = "OUTBOX_GRACE", default_value = "2s")]
    outbox_grace: String,
}

/// The gateway's settings, parsed.
pub struct Config {
    /// Database, broker, logs.
    pub service: ServiceSettings,
    /// Where the endpoint secrets come from.
    pub secrets: SecretSource,
    /// The keys read at start.
    pub keys: Vec<SigningKey>,
    /// Seconds.
    pub signature_tolerance_s: u64,
    /// Public address.
    pub listen: SocketAddr,
    /// Admin address.
    pub admin_listen: SocketAddr,
    /// Paths that take webhooks.
    pub webhook_paths: Vec<String>,
    /// Largest body.
    pub max_body_bytes: usize,
    /// Deadline of a request.
    pub request_timeout: Duration,
    /// 400 or 401.
    pub invalid_signature_status: StatusCode,
    /// Failed verifications per client and minute.
    pub invalid_per_minute: u32,
    /// Connections at a time.
    pub max_connections: usize,
    /// Threads of the runtime.
    pub threads: usize,
    /// Writers of events, a connection each.
    pub db_connections: usize,
    /// Longest wait for the database.
    pub db_timeout: Duration,
    /// Head start before the relay takes over.
    pub outbox_grace: Duration,
}

/// Where the endpoint secrets come from.
#[derive(Clone)]
pub enum SecretSource {
    /// The environment: fixed until the process ends.
    Environment,
    /// A file, read again on SIGHUP.
    File(PathBuf),
}

impl Config {
    /// Reads arguments and environment; `--help`, `--version` and unknown arguments end the process.
    pub fn from_environment() -> Result<Self, Problems> {
        Self::from_args(&Args::parse())
    }

    /// Checks every setting, and reports every problem at once.
    pub fn from_args(args: &Args) -> Result<Self, Problems> {
        let mut check = Check::default();
        let service = args.service.parse(&mut check);
        let secrets = secrets(args, &mut check);
        let tolerance = check.value(
            "STRIPE_SIGNATURE_TOLERANCE",
            &args.signature_tolerance,
            duration,
        );
        let listen = check.value("GATEWAY_LISTEN", &args.listen, address);
        let admin_listen = check.value("GATEWAY_ADMIN_LISTEN", &args.admin_listen, address);
        let webhook_paths = check.value("GATEWAY_WEBHOOK_PATHS", &args.webhook_paths, paths);
        let max_body_bytes = check.value("GATEWAY_MAX_BODY_BYTES", &args.max_body_bytes, count(1));
        let request_timeout =
            check.value("GATEWAY_REQUEST_TIMEOUT", &args.request_timeout, duration);
        let status = check.value(
            "GATEWAY_INVALID_SIGNATURE_STATUS",
            &args.invalid_signature_status,
            invalid_signature_status,
        );
        let invalid_per_minute = check.value(
            "GATEWAY_INVALID_PER_MINUTE",
            &args.invalid_per_minute,
            count(1),
        );
        let max_connections =
            check.value("GATEWAY_MAX_CONNECTIONS", &args.max_connections, count(1));
        let threads = check.value("GATEWAY_THREADS", &args.threads, count(1));
        let db_connections = check.value("GATEWAY_DB_CONNECTIONS", &args.db_connections, count(1));
        let db_timeout = check.value("GATEWAY_DB_TIMEOUT", &args.db_timeout, duration);
        let outbox_grace = check.value("OUTBOX_GRACE", &args.outbox_grace, duration);
        let config = || {
            let (secrets, keys) = secrets?;
            Some(Self {
                service: service?,
                secrets,
                keys,
                signature_tolerance_s: tolerance?.as_secs(),
                listen: listen?,
                admin_listen: admin_listen?,
                webhook_paths: webhook_paths?,
                max_body_bytes: max_body_bytes?,
                request_timeout: request_timeout?,
                invalid_signature_status: status?,
                invalid_per_minute: invalid_per_minute?,
                max_connections: max_connections?,
                threads: threads?,
                db_connections: db_connections?,
                db_timeout: db_timeout?,
                outbox_grace: outbox_grace?,
            })
        };
        check.finish(config())
    }
}

impl SecretSource {
    /// Reads a file's keys; `None` where the source cannot change.
    pub fn reload(&self) -> Option<Result<Vec<SigningKey>, String>> {
        match self {
            Self::Environment => None,
            Self::File(path) => Some(read_keys(path)),
        }
    }
}

fn secrets(args: &Args, check: &mut Check) -> Option<(SecretSource, Vec<SigningKey>)> {
    match (&args.webhook_secret, &args.webhook_secret_file) {
        (Some(_), Some(_)) => {
            check.problem(
                "STRIPE_WEBHOOK_SECRET and STRIPE_WEBHOOK_SECRET_FILE are both set: choose one"
                    .to_owned(),
            );
            None
        }
        (None, Some(path)) => {
            let path = path.clone();
            let keys = check.value("STRIPE_WEBHOOK_SECRET_FILE", "", |_| read_keys(&path))?;
            Some((SecretSource::File(path), keys))
        }
        (text, None) => {
            let keys = check.required("STRIPE_WEBHOOK_SECRET", text.as_deref(), parse_keys)?;
            Some((SecretSource::Environment, keys))
        }
    }
}

fn read_keys(path: &std::path::Path) -> Result<Vec<SigningKey>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    parse_keys(&text)
}

/// The message never repeats a secret.
fn parse_keys(raw: &str) -> Result<Vec<SigningKey>, String> {
    let secrets = raw
        .split([',', '\n'])
        .map(str::trim)
        .filter(|secret| !secret.is_empty());
    let keys: Vec<SigningKey> = secrets.map(SigningKey::new).collect();
    if keys.is_empty() {
        Err("holds no secret".to_owned())
    } else {
        Ok(keys)
    }
}

fn paths(raw: &str) -> Result<Vec<String>, String> {
    let paths: Vec<String> = raw
        .split(',')
        .map(str::trim)
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect();
    let proper = |path: &String| {
        path.starts_with('/') && path != "/healthz" && !path.contains(['?', '#', ' '])
    };
    if paths.is_empty() || !paths.iter().all(proper) {
        return Err(format!(
            "must be paths such as /webhooks/stripe, other than /healthz, not `{raw}`"
        ));
    }
    Ok(paths)
}

fn invalid_signature_status(raw: &str) -> Result<StatusCode, String> {
    match raw {
        "400" => Ok(StatusCode::BAD_REQUEST),
        "401" => Ok(StatusCode::UNAUTHORIZED),
        _ => Err(format!("must be 400 or 401, not `{raw}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, Problems> {
        let required = [
            "gateway",
            "--database-url=postgres://a@localhost/b",
            "--amqp-url=amqp://localhost",
        ];
        Config::from_args(&Args::try_parse_from(required.iter().chain(args)).unwrap())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = parse(&["--webhook-secret=whsec_1, whsec_2"]).ok().unwrap();
        assert_eq!(config.keys.len(), 2);
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9080");
        assert_eq!(config.webhook_paths, ["/webhooks/stripe"]);
        assert_eq!(
            (config.max_body_bytes, config.signature_tolerance_s),
            (1_048_576, 300)
        );
        assert_eq!(config.invalid_signature_status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn every_problem_is_named_at_once_without_a_secret() {
        let args = [
            "--webhook-secret= , ",
            "--listen=here",
            "--max-body-bytes=0",
            "--webhook-paths=x",
            "--request-timeout=0s",
        ];
        let problems = parse(&args).err().unwrap().to_string();
        for name in [
            "STRIPE_WEBHOOK_SECRET",
            "GATEWAY_LISTEN",
            "GATEWAY_MAX_BODY_BYTES",
            "GATEWAY_WEBHOOK_PATHS",
            "GATEWAY_REQUEST_TIMEOUT",
        ] {
            assert!(problems.contains(name), "{problems}");
        }
    }

    #[test]
    fn secrets_come_from_one_place() {
        let problems = parse(&["--webhook-secret=whsec_canary", "--webhook-secret-file=/x"])
            .err()
            .unwrap()
            .to_string();
        assert!(
            problems.contains("choose one") && !problems.contains("canary"),
            "{problems}"
        );
        assert!(parse(&["--webhook-secret-file=/nonexistent"]).is_err());
    }
}
