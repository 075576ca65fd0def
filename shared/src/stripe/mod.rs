//! Stripe's API, as far as it is read: which key, the list of events, the list of charges.

mod api;
mod charges;
mod events;
mod key;
mod settings;

pub use api::{ApiError, BREATH, Page, Retry, StripeApi};
pub use charges::Charge;
pub use events::Query;
pub use key::{ApiKey, KeyError};
pub use settings::{StripeArgs, StripeSettings};
