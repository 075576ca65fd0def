//! The fault table: a stage with the real programs as processes, what is done to them, and what came of it.

mod broker;
mod catalogue;
pub mod crash;
mod database;
mod fault;
mod forgeries;
mod network;
mod operator;
mod probe;
mod processes;
mod replays;
mod retention;
mod row;
mod scene;
mod snapshot;
mod stage;
mod storms;
mod strike;
mod stripe;
mod upgrade;
mod watch;

pub use catalogue::{FAULTS, LONG_FAULTS};
pub use fault::{Act, Fault, Noticed};
pub use operator::Operator;
pub use row::{LONGEST_RECOVERY_MS, Row};
pub use scene::{Scene, pause};
pub use stage::{Setup, Stage, UNREADY, variable};
pub use strike::{staged, words};

/// How many mails one worker has under way at a time: so many may go out again when it is killed.
pub const MAILS_UNDER_WAY: usize = 8;
