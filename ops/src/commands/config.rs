//! `ops config check`: what gateway, worker and console would say of this environment's settings, without starting them.
//! Each program knows its own settings: the services are asked with `--check`.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::process::Command as Process;

use crate::console::config::Config;
use crate::output::{Output, safe, table};
use crate::{Cli, Database, OpsError};

/// How long a program may take to read its settings.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to do with the settings.
#[derive(Subcommand)]
pub enum Command {
    /// Check the settings of programs in this environment, without starting them
    Check {
        /// Which ones; all three unless said
        #[arg(value_enum)]
        programs: Vec<Program>,
    },
}

/// A program that takes settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// Accepts webhooks.
    Gateway,
    /// Fulfills them.
    Worker,
    /// This program's own service.
    Console,
}

#[derive(Debug, Serialize)]
struct Finding {
    program: &'static str,
    /// `ok` or `failed`.
    state: &'static str,
    problems: Vec<String>,
}

impl Finding {
    fn new(program: &'static str, problems: Vec<String>) -> Self {
        let state = if problems.is_empty() { "ok" } else { "failed" };
        Self {
            program,
            state,
            problems,
        }
    }
}

/// Asks all three.
pub async fn run(database: &Database, command: Command, output: Output) -> Result<(), OpsError> {
    let Command::Check { programs } = command;
    let is_asked = |program: &&Program| programs.is_empty() || programs.contains(*program);
    let mut findings = Vec::new();
    for program in Program::value_variants().iter().filter(is_asked) {
        findings.push(match program {
            Program::Gateway => service("gateway", database).await,
            Program::Worker => service("worker", database).await,
            Program::Console => Finding::new("console", console(database)),
        });
    }
    output.print("config", &findings, |findings| text(findings))?;
    let wrong = |finding: &&Finding| finding.state == "failed";
    match findings.iter().filter(wrong).count() {
        0 => Ok(()),
        failed => Err(OpsError::Usage(format!(
            "{failed} of {} would not start",
            findings.len()
        ))),
    }
}

fn text(findings: &[Finding]) -> String {
    let rows = findings.iter().flat_map(|finding| {
        let row = |problem: &str| {
            let state = finding.state.to_owned();
            [finding.program.to_owned(), state, safe(problem)]
        };
        let mut rows: Vec<[String; 3]> = finding.problems.iter().map(|text| row(text)).collect();
        if rows.is_empty() {
            rows.push(row(""));
        }
        rows
    });
    table(["program", "state", "problem"], rows)
}

/// Asks a service: the program beside this one, or the one in the PATH.
async fn service(name: &'static str, database: &Database) -> Finding {
    let mut program = Process::new(place(name));
    program
        .arg("--check")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(url) = database.url() {
        program.env("DATABASE_URL", url);
    }
    let done = match tokio::time::timeout(TIMEOUT, program.output()).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            let text = "the program is neither beside ops nor in the PATH";
            return Finding::new(name, vec![text.to_owned()]);
        }
        Ok(Err(error)) => return Finding::new(name, vec![error.to_string()]),
        Err(_) => {
            let text = format!("no answer within {} s", TIMEOUT.as_secs());
            return Finding::new(name, vec![text]);
        }
    };
    if done.status.success() {
        return Finding::new(name, Vec::new());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let mut problems: Vec<String> = said
        .lines()
        .filter_map(|line| Some(line.strip_prefix("error: ")?.to_owned()))
        .collect();
    if problems.is_empty() {
        problems.push(format!("{} {}", done.status, said.trim()));
    }
    Finding::new(name, problems)
}

fn place(name: &str) -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|this| Some(this.parent()?.join(name)))
        .filter(|program| program.is_file());
    beside.unwrap_or_else(|| PathBuf::from(name))
}

/// The console is this program.
fn console(database: &Database) -> Vec<String> {
    let cli = match Cli::try_parse_from(["ops", "console"]) {
        Ok(cli) => cli,
        Err(error) => return vec![error.to_string()],
    };
    let crate::Command::Console(args) = &cli.command else {
        return Vec::new();
    };
    match Config::from_args(database.url(), args) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.texts().to_vec(),
    }
}
