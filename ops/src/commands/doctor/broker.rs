//! What the doctor finds at the broker.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use shared::broker::{BrokerSettings, within};

use super::{Args, Finding, TIMEOUT, failed, ok, warning};

pub async fn check_broker(args: &Args) -> Vec<Finding> {
    let mend =
        "set AMQP_URL to a RabbitMQ that runs, with a user who may configure, write and read";
    let Some(uri) = args
        .amqp_url
        .as_deref()
        .map(str::trim)
        .filter(|url| !url.is_empty())
    else {
        return vec![failed("broker", "AMQP_URL is not set", mend)];
    };
    let Ok(uri) = uri.parse() else {
        return vec![failed("broker", "AMQP_URL is not an AMQP URI", mend)];
    };
    let settings = BrokerSettings::new(uri, args.amqp_prefix.clone());
    let connection = match settings.connect("tollgate-doctor").await {
        Ok(connection) => connection,
        Err(error) => return vec![failed("broker", error.to_string(), mend)],
    };
    let mut findings = vec![ok("broker", "connected")];
    let topology = settings.topology();
    for (check, queue) in [
        ("work queue", topology.fulfillment),
        ("dead-letter queue", topology.dead),
    ] {
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let asked = async {
            let channel = connection.create_channel().await?;
            channel
                .queue_declare(queue.clone(), passive, FieldTable::default())
                .await
        };
        findings.push(match within(TIMEOUT, asked).await {
            Ok(found) => {
                let (messages, consumers) = (found.message_count(), found.consumer_count());
                ok(
                    check,
                    format!("{queue}: {messages} messages ready, {consumers} consumers"),
                )
            }
            Err(_) => warning(
                check,
                format!("{queue} does not exist"),
                "start a gateway or a worker: they declare it",
            ),
        });
    }
    let _ = within(TIMEOUT, connection.close(200, "bye".into())).await;
    findings
}
