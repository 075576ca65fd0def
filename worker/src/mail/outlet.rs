//! Where mails go: a mail server, or a directory.

use std::path::{Path, PathBuf};
use std::{fs, io};

use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

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
    File(#[from] io::Error),
}

impl Outlet {
    /// Sends a mail. `name` is unique to it and made of characters that a file name may have.
    pub async fn send(&self, name: &str, mail: Message) -> Result<(), OutletError> {
        match self {
            Self::Smtp(transport) => {
                transport.send(mail).await?;
            }
            Self::Directory(directory) => {
                let (directory, name) = (directory.clone(), name.to_owned());
                let write = move || write(&directory, &name, &mail.formatted());
                tokio::task::spawn_blocking(write)
                    .await
                    .map_err(io::Error::other)??;
            }
        }
        Ok(())
    }
}

fn write(directory: &Path, name: &str, mail: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let whole = directory.join(format!("{name}.eml"));
    let partial = whole.with_extension("partial");
    fs::write(&partial, mail)?;
    fs::rename(&partial, &whole)
}
