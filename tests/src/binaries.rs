//! The real programs as processes.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::bed::amqp_url;
use crate::stripe::SECRET;
use crate::{TestBed, stripe};

/// The signal of `abort`.
const SIGABRT: i32 = 6;
/// Whoever takes longer to answer, on this machine, is no longer there.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);

/// What a process may take until it is ready.
const LONGEST_START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Below those of private servers, and far below those of outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..20_000;
const PORT_TRIES: usize = 100;
static NEXT_PORT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random_range(PORTS)));
/// Lines of a log that tell why a process does not become ready.
const LAST_LINES: usize = 12;

static DIRECTORY: OnceCell<PathBuf> = OnceCell::const_new();
static FAILPOINTS: OnceCell<()> = OnceCell::const_new();

/// A program, built from the tree under test.
pub async fn program(name: &str) -> Command {
    let directory = DIRECTORY.get_or_init(build).await;
    let mut command = Command::new(directory.join(name));
    // Settings of whoever runs the tests must not reach the programs.
    for (variable, _) in std::env::vars() {
        if [
            "GATEWAY_",
            "WORKER_",
            "STRIPE_",
            "OTEL_",
            "CONSOLE_",
            "RECONCILE_",
        ]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        {
            command.env_remove(variable);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The gateway or the worker with fail-points.
pub async fn program_with_failpoints(name: &str) -> Command {
    FAILPOINTS.get_or_init(build_failpoints).await;
    program(&format!("{name}-failpoints")).await
}

/// `cargo test` builds the libraries only. The runner of the fault table stands beside programs that are built.
async fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    if let Some(beside) = this
        .parent()
        .filter(|folder| folder.join("gateway").exists())
    {
        return beside.to_owned();
    }
    cargo_build(&["--workspace", "--bins"]).await;
    this.ancestors().nth(2).unwrap().to_owned()
}

async fn build_failpoints() {
    let this = std::env::current_exe().unwrap();
    if this
        .parent()
        .is_none_or(|folder| !folder.join("gateway-failpoints").exists())
    {
        let wanted = ["--bin=gateway-failpoints", "--bin=worker-failpoints"];
        // The whole workspace, as for the usual programs: else cargo builds what both share anew each time.
        cargo_build(&[
            "--workspace",
            "--features=tests/failpoints",
            wanted[0],
            wanted[1],
        ])
        .await;
    }
}

async fn cargo_build(what: &[&str]) {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked"])
        .args(what)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .await
        .expect("cargo runs");
    assert!(built.success(), "the programs must build");
}

/// What a command did.
pub struct Done {
    output: Output,
    command: String,
}

impl Done {
    /// Fails unless the exit code is the expected one.
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.output.status.code(),
            Some(code),
            "{}: {} {}",
            self.command,
            self.stdout(),
            self.stderr()
        );
        self
    }

    /// What went to stdout.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// What went to stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout())
            .unwrap_or_else(|_| panic!("{}: {}", self.command, self.stdout()))
    }
}

/// Runs `ops` under the operators' role.
pub async fn ops(bed: &TestBed, args: &[&str]) -> Done {
    ops_with(bed, args, &[("DATABASE_URL", &bed.ops_url())]).await
}

/// Runs `ops` with further variables.
pub async fn ops_with(bed: &TestBed, args: &[&str], variables: &[(&str, &str)]) -> Done {
    let mut command = program("ops").await;
    command
        .args(args)
        .env("AMQP_URL", amqp_url())
        .env("AMQP_PREFIX", bed.prefix());
    command
        .env("STRIPE_WEBHOOK_SECRET", SECRET)
        .env("DATABASE_URL", bed.owner_url());
    for (name, value) in variables {
        command.env(name, value);
    }
    Done {
        output: command.output().await.unwrap(),
        command: format!("ops {}", args.join(" ")),
    }
}

/// Runs any program to its end.
pub async fn run(name: &str, args: &[&str], variables: &[(&str, &str)]) -> Done {
    let mut command = program(name).await;
    command
        .args(args)
        .env_remove("DATABASE_URL")
        .env_remove("AMQP_URL");
    for (name, value) in variables {
        command.env(name, value);
    }
    Done {
        output: command.output().await.unwrap(),
        command: format!("{name} {}", args.join(" ")),
    }
}

/// A service as a process; dropping it kills it.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Public address of a gateway.
    pub address: SocketAddr,
    /// Admin address.
    pub admin_address: SocketAddr,
}

/// What a process takes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Memory.
    pub memory_kib: u64,
    /// Threads.
    pub threads: usize,
    /// Open files, connections among them.
    pub files: usize,
}

/// How to start a service.
#[derive(Clone, Copy, Default)]
pub struct Launch<'a> {
    /// With fail-points.
    pub armed: bool,
    /// It is not expected to become ready, only to live.
    pub unready: bool,
    /// It is expected to end by itself.
    pub doomed: bool,
    /// Nobody reads what it logs.
    pub unread: bool,
    /// They come after the usual ones and win; an empty one is unset.
    pub variables: &'a [(&'a str, &'a str)],
}

