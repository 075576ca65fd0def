//! Starts a command of `ops`: arguments, run, exit code.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match ops::run(ops::Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.code() != 0 {
                ops::note(format_args!("error: {error}"));
            }
            ExitCode::from(error.code())
        }
    }
}
