//! One file per command.

pub mod alerts;
pub mod completions;
pub mod config;
mod confirm;
pub mod dead_letters;
pub mod doctor;
pub mod events;
mod filter_args;
mod groups;
pub mod health;
pub mod migrate;
pub mod reconcile;
pub mod rejections;
pub mod replay;
pub mod replays;
pub mod seed;
pub mod trigger;

/// Who does this: for the audit log.
#[derive(clap::Args)]
pub struct Accountable {
    /// Why, for the audit log
    #[arg(long)]
    pub reason: String,
    /// Who, for the audit log; else the variable OPS_ACTOR says it, or the login name
    #[arg(long, default_value_t = actor())]
    pub actor: String,
}

impl Accountable {
    /// Refuses an empty reason.
    pub fn check(&self) -> Result<(), crate::OpsError> {
        if self.reason.trim().is_empty() || self.actor.trim().is_empty() {
            return Err(crate::OpsError::Usage(
                "--reason and --actor must say something".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Whether the reader wants no colours: <https://no-color.org>.
pub(crate) fn wants_no_colours() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Who runs this program.
pub(crate) fn login() -> String {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(said)
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Who does what a command does, unless it says so.
fn actor() -> String {
    said("OPS_ACTOR").unwrap_or_else(login)
}

/// The value of a variable; an empty one counts as unset.
fn said(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.trim().is_empty())
}
