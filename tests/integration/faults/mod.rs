//! Dependencies cut off, frozen, emptied; workers killed. Nothing is lost, nothing is done twice.

mod broker;
mod gateway;
mod worker;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::eventually;
use harness::stripe::{event, get, payment_intent};

fn amqp_url() -> String {
    std::env::var("AMQP_URL").unwrap()
}

fn body_of(id: &str) -> String {
    event(id, "payment_intent.succeeded", &payment_intent("ord_1"))
}

async fn until_readyz(address: SocketAddr, status: u16, within: Duration) {
    let started = Instant::now();
    eventually(&format!("readyz is {status}"), async || {
        (get(address, "/readyz").await.status == status).then_some(())
    })
    .await;
    assert!(
        started.elapsed() < within,
        "readyz took {:?} to become {status}",
        started.elapsed()
    );
}
