//! A sender that behaves like Stripe: life cycles of payments from a seed, each event delivered at least once and until
//! it is answered with 200, some twice, some late. Remembers how every delivery ended.

mod cycles;
mod load;
mod plan;
mod targets;

pub use cycles::Shape;
pub use load::Load;
pub use plan::{Parcel, Plan};
pub use targets::Targets;
