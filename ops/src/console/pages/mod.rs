//! One file per page: what it shows, and what may be changed on it.

pub mod audit;
pub mod event;
pub mod events;
pub mod group;
pub mod groups;
pub mod overview;
pub mod plan;
pub mod problem;
pub mod reconcile;
pub mod rejections;
pub mod replay;
pub mod replays;
pub mod settings;
