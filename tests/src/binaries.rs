//! The real programs as processes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::bed::amqp_url;
use crate::stripe::SECRET;
use crate::{TestBed, eventually, stripe};

static DIRECTORY: OnceCell<PathBuf> = OnceCell::const_new();

/// A program, built from the tree under test.
pub async fn program(name: &str) -> Command {
    let directory = DIRECTORY.get_or_init(build).await;
    let mut command = Command::new(directory.join(name));
    // Settings of whoever runs the tests must not reach the programs.
    for (variable, _) in std::env::vars() {
        if ["GATEWAY_", "WORKER_", "STRIPE_", "OTEL_"]
            .iter()
            .any(|prefix| variable.starts_with(prefix))
        {
            command.env_remove(variable);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// `cargo test` builds the libraries only; a program of this crate has the others beside it.
async fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let directory = this.parent().unwrap();
    if !directory.ends_with("deps") {
        return directory.to_owned();
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--workspace", "--bins"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .await
        .expect("cargo runs");
    assert!(built.success(), "the programs must build");
    directory.parent().unwrap().to_owned()
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

impl Process {
    /// Starts a gateway under its role. `variables` come after the usual ones and win.
    pub async fn gateway(bed: &TestBed, variables: &[(&str, &str)]) -> Self {
        Self::start(bed, "gateway", &bed.gateway_url(), variables).await
    }

    /// Starts a worker under its role.
    pub async fn worker(bed: &TestBed, variables: &[(&str, &str)]) -> Self {
        Self::start(bed, "worker", &bed.worker_url(), variables).await
    }

    async fn start(bed: &TestBed, name: &str, url: &str, variables: &[(&str, &str)]) -> Self {
        let (address, admin_address) = (free_address(), free_address());
        let log = bed.path(&format!("{name}.{}.log", admin_address.port()));
        let mut command = program(name).await;
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
            .stdout(std::fs::File::create(&log).unwrap());
        for (name, value) in variables {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        let process = Self {
            child: command.spawn().unwrap(),
            log,
            address,
            admin_address,
        };
        eventually(&format!("the {name} is ready"), async || {
            let url = format!("http://{admin_address}/readyz");
            let answer = stripe::client().get(url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        process
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

/// Free a moment ago: nothing else of the tests listens on fixed ports.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
