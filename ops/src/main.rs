//! Starts a command of `ops`: arguments, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ops::main(ops::Cli::parse())
}
