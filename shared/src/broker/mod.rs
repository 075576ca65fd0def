//! RabbitMQ: the topology, the messages, and connections that heal by themselves.

mod message;
mod publisher;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use message::{Message, MessageError};
pub use publisher::{PublishError, Publisher};
pub use topology::Topology;

/// Where the broker is, and how its exchanges and queues are called.
#[derive(Clone)]
pub struct BrokerSettings {
    /// Where to connect, with which user.
    pub uri: AMQPUri,
    /// Prepended to exchange and queue names.
    pub prefix: String,
    /// Whether the last connection was given up half-way.
    hung: Arc<AtomicBool>,
}

/// A dead peer is noticed after two of these.
const HEARTBEAT_S: u16 = 10;
/// lapin sets aside 64 frames per connection, 8 MiB with the broker's default size; messages are a hundred bytes.
const FRAME_MAX: u32 = 16 * 1024;
/// lapin's handshake has no time-out of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the broker cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker or the connection to it failed.
    #[error("broker: {0}")]
    Failed(#[from] lapin::Error),
    /// It did not answer in time.
    #[error("broker: no answer in time")]
    TimedOut,
    /// It cannot be reached.
    #[error("broker: {0}")]
    Io(#[source] std::io::Error),
}

impl BrokerSettings {
    /// Settings that connect to `uri` and name things with `prefix`.
    pub fn new(uri: AMQPUri, prefix: String) -> Self {
        Self {
            uri,
            prefix,
            hung: Arc::default(),
        }
    }

    /// The names of the exchanges and queues.
    pub fn topology(&self) -> Topology {
        Topology::new(&self.prefix)
    }

    /// A new connection, named `name` in the broker's list. It does not recover by itself: its owner rebuilds it.
    pub async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
        let mut uri = self.uri.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        // A handshake that is given up half-way keeps lapin's thread and socket for good: while the broker hangs there
        // must not be one more of them with every try.
        if self.hung.load(Ordering::Relaxed) {
            self.greet().await?;
        }
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connected = within(CONNECT_TIMEOUT, Connection::connect_uri(uri, properties)).await;
        let hung = matches!(connected, Err(BrokerError::TimedOut));
        self.hung.store(hung, Ordering::Relaxed);
        connected
    }

    /// Sees whether the broker answers at all.
    async fn greet(&self) -> Result<(), BrokerError> {
        const GREETING: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
        let authority = &self.uri.authority;
        let answered = async {
            let mut stream = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
            stream.write_all(GREETING).await?;
            stream.read_u8().await
        };
        let answered = timeout(CONNECT_TIMEOUT, answered).await;
        answered
            .map_err(|_| BrokerError::TimedOut)?
            .map_err(BrokerError::Io)?;
        Ok(())
    }
}

/// A broker call, for `limit` at the most.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    Ok(timeout(limit, call)
        .await
        .map_err(|_| BrokerError::TimedOut)??)
}
