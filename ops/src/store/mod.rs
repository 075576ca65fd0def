//! SQL of the commands.

pub mod alerts;
pub mod audit;
pub mod catalogue;
pub mod conditions;
pub mod console;
pub mod dead_letters;
pub mod events;
pub mod reconciliations;
pub mod rejections;
pub mod replays;
pub mod search;
