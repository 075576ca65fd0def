//! `ops dead-letters acknowledge`, `resolve`, `ignore` and `reopen`: what operators make of a group.

use super::actor;
use crate::output::Output;
use crate::store::console::groups::Group;
use crate::triage;
use crate::{Database, OpsError};

/// Which group, and what is to be known of it.
#[derive(clap::Args)]
pub struct Change {
    /// The group's fingerprint
    fingerprint: String,
    /// What was done, or why nothing is done; it stands beside the group
    #[arg(long, default_value = "")]
    note: String,
    /// Who, for the audit log; else the variable OPS_ACTOR says it, or the login name
    #[arg(long, default_value_t = actor())]
    actor: String,
}

/// Puts a group into a state.
pub async fn run(
    database: &Database,
    state: &'static str,
    change: Change,
    output: Output,
) -> Result<(), OpsError> {
    let Change {
        fingerprint,
        note,
        actor,
    } = change;
    triage::check(state, &note)?;
    let mut client = database.connect().await?;
    let group = triage::change(&mut client, &fingerprint, state, &note, &actor).await?;
    output.print("group", &group, summary)
}

fn summary(group: &Group) -> String {
    let Group {
        fingerprint,
        state,
        open,
        ..
    } = group;
    format!("group {fingerprint} is {state}, with {open} open letters")
}
