//! What the database tells of itself.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use shared::database::{StoreError, query_opt};

/// The server and the schema.
pub struct Server {
    /// PostgreSQL's version.
    pub version: String,
    /// Under which name the console is signed in.
    pub user: String,
    /// How large the database is, in bytes.
    pub bytes: i64,
    /// The newest migration.
    pub migration: String,
    /// When it was applied.
    pub migrated_at: Option<Timestamp>,
}

/// Asks it.
pub async fn find(client: &impl GenericClient) -> Result<Server, StoreError> {
    const SERVER: &str = "
        SELECT split_part(current_setting('server_version'), ' ', 1), current_user::text, pg_database_size(current_database()),
            format('V%s__%s', version, name), applied_on::timestamptz
        FROM refinery_schema_history ORDER BY version DESC LIMIT 1";
    let row = query_opt(client, SERVER, &[])
        .await?
        .ok_or(StoreError::Rejected("no migration was ever applied"))?;
    Ok(Server {
        version: row.get(0),
        user: row.get(1),
        bytes: row.get(2),
        migration: row.get(3),
        migrated_at: row.get(4),
    })
}
