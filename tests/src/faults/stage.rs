//! Where faults are staged: a database and broker names of its own, gateways and workers as processes under their roles,
//! a mail server, and a sender.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::watch::Watch;
use super::{Row, snapshot};
use crate::TestBed;
use crate::binaries::{Launch, Process};
use crate::broker::Broker;
use crate::checker::{self, Allowed, Fate};
use crate::simulator::{Load, Plan, Targets};
use crate::smtp::MailServer;

/// Everything must be final and every mail out within this time after the last acknowledgement.
const LONGEST_END: Duration = Duration::from_secs(90);
/// An hour without a recovery would not be noticed by anybody else.
const LONGEST_RECOVERY: Duration = Duration::from_secs(90);
/// What the gateway gives a request by default.
const LONGEST_ANSWER_MS: u64 = 10_000;
const LOOK: Duration = Duration::from_millis(50);

/// Variables of processes.
pub type Variables = Vec<(String, String)>;

/// What stands on the stage when the load begins.
#[derive(Clone)]
pub struct Setup {
    /// Gateways.
    pub gateways: usize,
    /// Workers.
    pub workers: usize,
    /// For gateways, beside the usual ones.
    pub gateway: Variables,
    /// For workers.
    pub worker: Variables,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            gateways: 1,
            workers: 2,
            gateway: Vec::new(),
            worker: Vec::new(),
        }
    }
}

/// A pair for [`Variables`].
pub fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A running installation with a load upon it.
pub struct Stage {
    /// Its database and names.
    pub bed: TestBed,
    /// Where its mails go.
    pub mail: MailServer,
    /// Where its events are sent.
    pub targets: Targets,
    /// Its gateways.
    pub gateways: Vec<Process>,
    /// Its workers.
    pub workers: Vec<Process>,
    /// How long whatever is under way may take once the load is sent.
    pub longest_end: Duration,
    /// Processed events that a run must have, in percent of those sent that must be.
    pub progress_percent: usize,
    /// Whether attempts may fail.
    pub burnt_attempts: bool,
    watch: Watch,
    setup: Setup,
}

impl Stage {
    /// An empty stage with a clean database.
    pub async fn empty(setup: Setup) -> Self {
        let bed = TestBed::new().await;
        snapshot::note_moves(&bed.db).await;
        Self {
            bed,
            mail: MailServer::start().await,
            targets: Targets::default(),
            gateways: Vec::new(),
            workers: Vec::new(),
            longest_end: LONGEST_END,
            progress_percent: 90,
            burnt_attempts: true,
            watch: Watch::new(),
            setup,
        }
    }

    /// Everything ready.
    pub async fn ready(setup: Setup) -> Self {
        let mut stage = Self::empty(setup).await;
        for _ in 0..stage.setup.gateways {
            stage.add_gateway(&[]).await;
        }
        for _ in 0..stage.setup.workers {
            stage.add_worker(&[]).await;
        }
        stage
    }

