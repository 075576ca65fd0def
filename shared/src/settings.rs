//! Reads settings so that every problem is reported at once. Does not read the environment itself: clap does.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::broker::BrokerSettings;
use crate::telemetry::LogFormat;

/// The settings that every service takes.
#[derive(Args)]
pub struct ServiceArgs {
    /// PostgreSQL connection string, e.g. postgres://user:password@host:5432/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// RabbitMQ URI, e.g. amqp://user:password@host:5672/%2f
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: Option<String>,
    /// Prepended to exchange and queue names, so that several installations can share one virtual host
    #[arg(
        long,
        env = "AMQP_PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    amqp_prefix: String,
    /// Log lines as `json` or `text`
    #[arg(long, env = "LOG_FORMAT", default_value = "json")]
    log_format: String,
    /// Check the settings, say what is wrong with them, and end
    #[arg(long)]
    check: bool,
}

/// The settings that every service takes, parsed.
pub struct ServiceSettings {
    /// Where the truth is.
    pub database: tokio_postgres::Config,
    /// Where the messages travel.
    pub broker: BrokerSettings,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether that was all that was asked for.
    pub only_check: bool,
}

impl ServiceArgs {
    /// Parses what was given; `None` when `check` holds a problem with it.
    pub fn parse(&self, check: &mut Check) -> Option<ServiceSettings> {
        let database = check.required("DATABASE_URL", self.database_url.as_deref(), database_url);
        let amqp_uri = check.required("AMQP_URL", self.amqp_url.as_deref(), amqp_uri);
        let prefix = check.value("AMQP_PREFIX", &self.amqp_prefix, amqp_prefix);
        let log_format = check.value("LOG_FORMAT", &self.log_format, LogFormat::from_str);
        Some(ServiceSettings {
            database: database?,
            broker: BrokerSettings::new(amqp_uri?, prefix?),
            log_format: log_format?,
            only_check: self.check,
        })
    }
}

/// Collects the problems of all settings.
#[derive(Default)]
pub struct Check {
    problems: Vec<String>,
}

impl Check {
    /// Parses one setting that has a value.
    pub fn value<T>(
        &mut self,
        name: &str,
        raw: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(raw.trim())
            .map_err(|problem| self.problem(format!("{name} {problem}")))
            .ok()
    }

    /// Parses one setting that must be given.
    pub fn required<T>(
        &mut self,
        name: &str,
        raw: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match raw.map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) => self.value(name, text, parse),
            None => {
                self.problem(format!("{name} is not set"));
                None
            }
        }
    }

    /// Notes a problem found elsewhere.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The settings, if none of them had a problem.
    pub fn finish<T>(self, settings: Option<T>) -> Result<T, Problems> {
        match settings {
            Some(settings) if self.problems.is_empty() => Ok(settings),
            _ => Err(Problems(self.problems)),
        }
    }
}

/// Every problem of the settings; `Display` prints one a line.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl Problems {
    /// What is wrong, one text a problem.
    pub fn texts(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "error: {problem}")?;
        }
        write!(f, "see --help for every setting")
    }
}

impl std::error::Error for Problems {}

/// `host:port` with a numeric address.
pub fn address(raw: &str) -> Result<SocketAddr, String> {
    raw.parse()
        .map_err(|_| format!("must be an address such as 127.0.0.1:8080, not `{raw}`"))
}

/// A whole number of at least `least`.
pub fn count<T: FromStr + PartialOrd + fmt::Display>(
    least: T,
) -> impl FnOnce(&str) -> Result<T, String> {
    move |raw| {
        let value: T = raw
            .parse()
            .map_err(|_| format!("must be a whole number, not `{raw}`"))?;
        if value < least {
            Err(format!("must be at least {least}"))
        } else {
            Ok(value)
        }
    }
}

/// `true` or `false`.
pub fn boolean(raw: &str) -> Result<bool, String> {
    raw.parse()
        .map_err(|_| format!("must be `true` or `false`, not `{raw}`"))
}

