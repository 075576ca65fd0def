//! Connections to PostgreSQL: pools, session settings, and which errors mean that the database is away.

mod hosts;

use std::error::Error as _;
use std::time::Duration;

use deadpool_postgres::{
    GenericClient, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError,
    RecyclingMethod, Runtime, Timeouts,
};
use futures_util::future::try_join;
use tokio_postgres::Row;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::lifecycle::in_time;
use hosts::Hosts;

/// How a pool behaves.
pub struct PoolSettings {
    /// Shown in `pg_stat_activity`.
    pub application_name: &'static str,
    /// Connections at the most.
    pub size: usize,
    /// How long to wait for a free connection, and for a new one to be made.
    pub wait: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// What a commit promises.
    pub durability: Durability,
    /// Whether one plan does for all parameters of a statement, as where each finds its rows by key: planning anew each
    /// time costs more than running.
    pub generic_plans: bool,
}

/// What a commit promises when the server's machine loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is there.
    Full,
    /// It may be undone, some milliseconds long: for what would only be done again.
    Deferred,
}

/// How long a statement waits for a lock at the most: less than it may take, else nobody would know what it waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transaction may idle: a frozen process loses its locks after this.
const IDLE_IN_TRANSACTION_TIMEOUT_MS: u32 = 15_000;

/// A pool; it connects when first used.
pub fn pool(database: &tokio_postgres::Config, settings: &PoolSettings) -> Pool {
    let mut config = database.clone();
    config
        .application_name(settings.application_name)
        .connect_timeout(settings.wait / 2)
        .tcp_user_timeout(Duration::from_secs(5))
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    let hosts = Hosts::new(&config, settings.wait);
    let manager = Manager::from_connect(
        config,
        hosts,
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    let session = session_settings(settings);
    let prepare_session = Hook::async_fn(move |client, _| {
        let session = session.clone();
        Box::pin(async move {
            client
                .batch_execute(&session)
                .await
                .map_err(HookError::Backend)
        })
    });
    Pool::builder(manager)
        .max_size(settings.size)
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: Some(settings.wait),
            create: Some(settings.wait),
            recycle: Some(settings.wait),
        })
        .post_create(prepare_session)
        .build()
        .unwrap_or_else(|_| unreachable!("a pool with a runtime builds"))
}

fn session_settings(settings: &PoolSettings) -> String {
    let durability = match settings.durability {
        _ if crate::sabotaged!("synchronous_commit") => "",
        // A 200 promises a durable commit: a server or role that turns it off is overruled.
        Durability::Full => {
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')"
        }
        Durability::Deferred => "SET synchronous_commit = off",
    };
    let plans = match settings.generic_plans {
        // Made while a table is still empty, a plan would scan it for as long as it is kept.
        true => "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off",
        // What is asked for decides which index fits.
        false => "SET plan_cache_mode = force_custom_plan; SET jit = off",
    };
    let lock_timeout = LOCK_TIMEOUT.min(settings.statement_timeout / 2);
    format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; \
         SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_TIMEOUT_MS}; \
         {plans}; {durability}",
        settings.statement_timeout.as_millis().max(1),
        lock_timeout.as_millis().max(1)
    )
}

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, read-only or shutting down: the same query may succeed later.
    #[error("database unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer in time.
    #[error("database unavailable: no answer in time")]
    TimedOut,
    /// It answers, but is out of disk, memory or connections: the same query may succeed later.
    #[error("database exhausted: {0}")]
    Exhausted(String),
    /// A deadlock, a serialization failure or a lock that took too long: the same transaction may succeed at once.
    #[error("database conflict: {}", describe(.0))]
    Conflict(#[source] tokio_postgres::Error),
    /// The database refused this query.
    #[error("database error: {}", describe(.0))]
    Query(#[source] tokio_postgres::Error),
    /// A row was not as this program keeps it.
    #[error("unexpected row: {0}")]
    Rejected(&'static str),
}

impl StoreError {
    /// Whether a single row may be at fault. What took too long, or is forbidden, any other row would meet too.
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::Query(error) if error.code().is_some_and(is_of_data))
    }

    /// Whether another transaction was in the way.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the database is away rather than the query wrong.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::TimedOut | Self::Exhausted(_)
        )
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) if is_exhausted(code) => Self::Exhausted(describe(&error)),
            Some(code) if is_away(code) => Self::Unavailable(describe(&error).into()),
            Some(code) if is_conflict(code) => Self::Conflict(error),
            Some(_) => Self::Query(error),
            None if lost_connection(&error) => Self::Unavailable(Box::new(error)),
            None => Self::Query(error),
        }
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                match error.code() {
                    Some(code) if is_exhausted(code) => Self::Exhausted(describe(&error)),
                    _ => Self::Unavailable(describe(&error).into()),
                }
            }
            PoolError::Timeout(_) => Self::TimedOut,
            other => Self::Unavailable(Box::new(other)),
        }
    }
}

