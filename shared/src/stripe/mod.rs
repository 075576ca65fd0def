//! Stripe's API, as far as reconciling needs it: which key, and the list of events.

mod events;
mod key;
mod settings;

pub use events::{ApiError, EventsApi, Page, Query, Retry};
pub use key::{ApiKey, KeyError};
pub use settings::{StripeArgs, StripeSettings};
