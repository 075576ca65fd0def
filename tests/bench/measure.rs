//! What a measurement stands on: the services' processes, and the CPU time that they and the servers behind them use.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::TestBed;
use harness::binaries::Process;

use crate::report::Figures;

/// `/proc` counts CPU time in hundredths of a second on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long whatever was sent may take to be dealt with.
const DEADLINE: Duration = Duration::from_secs(600);
/// Seldom enough to cost next to nothing: what asks counts as the worker's time, and not as pgbench's.
const PAUSE: Duration = Duration::from_millis(250);

/// Whose CPU time is measured, as the roots of process trees. Each server as far as it runs on this machine.
#[derive(Clone, Copy)]
pub struct Watch {
    service: Option<u32>,
    postgres: Option<u32>,
    broker: Option<u32>,
}

/// CPU seconds used so far.
pub struct CpuTime {
    service: f64,
    postgres: Option<f64>,
    broker: Option<f64>,
}

impl Watch {
    /// Watches PostgreSQL and RabbitMQ.
    pub async fn servers(bed: &TestBed) -> Self {
        let broker = std::env::var("BENCH_BROKER_PID").ok();
        Self {
            service: None,
            postgres: postmaster(bed).await,
            broker: broker.and_then(|pid| pid.parse().ok()),
        }
    }

    /// Watches a service too: from its birth, where the time before was taken without it.
    pub fn with(self, service: &Process) -> Self {
        self.with_process(service.id())
    }

    /// The same for any process.
    pub fn with_process(self, pid: u32) -> Self {
        Self {
            service: Some(pid),
            ..self
        }
    }

    /// The time used so far.
    pub fn cpu_time(&self) -> CpuTime {
        CpuTime {
            service: self.service.and_then(cpu_seconds).unwrap_or_default(),
            postgres: self.postgres.and_then(cpu_seconds),
            broker: self.broker.and_then(cpu_seconds),
        }
    }

    /// CPU time per event since then, and the most memory that the service has had.
    pub fn cost_since(&self, before: &CpuTime, events: usize) -> Figures {
        let now = self.cpu_time();
        let per_event = |seconds: f64| seconds * 1_000_000.0 / events.max(1) as f64;
        let server = |before: Option<f64>, now: Option<f64>| Some(per_event(now? - before?));
        Figures {
            service_cpu_us: self
                .service
                .map(|_| per_event(now.service - before.service)),
            postgres_cpu_us: server(before.postgres, now.postgres),
            broker_cpu_us: server(before.broker, now.broker),
            peak_mib: self.service.and_then(peak_mib),
            ..Figures::default()
        }
    }
}

/// The parent of all of the server's processes, where it runs on this machine and not in a container.
async fn postmaster(bed: &TestBed) -> Option<u32> {
    let backend: i32 = bed.row("SELECT pg_backend_pid()", &[]).await.get(0);
    let backend = u32::try_from(backend).ok()?;
    let name = fs::read_to_string(format!("/proc/{backend}/comm")).ok()?;
    if !name.starts_with("postgres") {
        return None;
    }
    Some(stat(backend)?.parent)
}

struct Stat {
    parent: u32,
    /// Its own and those of its children that have ended.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may itself hold spaces and parentheses.
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: (11..=14).map(number).sum::<Option<u64>>()?,
    })
}

/// Of a process with all its descendants.
fn cpu_seconds(root: u32) -> Option<f64> {
    let mut ticks = stat(root)?.ticks;
    let processes: Vec<(u32, Stat)> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(pid)?))
        })
        .collect();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (pid, stat) in processes.iter().filter(|(_, stat)| stat.parent == parent) {
            ticks += stat.ticks;
            parents.push(*pid);
        }
    }
    Some(ticks as f64 / TICKS_PER_SECOND)
}

fn peak_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1_024.0)
}

/// Waits until a query counts nothing any more.
pub async fn until_none(bed: &TestBed, sql: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let left = bed.count(sql).await;
        if left == 0 {
            return Ok(());
        }
        let waited = started.elapsed();
        ensure!(
            waited < DEADLINE,
            "after {DEADLINE:?} there are still {left} of {sql}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Fails unless a query counts what it must.
pub async fn check(bed: &TestBed, what: &str, sql: &str, expected: usize) -> Result<()> {
    let found = bed.count(sql).await;
    ensure!(
        usize::try_from(found) == Ok(expected),
        "{what}: {found}, and not {expected}"
    );
    Ok(())
}
