//! Where mails go: a mail server, or a directory.

use std::path::PathBuf;

use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::fs;

/// Where mails go.
#[derive(Clone)]
pub enum Outlet {
    /// A mail server.
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    /// A directory that gets one `.eml` file per mail, named after its Message-ID: sending twice writes it once.
    Directory(PathBuf),
}

/// A mail did not go out; it may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    /// The mail server refused it or did not answer.
    #[error("mail server: {0}")]
    Smtp(#[from] lettre::transport::smtp::Error),
    /// The file could not be written.
    #[error("mail directory: {0}")]
    File(#[from] std::io::Error),
}

impl Outlet {
    /// Sends a mail. `name` is unique to it and made of characters that a file name may have.
    pub async fn send(&self, name: &str, mail: Message) -> Result<(), OutletError> {
        match self {
            Self::Smtp(transport) => {
                transport.send(mail).await?;
            }
            Self::Directory(directory) => {
                fs::create_dir_all(directory).await?;
                let (partial, whole) = (
                    directory.join(format!("{name}.partial")),
                    directory.join(format!("{name}.eml")),
                );
                fs::write(&partial, mail.formatted()).await?;
                fs::rename(&partial, &whole).await?;
            }
        }
        Ok(())
    }
}
