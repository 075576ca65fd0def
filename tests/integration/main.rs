//! Tollgate as its users meet it: real PostgreSQL, RabbitMQ, HTTP and SMTP, both services, the real commands.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod alerting;
mod architecture;
mod bad_input;
mod config;
mod console;
mod crashes;
mod fault_table;
mod faults;
mod fulfillment;
mod gateway;
mod mail;
mod migrations;
mod monitoring;
mod ops;
mod permutations;
mod processes;
mod reconcile;
mod rejections;
mod replays;
mod retention;
mod roles;
mod signatures;
mod subscriptions;
mod telemetry;
mod worker;
