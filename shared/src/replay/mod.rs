//! Putting dead events back to work: one at once by a command, or many at a rate by the workers.

pub mod store;
