//! A stage on which every connection leads through a proxy, with a load upon it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::operator::Operator;
use super::stage::{Setup, Stage, variable};
use crate::Proxy;
use crate::binaries::Process;
use crate::simulator::{Load, Plan};

/// What connections, buffers and requests that are refused may make a process grow by.
pub const MOST_GROWTH_KIB: u64 = 64 * 1024;

/// Where a fault strikes.
pub struct Scene {
    /// The installation.
    pub stage: Stage,
    /// Who kills servers.
    pub operator: Operator,
    /// Between gateways and the database.
    pub gateway_database: Proxy,
    /// Between gateways and the broker.
    pub gateway_broker: Proxy,
    /// Between workers and the database.
    pub worker_database: Proxy,
    /// Between workers and the broker.
    pub worker_broker: Proxy,
    /// What is being sent.
    pub load: Load,
    /// Where it comes from.
    pub plan: Plan,
    /// What was measured on the way, for people.
    pub notes: Vec<String>,
}

impl Scene {
    /// Everything ready and under load.
    pub async fn open(operator: Operator, setup: Setup, plan: Plan) -> Self {
        let (gateways, workers) = (setup.gateways, setup.workers);
        let mut stage = Stage::empty(setup).await;
        let amqp = crate::bed::amqp_url();
        let (gateway_database, gateway_url) = Proxy::before(&stage.bed.gateway_url()).await;
        let (worker_database, worker_url) = Proxy::before(&stage.bed.worker_url()).await;
        let (gateway_broker, gateway_amqp) = Proxy::before(&amqp).await;
        let (worker_broker, worker_amqp) = Proxy::before(&amqp).await;
        let setup = stage.setup_mut();
        for (variables, database, broker) in [
            (&mut setup.gateway, gateway_url, gateway_amqp),
            (&mut setup.worker, worker_url, worker_amqp),
        ] {
            variables.push(variable("DATABASE_URL", &database));
            variables.push(variable("AMQP_URL", &broker));
        }
        for _ in 0..gateways {
            stage.add_gateway(&[]).await;
        }
        for _ in 0..workers {
            stage.add_worker(&[]).await;
        }
        let load = stage.load(&plan).await;
        Self {
            stage,
            operator,
            gateway_database,
            gateway_broker,
            worker_database,
            worker_broker,
            load,
            plan,
            notes: Vec::new(),
        }
    }

    /// Everything that leads to the database, or to the broker.
    pub fn to_database(&self) -> [&Proxy; 2] {
        [&self.gateway_database, &self.worker_database]
    }

    /// Everything that leads to the broker.
    pub fn to_broker(&self) -> [&Proxy; 2] {
        [&self.gateway_broker, &self.worker_broker]
    }

    /// Notes what was measured.
    pub fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// Readiness must tell of a loss within 5 s.
    pub async fn until_unready(&self) -> Result<()> {
        let everybody = self.stage.gateways.iter().chain(&self.stage.workers);
        none_is_ready(everybody).await
    }

    /// The same where workers may not notice.
    pub async fn until_gateways_are_unready(&self) -> Result<()> {
        none_is_ready(self.stage.gateways.iter()).await
    }
}

async fn none_is_ready<'a>(all: impl Iterator<Item = &'a Process> + Clone) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let mut ready = 0;
        for process in all.clone() {
            ready += usize::from(process.answers("readyz").await);
        }
        if ready == 0 {
            return Ok(());
        }
        pause(50).await;
    }
    bail!("/readyz did not tell of the loss within 5 s")
}

/// Lets a fault last.
pub async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