/// The server's own words: `tokio_postgres` prints only "db error". Never the detail line, which holds row values.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// Insufficient resources.
fn is_exhausted(code: &SqlState) -> bool {
    code.code().starts_with("53")
}

/// Connection exceptions, operator intervention (but a cancelled statement), system errors, and a primary that became
/// read-only.
fn is_away(code: &SqlState) -> bool {
    let class = &code.code()[..2];
    matches!(class, "08" | "58")
        || (class == "57" && *code != SqlState::QUERY_CANCELED)
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}

/// Data exceptions, violated constraints, limits of the server, and what a trigger refuses.
fn is_of_data(code: &SqlState) -> bool {
    matches!(&code.code()[..2], "22" | "23" | "44" | "54" | "P0")
}

fn is_conflict(code: &SqlState) -> bool {
    [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ]
    .contains(code)
}

fn lost_connection(error: &tokio_postgres::Error) -> bool {
    error.is_closed()
        || error
            .source()
            .is_some_and(|source| source.is::<std::io::Error>())
}

/// A pooled connection, within `limit`: the pool's own time-outs do not cover the settings of a new session.
async fn get(pool: &Pool, limit: Duration) -> Result<Object, StoreError> {
    let got = in_time(limit, pool.get()).await;
    Ok(got.ok_or(StoreError::TimedOut)??)
}

/// Runs `work` with a pooled connection, for `limit` at the most, after as long a wait for the connection. A connection
/// that did not answer, or whose server is away, is dropped, not pooled again.
pub async fn with_client<T>(
    pool: &Pool,
    limit: Duration,
    work: impl AsyncFnOnce(&mut Object) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut client = get(pool, limit).await?;
    let result = in_time(limit, work(&mut client))
        .await
        .unwrap_or(Err(StoreError::TimedOut));
    if result.as_ref().is_err_and(StoreError::is_unavailable) {
        drop(Object::take(client));
    }
    result
}

/// Runs a statement that is prepared once per connection, and gives its rows.
pub async fn query(
    client: &impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, params).await?)
}

/// Runs a statement that is prepared once per connection, and gives its row, if there is one.
pub async fn query_opt(
    client: &impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Option<Row>, StoreError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query_opt(&statement, params).await?)
}

/// Runs a statement that is prepared once per connection, and gives the number of rows it touched.
pub async fn execute(
    client: &impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<u64, StoreError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.execute(&statement, params).await?)
}

/// A statement with its parameters.
pub type Call<'a> = (&'a str, &'a [&'a (dyn ToSql + Sync)]);

/// Runs two statements in one round trip, strictly one after the other: the second sees what was committed while the
/// first waited for a lock.
pub async fn query_both(
    client: &impl GenericClient,
    first: Call<'_>,
    second: Call<'_>,
) -> Result<(Vec<Row>, Vec<Row>), StoreError> {
    let (one, two) = (
        client.prepare_cached(first.0).await?,
        client.prepare_cached(second.0).await?,
    );
    // Both are sent when first polled, which happens in this order.
    let both = try_join(client.query(&one, first.1), client.query(&two, second.1));
    Ok(both.await?)
}
