//! The worker's SQL, but for the order domain's.

pub mod alert_rules;
pub mod alerting;
pub mod dead_letters;
pub mod emails;
pub mod events;
pub mod mirrors;
pub mod outbox;
pub mod replays;
pub mod retention;
pub mod summary;
