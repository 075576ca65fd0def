//! What more than one of Tollgate's programs needs: settings, start and stop, the database, the broker, signatures,
//! Stripe's list of events, and the order domain. It knows nothing of HTTP routes, handlers or commands.

pub mod admin;
pub mod backoff;
pub mod broker;
pub mod database;
pub mod envelope;
pub mod failpoint;
pub mod health;
pub mod http;
pub mod https;
pub mod json;
pub mod lifecycle;
pub mod migrations;
pub mod money;
pub mod orders;
pub mod reconcile;
pub mod references;
pub mod replay;
pub mod settings;
pub mod signature;
pub mod stripe;
pub mod telemetry;
pub mod trace_context;
