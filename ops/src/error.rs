//! How a command ends when it does not end well: one exit code per kind, fixed by the contract.

use shared::database::StoreError;
use shared::migrations::MigrationError;
use tokio_postgres::error::SqlState;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// Nobody expected this.
    #[error("{0}")]
    Unexpected(String),
    /// The command line, a setting or a file is wrong.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Not done without `--yes` or `--force`, or never.
    #[error("{0}")]
    Refused(String),
    /// The database user may not do this.
    #[error("{0}")]
    NotPermitted(String),
    /// Things are not as the command expected them.
    #[error("{0}")]
    Conflict(String),
    /// Database, broker or gateway cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// Done, but not for every item.
    #[error("{0}")]
    PartlyFailed(String),
    /// A signal ended the command: its number.
    #[error("{1}")]
    Interrupted(u8, String),
    /// Nobody reads what is printed any more: no fault of the command's.
    #[error("nobody reads the output any more")]
    ReaderLeft,
}

impl OpsError {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unexpected(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Refused(_) => 4,
            Self::NotPermitted(_) => 5,
            Self::Conflict(_) => 6,
            Self::Unavailable(_) => 7,
            Self::PartlyFailed(_) => 8,
            Self::Interrupted(signal, _) => 128 + signal,
            Self::ReaderLeft => 0,
        }
    }
}

impl From<std::io::Error> for OpsError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ReaderLeft,
            _ => Self::Unexpected(format!("the output cannot be written: {error}")),
        }
    }
}

impl From<StoreError> for OpsError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match &error {
            StoreError::Unavailable(_) | StoreError::TimedOut | StoreError::Exhausted(_) => {
                Self::Unavailable(text)
            }
            StoreError::Conflict(_) => Self::Conflict(text),
            StoreError::Rejected(_) => Self::Unexpected(text),
            StoreError::Query(cause) => match cause.code() {
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Self::NotPermitted(text),
                Some(code) if *code == SqlState::UNIQUE_VIOLATION => Self::Conflict(text),
                Some(code)
                    if *code == SqlState::UNDEFINED_TABLE
                        || *code == SqlState::UNDEFINED_COLUMN =>
                {
                    Self::Conflict(format!("{text}: run `ops migrate` first"))
                }
                _ => Self::Unexpected(text),
            },
        }
    }
}

impl From<tokio_postgres::Error> for OpsError {
    fn from(error: tokio_postgres::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<MigrationError> for OpsError {
    fn from(error: MigrationError) -> Self {
        match error {
            MigrationError::Store(error) => error.into(),
            MigrationError::Pending(_) => Self::Conflict(error.to_string()),
            MigrationError::Failed(ref failed) => match cause(failed) {
                Some(Self::NotPermitted(_)) => Self::NotPermitted(error.to_string()),
                Some(Self::Unavailable(_)) => Self::Unavailable(error.to_string()),
                Some(Self::Conflict(_)) => Self::Conflict(error.to_string()),
                _ => Self::Unexpected(error.to_string()),
            },
        }
    }
}

/// What the database said, if a migration failed there.
fn cause(failed: &(dyn std::error::Error + 'static)) -> Option<OpsError> {
    let mut error = Some(failed);
    while let Some(current) = error {
        if let Some(said) = current.downcast_ref::<tokio_postgres::Error>() {
            return Some(match said.code() {
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                    OpsError::NotPermitted(String::new())
                }
                Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
                    OpsError::Conflict(String::new())
                }
                None => OpsError::Unavailable(String::new()),
                Some(_) => OpsError::Unexpected(String::new()),
            });
        }
        error = current.source();
    }
    None
}
