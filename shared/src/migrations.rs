//! The schema: applied by `ops migrate`, checked by every service before it works.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

mod embedded {
    refinery::embed_migrations!("../migrations");
}

const ROLES: &str = include_str!("../../migrations/roles.sql");
/// Two migrations at once wait for each other on this advisory lock.
const LOCK_KEY: i64 = 0x746f_6c6c_6761_7465;
/// Some two minutes.
const MOST_TRIES: u32 = 80;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Why the schema is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The schema lacks migrations that this program needs.
    #[error("the database lacks the migrations {}: run `ops migrate` with this version first", .0.join(", "))]
    Pending(Vec<String>),
    /// A migration could not be applied.
    #[error("migration failed: {}", describe(.0))]
    Failed(#[from] refinery::Error),
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] crate::database::StoreError),
}

impl MigrationError {
    /// Whether somebody else had what it needed.
    fn is_locked(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            let said = error.downcast_ref::<tokio_postgres::Error>();
            if said.and_then(tokio_postgres::Error::code) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                return true;
            }
            source = error.source();
        }
        false
    }
}

/// refinery's own text is followed by the server's words only in the source.
fn describe(error: &refinery::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<tokio_postgres::Error> for MigrationError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Fails with [`MigrationError::Pending`] unless every migration of this program is applied. Newer ones are fine: during
/// a rolling upgrade the schema is ahead of the older program.
pub async fn require_current(client: &impl GenericClient) -> Result<(), MigrationError> {
    let applied = applied_versions(client).await?;
    let runner = embedded::migrations::runner();
    let pending: Vec<String> = runner
        .get_migrations()
        .iter()
        .filter(|migration| !applied.contains(&i64::from(migration.version())))
        .map(ToString::to_string)
        .collect();
    if pending.is_empty() {
        Ok(())
    } else {
        Err(MigrationError::Pending(pending))
    }
}

async fn applied_versions(client: &impl GenericClient) -> Result<Vec<i64>, MigrationError> {
    match client
        .query("SELECT version::bigint FROM refinery_schema_history", &[])
        .await
    {
        Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What `migrate` did.
pub struct Migrated {
    /// The migrations that were applied now, in order.
    pub applied: Vec<String>,
    /// Whether the roles and their grants are in place; else the user may not create roles.
    pub roles: bool,
}

/// Applies what is pending, then the roles and their grants.
pub async fn migrate(client: &mut Client) -> Result<Migrated, MigrationError> {
    client
        .batch_execute("SET lock_timeout = '150s'; SET statement_timeout = 0")
        .await?;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY])
        .await?;
    let result = apply_between_readers(client).await;
    // The lock ends with the session at the latest: an error here must not hide the one that matters.
    let unlock = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK_KEY]);
    let _ = unlock.await;
    result
}

/// A table that somebody reads for long cannot be altered, and while a migration waits for it nobody else gets at it
/// either: it waits for less time than a gateway does, gives way, and comes again. Now and then it waits for longer than
/// the second after which PostgreSQL has an autovacuum give way to it.
async fn apply_between_readers(client: &mut Client) -> Result<Migrated, MigrationError> {
    let mut applied = Vec::new();
    for number in 1..=MOST_TRIES {
        let patience = if number % 10 == 0 { "1500ms" } else { "500ms" };
        let set = format!("SET lock_timeout = '{patience}'");
        client.batch_execute(&set).await?;
        match apply(client, &mut applied).await {
            Err(error) if error.is_locked() && number < MOST_TRIES => {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            done => return done.map(|roles| Migrated { applied, roles }),
        }
    }
    unreachable!("the last try returns")
}

/// Whether the roles are in place, after noting what was applied.
async fn apply(client: &mut Client, applied: &mut Vec<String>) -> Result<bool, MigrationError> {
    let result = embedded::migrations::runner().run_async(client).await;
    let report = match &result {
        Ok(report) => Some(report),
        // Each migration is a transaction of its own.
        Err(error) => error.report(),
    };
    let done = report.map_or(&[][..], |report| report.applied_migrations().as_slice());
    applied.extend(done.iter().map(ToString::to_string));
    result?;
    let roles = match client.batch_execute(ROLES).await {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => false,
        Err(error) => return Err(error.into()),
    };
    Ok(roles)
}
