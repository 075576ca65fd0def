//! The harness of the integration tests: a database and broker names per test, the real services from their libraries
//! on port 0 or as processes, a client that signs like Stripe, Stripe's list of events, a mail server, a proxy that breaks connections, and the
//! stage, the load and the checker of the fault table.

#![expect(
    clippy::unwrap_used,
    reason = "a harness that cannot go on fails its test"
)]

mod bed;
pub mod binaries;
pub mod broker;
pub mod checker;
pub mod console;
mod eventually;
pub mod faults;
pub mod properties;
mod proxy;
pub mod raw;
mod services;
pub mod simulator;
pub mod smtp;
pub mod stripe;
pub mod stripe_api;
pub mod terminal;

pub use bed::{TestBed, amqp_url};
pub use eventually::eventually;
pub use proxy::Proxy;
pub use services::{RunningGateway, RunningWorker, SEAT_TIMES};
