//! Safeguards of connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use harness::faults::{Operator, Setup, Stage, pause, variable};
use harness::stripe::event_id;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Control;

const HALF: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\n";

/// Half a header on a listener without a timer, and on ours.
pub async fn header_timer() -> Result<Control> {
    let told = (
        "time-out for headers",
        "half a header, then silence for 6 s",
    );
    Control::stage(told, async |safe| {
        if safe {
            return with_the_gateway().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let bare = listener.local_addr()?;
        let serving = tokio::spawn(serve_without_timer(listener));
        let told = still_open(bare).await;
        serving.abort();
        told
    })
    .await
}

async fn serve_without_timer(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = hyper::service::service_fn(|_| async {
            Ok::<_, Infallible>(hyper::Response::new(String::new()))
        });
        let io = hyper_util::rt::TokioIo::new(stream);
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, answer);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

async fn with_the_gateway() -> Result<String> {
    let stage = Stage::ready(Setup {
        workers: 0,
        gateway: vec![variable("GATEWAY_REQUEST_TIMEOUT", "2s")],
        ..Setup::default()
    })
    .await;
    let gateway = stage.gateways.first().context("a gateway")?;
    still_open(gateway.address).await
}

async fn still_open(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(HALF).await?;
    let (began, mut answer) = (Instant::now(), Vec::new());
    let ended = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
    if ended.is_err() {
        return Ok("the connection is still held".to_owned());
    }
    let held = began.elapsed();
    ensure!(
        held > Duration::from_secs(1),
        "it was closed after {held:?}"
    );
    Ok(String::new())
}

const MESSAGES: usize = 200;
const PREFETCH: u16 = 10;

/// Consumes under a memory alarm: on the connection that publishes, and on one of its own.
pub async fn separate(operator: &Operator) -> Result<Control> {
    let told = (
        "connection of its own for acknowledgements",
        "memory alarm for 5 s while a queue is consumed",
    );
    Control::stage(told, async |safe| {
        let queue = format!("control_{}", event_id());
        let left = left_under_alarm(operator, &queue, !safe).await;
        let off = "broker ctl set_vm_memory_high_watermark 0.4";
        operator.run(off).await?;
        let channel = connect().await?.create_channel().await?;
        let purge = channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
        purge.await?;
        Ok(match left? {
            0 => String::new(),
            left => format!("{left} of {MESSAGES} messages stay"),
        })
    })
    .await
}

async fn connect() -> Result<Connection> {
    let properties = ConnectionProperties::default();
    Ok(Connection::connect(&harness::amqp_url(), properties).await?)
}

async fn left_under_alarm(operator: &Operator, queue: &str, shared: bool) -> Result<u32> {
    let (publishing, consuming) = (connect().await?, connect().await?);
    let publisher = publishing.create_channel().await?;
    let consumer = if shared {
        publishing.create_channel().await?
    } else {
        consuming.create_channel().await?
    };
    let (options, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
    publisher
        .queue_declare(queue.into(), options, arguments)
        .await?;
    for _ in 0..MESSAGES {
        publish(&publisher, queue).await?;
    }
    // The first messages are handed over now; nobody looks at them yet.
    consumer
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consume = consumer.basic_consume(queue.into(), "".into(), options, arguments);
    let messages = consume.await?;
    operator
        .run("broker ctl set_vm_memory_high_watermark absolute 1000000")
        .await?;
    // The first publish under the alarm is what blocks the connection.
    publish(&publisher, queue).await?;
    pause(500).await;
    let acknowledged = drain(messages).await;
    ensure!(
        shared || acknowledged == MESSAGES,
        "only {acknowledged} messages came"
    );
    // What the broker did not hear of goes back into the queue.
    operator
        .run("broker ctl close_all_connections control")
        .await?;
    count(&connect().await?.create_channel().await?, queue).await
}

/// Acknowledges whatever comes within 5 s.
async fn drain(mut messages: Consumer) -> usize {
    let mut acknowledged = 0;
    let draining = async {
        while let Some(message) = messages.next().await {
            message?.ack(BasicAckOptions::default()).await?;
            acknowledged += 1;
        }
        anyhow::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), draining).await;
    acknowledged
}

async fn publish(channel: &Channel, queue: &str) -> Result<()> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel
        .basic_publish("".into(), queue.into(), options, b"x", properties)
        .await?;
    Ok(())
}

async fn count(channel: &Channel, queue: &str) -> Result<u32> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let found = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await?;
    Ok(found.message_count())
}
