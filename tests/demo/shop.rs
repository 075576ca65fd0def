//! The demo's view of the system: it posts events like Stripe, runs `ops`, and looks into the database.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shared::signature::SigningKey;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

/// The running system.
pub struct Shop {
    gateway: String,
    key: SigningKey,
    http: reqwest::Client,
    db: Client,
}

/// An answer of the gateway.
pub struct Posted {
    /// HTTP status.
    pub status: u16,
    /// The answer's body.
    pub body: Value,
    /// From the request to the answer.
    pub took_ms: f64,
    /// When it was there.
    pub at: Timestamp,
}

const DEADLINE: Duration = Duration::from_secs(30);

impl Shop {
    /// Connects to what the environment names, and loads the sample orders.
    pub async fn open() -> Result<Self> {
        let env = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set: run ./deploy/demo"))
        };
        let (db, connection) = tokio_postgres::connect(&env("DATABASE_URL")?, NoTls).await?;
        tokio::spawn(connection);
        let secrets = env("STRIPE_WEBHOOK_SECRET")?;
        let secret = secrets.split(',').next().unwrap_or_default().trim();
        let gateway = format!("http://{}", env("GATEWAY_LISTEN")?);
        let shop = Self {
            gateway,
            key: SigningKey::new(secret),
            http: reqwest::Client::new(),
            db,
        };
        // The first request pays for connections; it must not colour the figures.
        shop.http
            .get(format!("{}/healthz", shop.gateway))
            .send()
            .await?;
        Ok(shop)
    }

    /// Loads a seat at 25.00 USD, a course at 99.00 USD, and orders of two seats; one of them buys the course too.
    pub async fn seed(&self, orders: &[&str]) -> Result<()> {
        let order = |id: &&str| {
            let mut items = vec![json!({ "product": "ga", "quantity": 2 })];
            if id.contains("course") {
                items.push(json!({ "product": "rust-101", "quantity": 1 }));
            }
            json!({ "id": id, "user_id": format!("user_of_{id}"), "email": "buyer@example.com",
                "provider_checkout_ref": format!("pi_{id}"), "items": items })
        };
        let seed = json!({
            "products": [
                { "id": "ga", "kind": "seat", "name": "General admission", "unit_amount_cents": 2500, "currency": "usd",
                    "capacity": 100 },
                { "id": "rust-101", "kind": "course", "name": "Rust 101", "unit_amount_cents": 9900, "currency": "usd" }
            ],
            "orders": orders.iter().map(order).collect::<Vec<_>>()
        });
        self.load(&seed).await
    }

    /// Loads one front row seat, an order of it, and an order that waits for it.
    pub async fn seed_front_row(&self, first: &str, next: &str) -> Result<()> {
        let order = |id: &str, waitlisted: bool| {
            json!({ "id": id, "email": "buyer@example.com", "waitlisted": waitlisted,
                "items": [{ "product": "front-row", "quantity": 1 }] })
        };
        let product = json!({ "id": "front-row", "kind": "seat", "name": "Front row", "unit_amount_cents": 5000,
            "currency": "usd", "capacity": 1 });
        let orders = [order(first, false), order(next, true)];
        self.load(&json!({ "products": [product], "orders": orders }))
            .await
    }

    async fn load(&self, seed: &Value) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), seed.to_string())?;
        self.ops(&["seed", &file.path().display().to_string()])
            .await?;
        Ok(())
    }

    /// Runs a command of `ops` and returns its JSON.
    pub async fn ops(&self, args: &[&str]) -> Result<Value> {
        let program = std::env::current_exe()?.with_file_name("ops");
        let done = Command::new(program)
            .args(args)
            .arg("--json")
            .output()
            .await?;
        if !done.status.success() {
            bail!(
                "ops {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(serde_json::from_slice(&done.stdout)?)
    }

    /// A realistic event about an order.
    pub fn event(event_id: &str, event_type: &str, order: &str, amount_cents: i64) -> String {
        let values = json!({
            "event_id": event_id, "created": Timestamp::now().as_second(), "livemode": false,
            "payment_intent": format!("pi_{order}"), "charge": format!("ch_{order}"), "customer": "cus_demo",
            "session": format!("cs_test_{order}"), "amount": amount_cents, "amount_refunded": amount_cents,
            "fully_refunded": true, "currency": "usd", "email": "buyer@example.com",
            "metadata": { "order_id": order }, "order_id": order, "request_id": "req_demo",
            "idempotency_key": format!("key_{event_id}"), "failure_code": "card_declined",
            "decline_code": "insufficient_funds", "failure_message": "Your card has insufficient funds.",
            "client_secret": format!("pi_{order}_secret_demo"), "expires_at": Timestamp::now().as_second() + 86_400,
        });
        let values: Map<String, Value> = values.as_object().cloned().unwrap_or_default();
        ops::events::render(event_type, &values)
            .unwrap_or_else(|| ops::events::unknown(event_type, &values))
    }

    /// Posts a body with a signature made now, by the right key or by another.
    pub async fn post(&self, body: &str, forged: bool) -> Result<Posted> {
        let other = SigningKey::new("whsec_of_someone_else");
        let key = if forged { &other } else { &self.key };
        let header = key.sign(Timestamp::now().as_second(), body.as_bytes());
        let request = self
            .http
            .post(format!("{}/webhooks/stripe", self.gateway))
            .header("stripe-signature", header);
        let started = Instant::now();
        let answer = request.body(body.to_owned()).send().await?;
        let status = answer.status().as_u16();
        let body = answer.json().await?;
        let took_ms = started.elapsed().as_secs_f64() * 1_000.0;
        Ok(Posted {
            status,
            body,
            took_ms,
            at: Timestamp::now(),
        })
    }

    /// Waits until an event has a state, and returns when it got there.
    pub async fn until(&self, event_id: &str, state: &str) -> Result<Timestamp> {
        let started = Instant::now();
        loop {
            let sql = "SELECT state, finished_at FROM webhook_events WHERE id = $1";
            let row = self.db.query_opt(sql, &[&event_id]).await?;
            let found = row.as_ref().map_or("not stored", |row| row.get(0));
            if found == state {
                return row
                    .and_then(|row| row.get(1))
                    .with_context(|| format!("{event_id} is not final"));
            }
            if started.elapsed() > DEADLINE {
                bail!("{event_id} is {found} and not {state} after {DEADLINE:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// One line about the state of things.
    pub async fn tell(&self, sql: &str) -> Result<String> {
        Ok(self.db.query_one(sql, &[]).await?.get(0))
    }

    /// One line about an order and all that belongs to it.
    pub async fn tell_order(&self, order: &str) -> Result<String> {
        const ORDER: &str = "
            SELECT concat_ws(', ', 'order ' || status,
                (SELECT string_agg(n || ' seats ' || status, ', ' ORDER BY status) FROM
                    (SELECT status, count(*) n FROM registrations WHERE order_id = o.id GROUP BY status) s),
                (SELECT string_agg(n || ' tickets ' || status, ', ' ORDER BY status) FROM
                    (SELECT status, count(*) n FROM tickets WHERE order_id = o.id GROUP BY status) t),
                (SELECT count(*) || ' course' FROM course_purchases WHERE order_id = o.id HAVING count(*) > 0),
                (SELECT 'mails: ' || string_agg(kind, ' ' ORDER BY id) FROM emails WHERE order_id = o.id))
            FROM orders o WHERE id = $1";
        Ok(self.db.query_one(ORDER, &[&order]).await?.get(0))
    }

    /// Waits until every mail is sent.
    pub async fn until_mails_are_sent(&self) -> Result<()> {
        let started = Instant::now();
        while self
            .tell("SELECT count(*)::text FROM emails WHERE status <> 'sent'")
            .await?
            != "0"
        {
            if started.elapsed() > DEADLINE {
                bail!("mails are not sent after {DEADLINE:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
