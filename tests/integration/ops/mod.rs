//! The commands, as processes, under the operators' role.

mod consent;
mod dead_letters;
mod events;
mod installation;
mod output;
mod trigger;

use harness::stripe::{event, event_id, payment_intent, post};
use harness::{RunningGateway, RunningWorker, TestBed};

/// A dead event: its order is unknown.
pub async fn dead_event(bed: &TestBed, gateway: &RunningGateway, event_type: &str) -> String {
    let id = event_id();
    assert_eq!(
        post(
            gateway.address,
            event(&id, event_type, &payment_intent("ord_1"))
        )
        .await
        .status,
        200
    );
    bed.until_state(&id, "dead").await;
    id
}

/// A gateway, and a worker that gives up at once.
pub async fn start(bed: &TestBed) -> (RunningGateway, RunningWorker) {
    tokio::join!(
        RunningGateway::start(bed, &[]),
        RunningWorker::start(bed, &["--max-attempts=1"])
    )
}