    /// Changes what further processes get.
    pub fn setup_mut(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// One more gateway; `TOLLGATE_…` variables give it fail-points.
    pub async fn add_gateway(&mut self, more: &[(&str, &str)]) {
        let own = [("OUTBOX_GRACE", "500ms")];
        let usual = self.setup.gateway.clone();
        let gateway = self.start("gateway", &own, &usual, more).await;
        self.gateways.push(gateway);
        self.aim();
    }

    /// One more worker.
    pub async fn add_worker(&mut self, more: &[(&str, &str)]) {
        let smtp = self.mail.url();
        let own = [("SMTP_URL", smtp.as_str()), ("RESCUE_AFTER", "3s")];
        let usual = self.setup.worker.clone();
        let worker = self.start("worker", &own, &usual, more).await;
        self.workers.push(worker);
    }

    async fn start(
        &mut self,
        name: &str,
        own: &[(&str, &str)],
        usual: &Variables,
        more: &[(&str, &str)],
    ) -> Process {
        let usual = usual
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let variables: Vec<(&str, &str)> = own
            .iter()
            .copied()
            .chain(usual)
            .chain(more.iter().copied())
            .collect();
        let armed = variables
            .iter()
            .any(|(name, _)| name.starts_with("TOLLGATE_"));
        let launch = Launch {
            armed,
            unready: variables.contains(&UNREADY),
            variables: &variables,
            ..Launch::default()
        };
        let mut process = Process::launch(&self.bed, name, launch).await;
        self.watch.add(name, &mut process);
        process
    }

    /// Sends to the gateways that are there now.
    pub fn aim(&self) {
        let addresses = self.gateways.iter().map(|gateway| gateway.address);
        self.targets.set(addresses.collect());
    }

    /// Loads the catalogue and begins to send.
    pub async fn load(&self, plan: &Plan) -> Load {
        self.bed.seed(&plan.catalogue()).await;
        Load::start(self.targets.clone(), plan)
    }

    /// Waits until so many percent of a load were acknowledged.
    pub async fn until_sent(&self, load: &Load, percent: usize) {
        let enough = load.events() * percent / 100;
        let deadline = Instant::now() + LONGEST_RECOVERY;
        while load.acknowledged() < enough && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every process is ready, and every event that was there is final.
    pub async fn recovery(&self) -> Recovery {
        let (began, now) = (Instant::now(), Timestamp::now());
        let mut recovery = Recovery::default();
        while began.elapsed() < LONGEST_RECOVERY {
            let elapsed_ms = || u64::try_from(began.elapsed().as_millis()).ok();
            if self.everybody_is_ready().await {
                recovery.ready_ms = recovery.ready_ms.or_else(elapsed_ms);
                if self.unfinished(now).await == Some(0) {
                    recovery.done_ms = elapsed_ms();
                    return recovery;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        recovery
    }

    /// Whether every process is ready.
    pub async fn everybody_is_ready(&self) -> bool {
        for process in self.gateways.iter().chain(&self.workers) {
            if !process.answers("readyz").await {
                return false;
            }
        }
        true
    }

    async fn unfinished(&self, received_until: Timestamp) -> Option<i64> {
        let sql = "SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying') AND received_at <= $1";
        let row = self.bed.db.query_one(sql, &[&received_until]).await.ok()?;
        Some(row.get(0))
    }

    /// Waits until the load is sent and everything done, and judges.
    pub async fn conclude(&self, load: Load, mails_doubled: usize) -> checker::Verdict {
        let history = load.finish().await;
        let done = "SELECT (SELECT count(*) FROM webhook_events WHERE state IN ('received', 'retrying'))
            + (SELECT count(*) FROM emails WHERE status = 'queued') + (SELECT count(*) FROM outbox)
            + (SELECT count(*) FROM replays WHERE state IN ('planned', 'running') OR in_flight > 0)";
        let deadline = Instant::now() + self.longest_end;
        while self.bed.count(done).await > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        let broker = Broker::connect(&self.bed).await;
        while broker.messages().await > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        let mut snapshot = self.snapshot().await;
        let waiting = [
            ("messages in queues", broker.messages().await),
            (
                "rows of the outbox",
                self.bed.count("SELECT count(*) FROM outbox").await,
            ),
        ];
        snapshot.waiting.extend(waiting);
        let due = history.sent.iter().filter(|sent| sent.fate == Fate::Done);
        let allowed = Allowed {
            // None at all is no run.
            progress: (due.count() * self.progress_percent / 100).max(1),
            mails_doubled,
            answer_ms: LONGEST_ANSWER_MS,
            burnt_attempts: self.burnt_attempts,
        };
        checker::check(&history, &snapshot, allowed)
    }

    /// What is in the tables and on the mail server now.
    pub async fn snapshot(&self) -> checker::Snapshot {
        snapshot::read(&self.bed.db, Some(self.mail.mails())).await
    }

    /// Measures the recovery, waits for the end, and makes the row.
    pub async fn row(
        &self,
        fault: (&str, &str),
        load: Load,
        plan: &Plan,
        mails_doubled: usize,
    ) -> Row {
        let recovery = self.recovery().await;
        let mut row = Row {
            id: fault.0.to_owned(),
            fault: fault.1.to_owned(),
            verdict: self.conclude(load, mails_doubled).await,
            recovered_ms: recovery.done_ms,
            ready_ms: recovery.ready_ms,
            seed: plan.seed,
            failure: String::new(),
            notes: Vec::new(),
        };
        for complaint in self.watch.complaints() {
            row.fail(&complaint);
        }
        let never_taken = row.verdict.attempts - row.verdict.acknowledged;
        if never_taken > 0 {
            row.fail(&format!("{never_taken} events were never taken"));
        }
        row
    }
}

/// How long it took from the end of a fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovery {
    /// Until every `/readyz` was true.
    pub ready_ms: Option<u64>,
    /// Until all was done, too.
    pub done_ms: Option<u64>,
}

/// A process that has this variable is not expected to become ready.
pub const UNREADY: (&str, &str) = ("HARNESS_UNREADY", "yes");
