//! `ops migrate`.

use serde::Serialize;
use shared::migrations::migrate;

use crate::output::{Output, note};
use crate::{Database, OpsError};

#[derive(Serialize)]
struct Report {
    applied: Vec<String>,
    roles: bool,
}

/// Applies what is pending. Two at once wait for each other.
pub async fn run(database: &Database, output: Output) -> Result<(), OpsError> {
    let mut client = database.connect().await?;
    let done = migrate(&mut client).await?;
    if !done.roles {
        note("note: this user may not create roles: apply migrations/roles.sql as one who may");
    }
    let report = Report {
        applied: done.applied,
        roles: done.roles,
    };
    output.print("migrated", &report, |report| {
        match report.applied.as_slice() {
            [] => "the schema is current".to_owned(),
            applied => applied
                .iter()
                .map(|name| format!("applied {name}\n"))
                .collect(),
        }
    })
}
