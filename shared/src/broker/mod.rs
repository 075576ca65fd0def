//! RabbitMQ: the topology, the messages, and connections that heal by themselves.

mod message;
mod publisher;
mod topology;

use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

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
}

impl BrokerSettings {
    /// The names of the exchanges and queues.
    pub fn topology(&self) -> Topology {
        Topology::new(&self.prefix)
    }

    /// A new connection, named `name` in the broker's list. It does not recover by itself: its owner rebuilds it.
    pub async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
        let mut uri = self.uri.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        within(CONNECT_TIMEOUT, Connection::connect_uri(uri, properties)).await
    }
}

/// A broker call, for `limit` at the most.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    Ok(tokio::time::timeout(limit, call)
        .await
        .map_err(|_| BrokerError::TimedOut)??)
}
