//! The console's settings as its pages may show them: a secret's value is in none.

use sha2::{Digest, Sha256};

use super::config::{Config, Entry};
use super::passwords;

/// A setting, as pages may show it.
pub struct Setting {
    /// Its variable.
    pub name: &'static str,
    /// Its value; of a secret, what tells it from another.
    pub value: String,
}

impl Config {
    /// Every setting, without secrets.
    pub fn shown(&self) -> Vec<Setting> {
        let or_none = |values: &[String]| match values {
            [] => "none".to_owned(),
            values => values.join(", "),
        };
        let mut shown = vec![
            ("DATABASE_URL", database_shown(&self.database)),
            ("CONSOLE_LISTEN", self.listen.to_string()),
        ];
        shown.extend(self.entry.shown());
        shown.extend([
            ("CONSOLE_HOSTS", or_none(&self.hosts)),
            ("CONSOLE_READ_ONLY", self.read_only.to_string()),
            ("CONSOLE_GATEWAY_ADMIN", or_none(&self.gateways)),
            ("CONSOLE_WORKER_ADMIN", or_none(&self.workers)),
            (
                "LOG_FORMAT",
                format!("{:?}", self.log_format).to_lowercase(),
            ),
        ]);
        let setting = |(name, value)| Setting { name, value };
        shown.into_iter().map(setting).collect()
    }
}

impl Entry {
    fn shown(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Local => {
                let everybody = "none: whoever reaches the loopback address is an operator";
                vec![("CONSOLE_USERS_FILE", everybody.to_owned())]
            }
            Self::Users(file) => {
                let users = passwords::read(file)
                    .map_or_else(|problem| problem, |users| passwords::summary(&users));
                vec![("CONSOLE_USERS_FILE", format!("{}: {users}", file.display()))]
            }
            Self::Proxy(proxy) => vec![
                ("CONSOLE_PROXY_HEADER", proxy.user_header.clone()),
                ("CONSOLE_PROXY_ROLE_HEADER", proxy.role_header.clone()),
                ("CONSOLE_PROXY_SECRET", fingerprint(&proxy.secret)),
            ],
        }
    }
}

/// Tells a secret from another, and nothing else of it: it is too long to be guessed.
fn fingerprint(secret: &str) -> String {
    format!("fingerprint {}", hex::encode(&Sha256::digest(secret)[..4]))
}

fn database_shown(database: &tokio_postgres::Config) -> String {
    use tokio_postgres::config::Host;
    let host = match database.get_hosts() {
        [Host::Tcp(host), ..] => host.clone(),
        [Host::Unix(path), ..] => path.display().to_string(),
        [] => "localhost".to_owned(),
    };
    let (user, port) = (
        database.get_user().unwrap_or("-"),
        database.get_ports().first().copied().unwrap_or(5432),
    );
    let name = database.get_dbname().unwrap_or(user);
    let password = match database.get_password() {
        Some(_) => "a password is given",
        None => "no password is given",
    };
    format!("{name} at {host}:{port} as {user}; {password}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::config::Proxy;
    use shared::telemetry::LogFormat;

    #[test]
    fn no_secret_is_shown() {
        let proxy = Proxy {
            user_header: "x-user".to_owned(),
            role_header: "x-role".to_owned(),
            secret: "0123456789abcdef".to_owned(),
        };
        let config = Config {
            database: "postgres://shop_ops:hunter2@db:5433/shop".parse().unwrap(),
            listen: "127.0.0.1:9090".parse().unwrap(),
            entry: Entry::Proxy(proxy),
            hosts: Vec::new(),
            read_only: false,
            gateways: vec!["http://g:9080".to_owned()],
            workers: Vec::new(),
            log_format: LogFormat::Text,
        };
        let shown: Vec<String> = config
            .shown()
            .iter()
            .map(|setting| format!("{}={}", setting.name, setting.value))
            .collect();
        let shown = shown.join("\n");
        assert!(
            !shown.contains("hunter2") && !shown.contains("0123456789abcdef"),
            "{shown}"
        );
        for told in [
            "DATABASE_URL=shop at db:5433 as shop_ops; a password is given",
            "CONSOLE_PROXY_SECRET=fingerprint 9f9f5111",
            "CONSOLE_WORKER_ADMIN=none",
        ] {
            assert!(shown.contains(told), "no {told} in {shown}");
        }
    }
}
