//! SQL of the console's pages.

pub mod audit;
pub mod effects;
pub mod groups;
pub mod overview;
pub mod server;
