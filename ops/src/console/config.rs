//! The console's settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use shared::settings::{Check, Problems, address, boolean, database_url};
use shared::telemetry::LogFormat;
use std::str::FromStr;

use super::auth::SECRET_HEADER;
use super::passwords;

/// What `ops console` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Address of the console; another than loopback needs CONSOLE_USERS_FILE or CONSOLE_PROXY_HEADER
    #[arg(long, env = "CONSOLE_LISTEN", default_value = "127.0.0.1:9090")]
    pub listen: String,
    /// File of users, one a line: `name:viewer|operator|admin:hash`, with hashes of `ops console hash-password`
    #[arg(long, env = "CONSOLE_USERS_FILE")]
    pub users_file: Option<PathBuf>,
    /// Header in which a trusted proxy names the user
    #[arg(long, env = "CONSOLE_PROXY_HEADER")]
    pub proxy_header: Option<String>,
    /// Header in which that proxy tells the user's role; without it everybody is a viewer
    #[arg(
        long,
        env = "CONSOLE_PROXY_ROLE_HEADER",
        default_value = "x-console-role"
    )]
    pub proxy_role_header: String,
    /// What that proxy proves itself with, in the header `x-console-proxy-secret`; 16 characters or more
    #[arg(long, env = "CONSOLE_PROXY_SECRET", hide_env_values = true)]
    pub proxy_secret: Option<String>,
    /// Names in the Host header that are taken beside the loopback's, separated by commas
    #[arg(
        long,
        env = "CONSOLE_HOSTS",
        default_value = "",
        hide_default_value = true
    )]
    pub hosts: String,
    /// Change nothing, whoever asks: true or false
    #[arg(long, env = "CONSOLE_READ_ONLY", default_value = "false")]
    pub read_only: String,
    /// Admin addresses of gateways, separated by commas
    #[arg(
        long,
        env = "CONSOLE_GATEWAY_ADMIN",
        default_value = "http://127.0.0.1:9080"
    )]
    pub gateway_admin: String,
    /// Admin addresses of workers, separated by commas
    #[arg(
        long,
        env = "CONSOLE_WORKER_ADMIN",
        default_value = "http://127.0.0.1:9081"
    )]
    pub worker_admin: String,
    /// Log lines as `json` or `text`
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: String,
    #[command(subcommand)]
    pub(super) command: Option<super::Command>,
}

/// Who is let in.
pub enum Entry {
    /// Whoever reaches the loopback address, as an operator.
    Local,
    /// Users of a file, by HTTP Basic.
    Users(PathBuf),
    /// Users that a trusted proxy names.
    Proxy(Proxy),
}

/// How a trusted proxy tells who asks.
pub struct Proxy {
    /// The header with the user's name.
    pub user_header: String,
    /// The header with the role.
    pub role_header: String,
    /// What the proxy proves itself with.
    pub secret: String,
}

/// The settings, parsed.
pub struct Config {
    /// Where the truth is.
    pub database: tokio_postgres::Config,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Who is let in.
    pub entry: Entry,
    /// Names in the Host header beside the loopback's.
    pub hosts: Vec<String>,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Admin addresses of gateways.
    pub gateways: Vec<String>,
    /// Admin addresses of workers.
    pub workers: Vec<String>,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// The shortest secret of a proxy.
const MIN_SECRET: usize = 16;

impl Config {
    /// Reads the settings; every problem is told at once.
    pub fn from_args(database: Option<&str>, args: &Args) -> Result<Self, Problems> {
        let mut check = Check::default();
        let database = check.required("DATABASE_URL", database, database_url);
        let listen = check.value("CONSOLE_LISTEN", &args.listen, address);
        let entry = entry(&mut check, args);
        if let (Some(listen), Some(Entry::Local)) = (listen, &entry)
            && !listen.ip().is_loopback()
        {
            check.problem(format!(
                "CONSOLE_LISTEN {listen} can be reached from outside: set CONSOLE_USERS_FILE or CONSOLE_PROXY_HEADER, \
                 or listen on 127.0.0.1"
            ));
        }
        let read_only = check.value("CONSOLE_READ_ONLY", &args.read_only, boolean);
        let gateways = check.value("CONSOLE_GATEWAY_ADMIN", &args.gateway_admin, admin_urls);
        let workers = check.value("CONSOLE_WORKER_ADMIN", &args.worker_admin, admin_urls);
        let log_format = check.value("LOG_FORMAT", &args.log_format, LogFormat::from_str);
        let settings = (|| {
            Some(Self {
                database: database?,
                listen: listen?,
                entry: entry?,
                hosts: list(&args.hosts).map(str::to_lowercase).collect(),
                read_only: read_only?,
                gateways: gateways?,
                workers: workers?,
                log_format: log_format?,
            })
        })();
        check.finish(settings)
    }
}

fn entry(check: &mut Check, args: &Args) -> Option<Entry> {
    let given = |raw: &Option<String>| {
        raw.as_deref()
            .map(str::trim)
            .filter(|raw| !raw.is_empty())
            .map(str::to_owned)
    };
    match (&args.users_file, given(&args.proxy_header)) {
        (None, None) => Some(Entry::Local),
        (Some(_), Some(_)) => {
            check.problem("CONSOLE_USERS_FILE and CONSOLE_PROXY_HEADER exclude each other".into());
            None
        }
        (Some(file), None) => match passwords::read(file) {
            Ok(_) => Some(Entry::Users(file.clone())),
            Err(problem) => {
                check.problem(format!("CONSOLE_USERS_FILE {problem}"));
                None
            }
        },
        (None, Some(user_header)) => {
            let user_header = check.value("CONSOLE_PROXY_HEADER", &user_header, header_name);
            let role = &args.proxy_role_header;
            let role_header = check.value("CONSOLE_PROXY_ROLE_HEADER", role, header_name);
            let secret = given(&args.proxy_secret);
            let secret = check.required("CONSOLE_PROXY_SECRET", secret.as_deref(), secret_text);
            if user_header == role_header
                || [&user_header, &role_header]
                    .into_iter()
                    .flatten()
                    .any(|name| name == SECRET_HEADER)
            {
                check.problem(format!(
                    "CONSOLE_PROXY_HEADER, CONSOLE_PROXY_ROLE_HEADER and {SECRET_HEADER} must be three headers"
                ));
            }
            Some(Entry::Proxy(Proxy {
                user_header: user_header?,
                role_header: role_header?,
                secret: secret?,
            }))
        }
    }
}

fn secret_text(raw: &str) -> Result<String, String> {
    if raw.len() < MIN_SECRET {
        Err(format!("must have {MIN_SECRET} characters or more"))
    } else {
        Ok(raw.to_owned())
    }
}

fn header_name(raw: &str) -> Result<String, String> {
    match raw.parse::<hyper::header::HeaderName>() {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(format!("is not the name of a header: `{raw}`")),
    }
}

fn list(raw: &str) -> impl Iterator<Item = &str> {
    raw.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn admin_urls(raw: &str) -> Result<Vec<String>, String> {
    list(raw)
        .map(|url| {
            if url.starts_with("http://") {
                Ok(url.trim_end_matches('/').to_owned())
            } else {
                Err(format!(
                    "must hold URLs such as http://127.0.0.1:9080, not `{url}`"
                ))
            }
        })
        .collect()
}
