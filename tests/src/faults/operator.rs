//! Asks the script that started PostgreSQL and RabbitMQ to kill, freeze or restart them.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};

/// A line to `deploy/faults`.
#[derive(Clone)]
pub struct Operator(Option<Arc<Mutex<Line>>>);

struct Line {
    orders: File,
    answers: BufReader<File>,
}

impl Operator {
    /// Opens what the environment names.
    pub fn from_environment() -> Result<Self> {
        let path = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set: run ./deploy/faults"))
        };
        let orders = OpenOptions::new()
            .write(true)
            .open(path("TOLLGATE_ORDERS")?)?;
        let answers = File::open(path("TOLLGATE_ANSWERS")?)?;
        let line = Line {
            orders,
            answers: BufReader::new(answers),
        };
        Ok(Self(Some(Arc::new(Mutex::new(line)))))
    }

    /// Nobody: the servers belong to others.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Has an order carried out.
    pub async fn run(&self, order: &str) -> Result<()> {
        let line = self.0.clone().context("the servers belong to others")?;
        let text = order.to_owned();
        let answer = tokio::task::spawn_blocking(move || -> Result<String> {
            let mut line = line
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            writeln!(line.orders, "{text}")?;
            let mut answer = String::new();
            line.answers.read_line(&mut answer)?;
            Ok(answer)
        });
        match answer.await??.trim() {
            "ok" => Ok(()),
            other => bail!("`{order}`: {other}"),
        }
    }
}
