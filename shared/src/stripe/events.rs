//! Stripe's list of events (docs.stripe.com/api/events/list): newest first, 30 days back. No `Stripe-Version` is sent: an
//! event is shown as it was made, whatever the request says.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::api::{ApiError, MAX_LISTED, Page, StripeApi};

/// Which events.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Created then or later.
    pub since: Timestamp,
    /// Created then or earlier.
    pub until: Timestamp,
    /// Only those that some endpoint has not answered with 2xx, be it that they are still on their way.
    pub undelivered: bool,
    /// Only those behind this one, which are older.
    pub after: Option<&'a str>,
}

impl StripeApi {
    /// Asks once for a page of events, each as its exact JSON text.
    pub async fn events(&self, query: &Query<'_>) -> Result<Page<Box<RawValue>>, ApiError> {
        self.list("events", &parameters(query)).await
    }

    /// The same until Stripe gives it, as patiently as Stripe asks for.
    pub async fn events_patiently(
        &self,
        query: &Query<'_>,
    ) -> Result<Page<Box<RawValue>>, ApiError> {
        self.list_patiently("events", &parameters(query)).await
    }
}

fn parameters(query: &Query<'_>) -> String {
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    parameters
        .append_pair("limit", MAX_LISTED)
        .append_pair("created[gte]", &query.since.as_second().to_string())
        .append_pair("created[lte]", &query.until.as_second().to_string());
    if query.undelivered {
        parameters.append_pair("delivery_success", "false");
    }
    if let Some(after) = query.after {
        parameters.append_pair("starting_after", after);
    }
    parameters.finish()
}
