//! The broker as tests look at it and tamper with it.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use shared::broker::{BrokerSettings, Message, Topology};

use crate::bed::amqp_url;
use crate::{TestBed, eventually};

/// A connection of a test's own.
pub struct Broker {
    connection: Connection,
    /// Names of this test's exchanges and queues.
    pub topology: Topology,
}

fn settings(prefix: &str) -> BrokerSettings {
    let uri = amqp_url().parse().expect("AMQP_URL is an AMQP URI");
    BrokerSettings::new(uri, prefix.to_owned())
}

impl Broker {
    /// Connects and declares the topology.
    pub async fn connect(bed: &TestBed) -> Self {
        let settings = settings(&bed.prefix());
        let connection = settings
            .connect("test")
            .await
            .expect("the broker of AMQP_URL answers");
        let topology = settings.topology();
        topology.declare(&connection).await.unwrap();
        Self {
            connection,
            topology,
        }
    }

    async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// Puts bytes straight into the work queue.
    pub async fn publish_raw(&self, body: &[u8]) {
        let channel = self.channel().await;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        let (options, properties) = (
            BasicPublishOptions::default(),
            lapin::BasicProperties::default(),
        );
        let queue = self.topology.fulfillment.clone();
        channel
            .basic_publish("".into(), queue, options, body, properties)
            .await
            .unwrap()
            .await
            .unwrap();
    }

    /// Puts an event's message straight into the work queue.
    pub async fn publish(&self, event_id: &str) {
        let message = Message {
            event_id: event_id.to_owned(),
            event_type: "x".to_owned(),
            traceparent: None,
        };
        self.publish_raw(&message.body()).await;
    }

    /// Takes a message out of the work queue, and acknowledges it.
    pub async fn take(&self) -> Option<BasicGetMessage> {
        let channel = self.channel().await;
        let queue = self.topology.fulfillment.clone();
        let message = channel
            .basic_get(queue, BasicGetOptions::default())
            .await
            .unwrap()?;
        message.ack(BasicAckOptions::default()).await.unwrap();
        Some(message)
    }

    /// Takes the only message of the work queue and loses the connection, until the broker puts it aside.
    pub async fn crash_until_put_aside(&self) -> u32 {
        let mut crashes = 0;
        eventually("the message is put aside", async || {
            let channel = self.channel().await;
            let queue = self.topology.fulfillment.clone();
            let taken = channel
                .basic_get(queue, BasicGetOptions::default())
                .await
                .unwrap();
            crashes += u32::from(taken.is_some());
            channel.close(200, "crash".into()).await.unwrap();
            (self.ready_in(&self.topology.dead).await == 1).then_some(())
        })
        .await;
        crashes
    }

    /// Messages in the work queue that no consumer has.
    pub async fn ready(&self) -> u32 {
        self.ready_in(&self.topology.fulfillment).await
    }

    /// Messages in either queue that no consumer has.
    pub async fn messages(&self) -> i64 {
        let dead = self.ready_in(&self.topology.dead).await;
        i64::from(self.ready().await) + i64::from(dead)
    }

    async fn ready_in(&self, queue: &ShortString) -> u32 {
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        self.channel()
            .await
            .queue_declare(queue.clone(), passive, FieldTable::default())
            .await
            .unwrap()
            .message_count()
    }

    /// Empties the work queue.
    pub async fn purge(&self) {
        let queue = self.topology.fulfillment.clone();
        self.channel()
            .await
            .queue_purge(queue, QueuePurgeOptions::default())
            .await
            .unwrap();
    }

    /// Deletes the exchange that events enter.
    pub async fn delete_exchange(&self) {
        let exchange = self.topology.events.clone();
        self.channel()
            .await
            .exchange_delete(exchange, ExchangeDeleteOptions::default())
            .await
            .unwrap();
    }

    /// Takes the work queue off the exchange that events enter.
    pub async fn unbind_queue(&self) {
        let (queue, exchange) = (
            self.topology.fulfillment.clone(),
            self.topology.events.clone(),
        );
        let channel = self.channel().await;
        let unbind = channel.queue_unbind(queue, exchange, "#".into(), FieldTable::default());
        unbind.await.unwrap();
    }

    /// Deletes the work queue.
    pub async fn delete_queue(&self) {
        let queue = self.topology.fulfillment.clone();
        self.channel()
            .await
            .queue_delete(queue, QueueDeleteOptions::default())
            .await
            .unwrap();
    }
}

/// Deletes the exchanges and queues of a prefix, as far as they are there.
pub async fn delete_topology(prefix: &str) {
    let settings = settings(prefix);
    let (Ok(connection), topology) = (settings.connect("test").await, settings.topology()) else {
        return;
    };
    for queue in [topology.fulfillment, topology.dead] {
        if let Ok(channel) = connection.create_channel().await {
            let _ = channel
                .queue_delete(queue, QueueDeleteOptions::default())
                .await;
        }
    }
    for exchange in [topology.events, topology.dead_letter_exchange] {
        if let Ok(channel) = connection.create_channel().await {
            let _ = channel
                .exchange_delete(exchange, ExchangeDeleteOptions::default())
                .await;
        }
    }
    let _ = connection.close(200, "bye".into()).await;
}
