//! Asks every process for `/livez` all the time: it answers with 200 for as long as the process runs, whatever is away.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::scene::pause;
use crate::binaries::Process;

const EVERY_MS: u64 = 250;
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
/// A process that ends may have closed its listener this much earlier.
const LAST_MOMENT_MS: u64 = 1_000;

/// Watches processes until it is dropped.
pub struct Watch {
    http: reqwest::Client,
    tasks: JoinSet<()>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    /// Watches nobody yet.
    pub fn new() -> Self {
        let fresh = reqwest::Client::builder().pool_max_idle_per_host(0);
        Self {
            http: fresh.timeout(LONGEST_ANSWER).build().expect("a client"),
            tasks: JoinSet::new(),
            complaints: Arc::default(),
        }
    }

    /// Watches one process more, from when it lives until it ends.
    pub fn add(&mut self, name: &str, process: &mut Process) {
        if process.has_ended() {
            return;
        }
        let watched = Watched {
            http: self.http.clone(),
            pid: process.id(),
            admin: process.admin_address,
        };
        let (complaints, name) = (self.complaints.clone(), name.to_owned());
        self.tasks.spawn(async move {
            if let Some(complaint) = watched.until_it_ends().await {
                let mut complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
                complaints.push(format!("/livez of a {name} {complaint}"));
            }
        });
    }

    /// What was seen so far.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.complaints.lock();
        complaints.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Watched {
    http: reqwest::Client,
    pid: u32,
    admin: SocketAddr,
}

impl Watched {
    async fn until_it_ends(&self) -> Option<String> {
        while self.exists() {
            if self.fails().await.is_some() {
                pause(LAST_MOMENT_MS).await;
                if let Some(failure) = self.fails().await
                    && self.runs()
                {
                    return Some(failure);
                }
            }
            pause(EVERY_MS).await;
        }
        None
    }

    async fn fails(&self) -> Option<String> {
        let url = format!("http://{}/livez", self.admin);
        match self.http.get(url).send().await {
            Ok(answer) if answer.status() == 200 => None,
            Ok(answer) => Some(format!("was {}", answer.status())),
            Err(error) if error.is_timeout() => Some("was not answered in time".to_owned()),
            Err(_) => Some("was not to be reached".to_owned()),
        }
    }

    /// It is there, and neither frozen nor dead.
    fn runs(&self) -> bool {
        self.state()
            .is_some_and(|state| !['T', 'Z'].contains(&state))
    }

    fn exists(&self) -> bool {
        self.state().is_some_and(|state| state != 'Z')
    }

    /// As `/proc` tells it, behind the name in parentheses.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}