/// A duration above zero: a number with `ms`, `s`, `m`, `h` or `d`; a bare number means seconds.
pub fn duration(raw: &str) -> Result<Duration, String> {
    let problem =
        || format!("must be a duration above zero such as 500ms, 30s, 5m or 2h, not `{raw}`");
    let digits = raw
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(raw.len());
    let (number, unit) = raw.split_at(digits);
    let seconds_per_unit = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(problem()),
    };
    let seconds: f64 = number.parse().map_err(|_| problem())?;
    match Duration::try_from_secs_f64(seconds * seconds_per_unit) {
        Ok(duration) if !duration.is_zero() && duration <= MAX_DURATION => Ok(duration),
        _ => Err(problem()),
    }
}

const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);

/// A PostgreSQL connection string. The message never repeats it: it may hold a password.
pub fn database_url(raw: &str) -> Result<tokio_postgres::Config, String> {
    let config: tokio_postgres::Config = raw.parse().map_err(
        |_| "is not a PostgreSQL connection string (postgres://user@host:5432/database)",
    )?;
    if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require {
        return Err("asks for TLS, which this version does not have".to_owned());
    }
    if config.get_hosts().is_empty() {
        Err("names no host".to_owned())
    } else {
        Ok(config)
    }
}

/// `amqp://host/` strictly names a virtual host without a name; who writes it means the default one.
fn amqp_uri(raw: &str) -> Result<lapin::uri::AMQPUri, String> {
    let uri: Result<lapin::uri::AMQPUri, String> = raw.parse();
    let mut uri =
        uri.map_err(|_| "is not an AMQP URI (amqp://user:password@host:5672/%2f)".to_owned())?;
    if uri.scheme == lapin::uri::AMQPScheme::AMQPS {
        return Err("asks for TLS, which this version does not have".to_owned());
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    Ok(uri)
}

fn amqp_prefix(raw: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if raw.len() <= 100 && raw.chars().all(allowed) {
        Ok(raw.to_owned())
    } else {
        Err("must be at most 100 letters, digits, dots, dashes and underscores".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_and_bare_seconds() {
        for (raw, millis) in [
            ("300", 300_000),
            ("500ms", 500),
            ("0.2s", 200),
            ("1.5", 1_500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(raw), Ok(Duration::from_millis(millis)), "{raw}");
        }
    }

    #[test]
    fn durations_refuse_what_is_not_a_bounded_time() {
        for raw in [
            "",
            "s",
            "0",
            "0ms",
            "-1",
            "1y",
            "1e9d",
            "9999999999d",
            "nan",
            "inf",
        ] {
            assert!(duration(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn urls_are_read_as_they_are_meant() {
        for (raw, vhost) in [
            ("amqp://h", "/"),
            ("amqp://h/", "/"),
            ("amqp://h/%2f", "/"),
            ("amqp://h/a", "a"),
        ] {
            assert_eq!(amqp_uri(raw).unwrap().vhost, vhost, "{raw}");
        }
        assert!(database_url("postgres://u@h/d?sslmode=prefer").is_ok());
        assert!(
            database_url("postgres://u@h/d?sslmode=require")
                .unwrap_err()
                .contains("TLS")
        );
        assert!(database_url("postgres://").is_err());
        assert!(amqp_uri("amqps://h").unwrap_err().contains("TLS"));
    }

    #[test]
    fn every_problem_is_reported_at_once_and_no_password_with_it() {
        let mut check = Check::default();
        check.required(
            "DATABASE_URL",
            Some("postgres://user:hunter2@[bad"),
            database_url,
        );
        check.required("AMQP_URL", Some(" "), amqp_uri);
        check.value("PORT", "x", address);
        let problems = check.finish(Some(())).unwrap_err().to_string();
        assert!(
            problems.contains("DATABASE_URL") && problems.contains("AMQP_URL is not set"),
            "{problems}"
        );
        assert!(
            problems.contains("PORT") && !problems.contains("hunter2"),
            "{problems}"
        );
    }
}
