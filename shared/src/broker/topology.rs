//! The only place that names exchanges and queues, and declares them.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};

use super::{BrokerError, within};

const DECLARE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a message may come back unacknowledged before it is put aside: only a worker that crashes or loses its
/// connection returns one, since attempts are counted in the database. The recorder gives it back as a failed attempt.
const DELIVERY_LIMIT: i64 = 5;

/// Names of the exchanges and queues.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Topic exchange that every event's message enters; its routing key is the event's type.
    pub events: ShortString,
    /// Quorum queue that the workers consume.
    pub fulfillment: ShortString,
    /// Exchange of messages that no worker could handle.
    pub dead_letter_exchange: ShortString,
    /// Quorum queue that the recorder drains.
    pub dead: ShortString,
    /// A queue that does not exist: what is published to it only shows that the broker takes publishes.
    pub nobody: ShortString,
}

impl Topology {
    /// The names under a prefix.
    pub fn new(prefix: &str) -> Self {
        let name = |base: &str| ShortString::from(format!("{prefix}{base}"));
        Self {
            events: name("stripe.events"),
            fulfillment: name("fulfillment"),
            dead_letter_exchange: name("stripe.events.dead"),
            dead: name("fulfillment.dead"),
            nobody: name("nobody"),
        }
    }

    /// Declares what is missing. A queue that exists is taken as it is, so that an operator may have declared it with
    /// other arguments or a policy.
    pub async fn declare(&self, connection: &Connection) -> Result<(), BrokerError> {
        let channel = within(DECLARE_TIMEOUT, connection.create_channel()).await?;
        self.declare_exchange(&channel, &self.events, ExchangeKind::Topic)
            .await?;
        self.declare_exchange(&channel, &self.dead_letter_exchange, ExchangeKind::Fanout)
            .await?;
        self.declare_queue(connection, &self.dead, FieldTable::default())
            .await?;
        self.declare_queue(connection, &self.fulfillment, self.fulfillment_arguments())
            .await?;
        self.bind(&channel, &self.dead, &self.dead_letter_exchange)
            .await?;
        self.bind(&channel, &self.fulfillment, &self.events).await?;
        // Closing is best effort: the channel goes with its connection.
        let _ = within(DECLARE_TIMEOUT, channel.close(200, "declared".into())).await;
        Ok(())
    }

    fn fulfillment_arguments(&self) -> FieldTable {
        let text = |value: &str| AMQPValue::LongString(value.into());
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongLongInt(DELIVERY_LIMIT),
        );
        arguments.insert(
            "x-dead-letter-exchange".into(),
            text(self.dead_letter_exchange.as_str()),
        );
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments
    }

    async fn declare_exchange(
        &self,
        channel: &Channel,
        name: &ShortString,
        kind: ExchangeKind,
    ) -> Result<(), BrokerError> {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        within(
            DECLARE_TIMEOUT,
            channel.exchange_declare(name.clone(), kind, options, FieldTable::default()),
        )
        .await
    }

    /// Asks first: declaring again with other arguments would be refused. A refusal closes the channel, so each try has
    /// one of its own.
    async fn declare_queue(
        &self,
        connection: &Connection,
        name: &ShortString,
        mut arguments: FieldTable,
    ) -> Result<(), BrokerError> {
        if self.queue_exists(connection, name).await? {
            return Ok(());
        }
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let channel = within(DECLARE_TIMEOUT, connection.create_channel()).await?;
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        within(
            DECLARE_TIMEOUT,
            channel.queue_declare(name.clone(), options, arguments),
        )
        .await?;
        let _ = within(DECLARE_TIMEOUT, channel.close(200, "declared".into())).await;
        Ok(())
    }

    async fn queue_exists(
        &self,
        connection: &Connection,
        name: &ShortString,
    ) -> Result<bool, BrokerError> {
        let channel = within(DECLARE_TIMEOUT, connection.create_channel()).await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let answer = within(
            DECLARE_TIMEOUT,
            channel.queue_declare(name.clone(), passive, FieldTable::default()),
        )
        .await;
        match answer {
            Ok(_) => {
                let _ = within(DECLARE_TIMEOUT, channel.close(200, "asked".into())).await;
                Ok(true)
            }
            Err(_) if connection.status().connected() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn bind(
        &self,
        channel: &Channel,
        queue: &ShortString,
        exchange: &ShortString,
    ) -> Result<(), BrokerError> {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        within(
            DECLARE_TIMEOUT,
            channel.queue_bind(
                queue.clone(),
                exchange.clone(),
                "#".into(),
                options,
                arguments,
            ),
        )
        .await
    }
}