impl Process {
    /// Starts a gateway under its role. `variables` come after the usual ones and win.
    pub async fn gateway(bed: &TestBed, variables: &[(&str, &str)]) -> Self {
        let launch = Launch {
            variables,
            ..Launch::default()
        };
        Self::launch(bed, "gateway", launch).await
    }

    /// Starts a worker under its role.
    pub async fn worker(bed: &TestBed, variables: &[(&str, &str)]) -> Self {
        let launch = Launch {
            variables,
            ..Launch::default()
        };
        Self::launch(bed, "worker", launch).await
    }

    /// Starts a gateway or a worker, and waits until it is ready, or at least alive.
    pub async fn launch(bed: &TestBed, name: &str, launch: Launch<'_>) -> Self {
        let (address, admin_address) = (free_address(), free_address());
        let log = bed.path(&format!("{name}.{}.log", admin_address.port()));
        File::create(&log).unwrap();
        let mut command = match launch.armed {
            true => program_with_failpoints(name).await,
            false => program(name).await,
        };
        let url = match name {
            "gateway" => bed.gateway_url(),
            _ => bed.worker_url(),
        };
        command
            .env("DATABASE_URL", url)
            .env("AMQP_URL", amqp_url())
            .env("AMQP_PREFIX", bed.prefix())
            .env("STRIPE_WEBHOOK_SECRET", SECRET)
            .env("GATEWAY_LISTEN", address.to_string())
            .env("GATEWAY_ADMIN_LISTEN", admin_address.to_string())
            .env("WORKER_ADMIN_LISTEN", admin_address.to_string())
            .env("WORKER_BACKOFF_BASE", "20ms")
            .env("MAIL_DIR", bed.mail_dir())
            .stdout(match launch.unread {
                true => Stdio::piped(),
                false => appending_to(&log).into(),
            });
        if launch.armed || launch.doomed {
            command.stderr(appending_to(&log));
        }
        for (name, value) in launch.variables {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        let mut process = Self {
            child: command.spawn().unwrap(),
            log,
            address,
            admin_address,
        };
        let path = if launch.unready { "livez" } else { "readyz" };
        let started = Instant::now();
        while !process.answers(path).await {
            if launch.doomed || (launch.armed && process.has_ended()) {
                break;
            }
            assert!(
                started.elapsed() < LONGEST_START,
                "/{path} of the {name} is not 200 within {LONGEST_START:?}: {}, its log ends\n{}",
                process.body_of(path).await,
                process.last_lines()
            );
            tokio::time::sleep(LOOK).await;
        }
        process
    }

    /// Whether a path of the admin listener answers with 200.
    pub async fn answers(&self, path: &str) -> bool {
        let url = format!("http://{}/{path}", self.admin_address);
        let request = stripe::client().get(url).timeout(LONGEST_ANSWER);
        let answer = request.send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    async fn body_of(&self, path: &str) -> String {
        let url = format!("http://{}/{path}", self.admin_address);
        let request = stripe::client().get(url).timeout(LONGEST_ANSWER);
        match request.send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    fn last_lines(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> reqwest::Result<String> {
        let url = format!("http://{}/metrics", self.admin_address);
        stripe::client().get(url).send().await?.text().await
    }

    /// Memory that it holds, in KiB.
    pub fn memory_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// What it takes; none once it has ended.
    pub fn size(&self) -> Option<Size> {
        let of = format!("/proc/{}", self.child.id()?);
        Some(Size {
            memory_kib: self.memory_kib()?,
            threads: std::fs::read_dir(format!("{of}/task")).ok()?.count(),
            files: std::fs::read_dir(format!("{of}/fd")).ok()?.count(),
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Fails unless it was killed by the fail-point of this name.
    pub fn expect_abort_at(&mut self, name: &str) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?.and_then(|status| status.signal());
        let reached = self.log_text().contains(&format!("fail-point {name}, "));
        anyhow::ensure!(
            ended == Some(SIGABRT) && reached,
            "it was not killed at {name}: signal {ended:?}"
        );
        Ok(())
    }

    /// Its log lines, which are JSON.
    pub fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }

    /// Its log as it is.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its process id, as long as nobody has waited for its end.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends a signal by name, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        let sent = std::process::Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, and returns its exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ended.expect("the process ends").unwrap().code()
    }
}

/// Free a moment ago, given to nobody else, and of a range that no connection takes its own end from: between this and the
/// start of the process that is to listen there, thousands are made.
pub(crate) fn free_address() -> SocketAddr {
    let next = || PORTS.start + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16;
    (0..PORT_TRIES)
        .map(|_| SocketAddr::from(([127, 0, 0, 1], next())))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .expect("one of many ports is free")
}

/// A log that several write to, each at its end.
fn appending_to(log: &Path) -> File {
    File::options().append(true).open(log).unwrap()
}
