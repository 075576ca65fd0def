//! The fault table: a stage with the real programs as processes, what is done to them, and what came of it.

pub mod crash;
mod row;
mod snapshot;
mod stage;

pub use row::Row;
pub use stage::{Setup, Stage, UNREADY, variable};

/// How many mails one worker has under way at a time: so many may go out again when it is killed.
pub const MAILS_UNDER_WAY: usize = 8;
