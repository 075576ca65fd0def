//! What a test stands on: a fresh database, cloned from a migrated template, and broker names of its own.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use crate::binaries::ops;
use crate::broker;
use crate::eventually;

/// The login that gateways of tests run under: it has the gateway's role and nothing else.
const GATEWAY_LOGIN: &str = "tollgate_test_gateway";
const WORKER_LOGIN: &str = "tollgate_test_worker";
const OPS_LOGIN: &str = "tollgate_test_ops";
const PASSWORD: &str = "tollgate-test";

static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// One test's ground. Dropping it drops the database and the queues.
pub struct TestBed {
    name: String,
    /// For assertions, as the owner of the database.
    pub db: Client,
    directory: TempDir,
}

impl TestBed {
    /// A fresh database and fresh names.
    pub async fn new() -> Self {
        let template = TEMPLATE.get_or_init(create_template).await;
        let name = format!("t_{:016x}", rand::random::<u64>());
        let admin = connect(&server()).await;
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        // Refused while another connection to the template is about to end.
        eventually("the template is cloned", async || {
            admin.batch_execute(&create).await.ok()
        })
        .await;
        let db = connect(&database(&name, None)).await;
        Self {
            name,
            db,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A fresh database without any migration.
    pub async fn unmigrated() -> Self {
        let bed = Self::new().await;
        bed.db
            .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .await
            .unwrap();
        bed
    }

    /// Connects again, after the server was restarted.
    pub async fn reconnect(&mut self) {
        let config = database(&self.name, None);
        self.db = eventually("the database is back", async || {
            let (client, connection) = config.connect(NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(Connected(client))
        })
        .await
        .0;
    }

    /// Prepended to exchange and queue names.
    pub fn prefix(&self) -> String {
        format!("{}.", self.name)
    }

    /// A directory of this test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where mails are written.
    pub fn mail_dir(&self) -> PathBuf {
        self.path("mail")
    }

    /// The database as its owner.
    pub fn owner_url(&self) -> String {
        url(&database(&self.name, None))
    }

    /// The database under the gateway's role.
    pub fn gateway_url(&self) -> String {
        url(&database(&self.name, Some(GATEWAY_LOGIN)))
    }

    /// The database under the worker's role.
    pub fn worker_url(&self) -> String {
        url(&database(&self.name, Some(WORKER_LOGIN)))
    }

    /// The database under the role of operators.
    pub fn ops_url(&self) -> String {
        url(&database(&self.name, Some(OPS_LOGIN)))
    }

    /// The one row of a query.
    pub async fn row(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Row {
        self.db.query_one(sql, params).await.unwrap()
    }

    /// The one number of a query.
    pub async fn count(&self, sql: &str) -> i64 {
        self.row(sql, &[]).await.get(0)
    }

    /// The one text of a query.
    pub async fn text(&self, sql: &str) -> String {
        self.row(sql, &[]).await.get(0)
    }

    /// An event's state; empty where it is not stored.
    pub async fn state(&self, event_id: &str) -> String {
        let sql = "SELECT state FROM webhook_events WHERE id = $1";
        self.db
            .query_opt(sql, &[&event_id])
            .await
            .unwrap()
            .map_or(String::new(), |row| row.get(0))
    }

    /// Waits until an event has a state.
    pub async fn until_state(&self, event_id: &str, state: &str) {
        let mut last = String::new();
        eventually(&format!("{event_id} is {state}"), async || {
            last = self.state(event_id).await;
            (last == state).then_some(())
        })
        .await;
    }

    /// Waits until a query counts `expected`.
    pub async fn until_count(&self, sql: &str, expected: i64) {
        eventually(&format!("{expected} = {sql}"), async || {
            (self.count(sql).await == expected).then_some(())
        })
        .await;
    }

    /// Waits until a query counts more than nothing.
    pub async fn until_some(&self, sql: &str) {
        let look = async || (self.count(sql).await > 0).then_some(());
        eventually(&format!("0 < {sql}"), look).await;
    }

    /// Loads one order of two seats at 25.00 USD.
    pub async fn seed_order(&self, id: &str) {
        let order = json!({ "id": id, "user_id": "u_1", "email": "buyer@example.com",
            "items": [{ "product": "ga", "quantity": 2 }] });
        self.seed(
            &json!({ "products": [{ "id": "ga", "kind": "seat", "name": "General admission",
            "unit_amount_cents": 2500, "currency": "usd", "capacity": 100 }], "orders": [order] }),
        )
        .await;
    }

    /// Loads a catalogue and orders with the real command.
    pub async fn seed(&self, content: &Value) {
        let file = self.path("seed.json");
        std::fs::write(&file, content.to_string()).unwrap();
        ops(self, &["seed", file.to_str().unwrap()])
            .await
            .expect_code(0);
    }

    /// Every invariant that must hold whatever happened: effects once per key, attempts contiguous, states consistent.
    pub async fn check_invariants(&self) {
        for (invariant, sql) in [
            ("one ticket per active seat", "
                SELECT count(*) FROM registrations r LEFT JOIN tickets t ON t.registration_id = r.id AND t.status = 'valid'
                WHERE (r.status = 'active') <> (t.id IS NOT NULL)"),
            (
                "no product is oversold",
                "SELECT count(*) FROM products p WHERE capacity <
                    (SELECT count(*) FROM registrations r WHERE r.product_id = p.id AND r.status = 'active')",
            ),
            (
                "seats that are gone are counted",
                "SELECT count(*) FROM (SELECT FROM registrations r LEFT JOIN product_seats s USING (product_id)
                GROUP BY product_id, s.active, s.offered
                HAVING coalesce(s.active, 0) <> count(*) FILTER (WHERE status = 'active')
                    OR coalesce(s.offered, 0) <> count(*) FILTER (WHERE status = 'offered')) wrong",
            ),
            (
                "an order is paid for what it is worth",
                "SELECT count(*) FROM orders o JOIN payments p ON p.order_id = o.id
                WHERE p.succeeded AND (p.amount_cents <> o.amount_cents OR p.currency <> o.currency)",
            ),
            ("one mail per order, kind and key", "
                SELECT count(*) FROM (SELECT FROM emails GROUP BY order_id, kind, key HAVING count(*) > 1) twice"),
            ("attempts are contiguous and counted", "
                SELECT count(*) FROM webhook_events e WHERE attempts <> (SELECT count(*) FROM event_attempts a WHERE a.event_id = e.id)
                    OR attempts <> (SELECT coalesce(max(number), 0) FROM event_attempts a WHERE a.event_id = e.id)"),
            ("a dead event has one open dead letter", "
                SELECT count(*) FROM webhook_events e WHERE (state = 'dead') <>
                    (1 = (SELECT count(*) FROM dead_letters d WHERE d.event_id = e.id AND resolved_at IS NULL))"),
            ("every event has its body", "
                SELECT count(*) FROM webhook_events e FULL JOIN event_payloads p ON p.event_id = e.id
                WHERE e.id IS NULL OR p.event_id IS NULL"),
            ("a processed event has one successful attempt", "
                SELECT count(*) FROM webhook_events e WHERE state = 'processed' AND 1 <>
                    (SELECT count(*) FROM event_attempts a WHERE a.event_id = e.id AND outcome = 'processed')"),
        ] {
            assert_eq!(self.count(sql).await, 0, "broken invariant: {invariant}");
        }
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        let (name, prefix) = (self.name.clone(), self.prefix());
        // A destructor cannot wait, and the test's runtime is about to end.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let admin = connect(&server()).await;
                let dropped = admin
                    .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                    .await;
                broker::delete_topology(&prefix).await;
                dropped
            })
        });
        let _ = cleaning.join();
    }
}

fn env(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests with ./deploy/test"))
}

/// The broker's URI.
pub fn amqp_url() -> String {
    env("AMQP_URL")
}

fn server() -> Config {
    env("DATABASE_URL")
        .parse()
        .expect("DATABASE_URL is a connection string")
}

fn database(name: &str, login: Option<&str>) -> Config {
    let mut config = server();
    config.dbname(name);
    if let Some(login) = login {
        config.user(login).password(PASSWORD);
    }
    config
}

/// A client of `tokio_postgres` cannot be printed.
struct Connected(Client);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a client")
    }
}

/// As a URL, for the services.
fn url(config: &Config) -> String {
    let (host, port) = address(config);
    let user = config.get_user().unwrap_or("postgres");
    let password = config
        .get_password()
        .map(|password| format!(":{}", String::from_utf8_lossy(password)));
    let dbname = config.get_dbname().unwrap_or("postgres");
    format!(
        "postgres://{user}{}@{host}:{port}/{dbname}",
        password.unwrap_or_default()
    )
}

fn address(config: &Config) -> (String, u16) {
    let host = match config.get_hosts() {
        [tokio_postgres::config::Host::Tcp(host), ..] => host.clone(),
        _ => panic!(
            "the tests reach the database over TCP, so that they can cut it off: DATABASE_URL names no host"
        ),
    };
    (host, config.get_ports().first().copied().unwrap_or(5432))
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .expect("the database of DATABASE_URL answers");
    tokio::spawn(connection);
    client
}

/// A database that is migrated by the real command, once per run.
async fn create_template() -> String {
    let name = format!("template_{:016x}", rand::random::<u64>());
    let admin = connect(&server()).await;
    admin
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    let mut client = connect(&database(&name, None)).await;
    let migrated = shared::migrations::migrate(&mut client).await.unwrap();
    assert!(
        migrated.roles,
        "the user of DATABASE_URL must be allowed to create roles"
    );
    for (login, role) in [
        (GATEWAY_LOGIN, "tollgate_gateway"),
        (WORKER_LOGIN, "tollgate_worker"),
        (OPS_LOGIN, "tollgate_ops"),
    ] {
        let sql = format!(
            "DO $$ BEGIN CREATE ROLE {login} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
             ALTER ROLE {login} PASSWORD '{PASSWORD}'; GRANT {role} TO {login}"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    name
}
