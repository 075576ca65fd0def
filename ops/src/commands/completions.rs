//! `ops completions`: what a shell needs to complete commands and flags.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::output::print_bytes;
use crate::{Cli, OpsError};

/// Prints the script for a shell.
pub fn run(shell: Shell) -> Result<(), OpsError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ops", &mut script);
    print_bytes(&script)
}
