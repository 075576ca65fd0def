//! Several database hosts: one that takes connections and then says nothing must not keep a pool from the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::{ConfigConnectImpl, Connect};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, Error, NoTls};

/// Asks one host after the other, that which answered last first. tokio-postgres does so too, but bounds only the
/// connecting, not what a server says then.
pub struct Hosts {
    connector: ConfigConnectImpl<NoTls>,
    hosts: Vec<Config>,
    /// How long each but the last may take until it is ready; the pool bounds them all.
    share: Duration,
    answered: AtomicUsize,
}

impl Hosts {
    /// All hosts of a configuration, which has one at the least, for a pool that waits this long for a connection.
    pub fn new(config: &Config, wait: Duration) -> Self {
        let hosts: Vec<Config> = match config.get_hosts() {
            [] | [_] => vec![config.clone()],
            hosts => (0..hosts.len()).map(|host| only(config, host)).collect(),
        };
        let shares = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        Self {
            connector: ConfigConnectImpl { tls: NoTls },
            // What is left is for the first statement.
            share: wait / shares.saturating_add(1),
            hosts,
            answered: AtomicUsize::default(),
        }
    }
}

impl Connect for Hosts {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        async {
            let first = self.answered.load(Ordering::Relaxed);
            let mut order = (0..self.hosts.len()).map(|step| (first + step) % self.hosts.len());
            let last = order.next_back().unwrap_or(first);
            for host in order {
                let connected = self.connector.connect(&self.hosts[host]);
                if let Ok(Ok(connected)) = timeout(self.share, connected).await {
                    self.answered.store(host, Ordering::Relaxed);
                    return Ok(connected);
                }
            }
            let connected = self.connector.connect(&self.hosts[last]).await?;
            self.answered.store(last, Ordering::Relaxed);
            Ok(connected)
        }
        .boxed()
    }
}

/// The same configuration with one of its hosts.
fn only(config: &Config, host: usize) -> Config {
    let mut one = Config::new();
    one.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .target_session_attrs(config.get_target_session_attrs())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle());
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(limit) = config.get_connect_timeout() {
        one.connect_timeout(*limit);
    }
    if let Some(limit) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*limit);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    match &config.get_hosts()[host] {
        Host::Tcp(name) => one.host(name),
        Host::Unix(folder) => one.host_path(folder),
    };
    if let Some(address) = config.get_hostaddrs().get(host) {
        one.hostaddr(*address);
    }
    let ports = config.get_ports();
    if let Some(port) = ports.get(host).or(ports.first()) {
        one.port(*port);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_keeps_its_port_and_all_that_is_said_of_both() {
        let both: Config = "postgres://u:p@one:1,two:2/d?options=-cx%3D1&keepalives=0"
            .parse()
            .unwrap();
        for (host, expected) in ["postgres://u:p@one:1/d", "postgres://u:p@two:2/d"]
            .iter()
            .enumerate()
        {
            let expected: Config = format!("{expected}?options=-cx%3D1&keepalives=0")
                .parse()
                .unwrap();
            assert_eq!(only(&both, host), expected);
        }
        let one_port: Config = "host=one,two port=7 user=u".parse().unwrap();
        assert_eq!(
            only(&one_port, 1),
            "host=two port=7 user=u".parse().unwrap()
        );
    }

    #[tokio::test]
    async fn a_host_that_takes_connections_and_says_nothing_leaves_time_for_the_others() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (silent_port, closed_port) = (
            silent.local_addr().unwrap().port(),
            closed.local_addr().unwrap().port(),
        );
        drop(closed);
        let both: Config =
            format!("postgres://u@127.0.0.1:{silent_port},127.0.0.1:{closed_port}/d")
                .parse()
                .unwrap();
        let wait = Duration::from_secs(2);
        let refused = timeout(wait, Hosts::new(&both, wait).connect(&both)).await;
        assert!(
            refused.unwrap().is_err(),
            "the second one was asked in time"
        );
    }
}
