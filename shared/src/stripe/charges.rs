//! Stripe's list of charges (docs.stripe.com/api/charges/list): newest first. What was really taken and given back.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::api::{ApiError, BREATH, MAX_LISTED, Page, StripeApi};

/// A charge, as far as its money goes. Amounts are in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Charge {
    /// `ch_…` or `py_…`.
    pub id: String,
    /// The PaymentIntent that it belongs to; none of what was charged without one.
    pub payment_intent: Option<String>,
    /// What was taken: none of a charge that failed or was not captured yet.
    pub amount_captured: i64,
    /// What was given back since, of it.
    pub amount_refunded: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// What the shop put there: of a PaymentIntent's charge, what was the intent's when it was charged.
    #[serde(default)]
    pub metadata: Value,
}

impl Charge {
    /// What payments are known by: the PaymentIntent, or the charge where there is none.
    pub fn reference(&self) -> &str {
        self.payment_intent.as_deref().unwrap_or(&self.id)
    }
}

impl StripeApi {
    /// Gives every charge made from one time until before another one, newest first. False where there are more than
    /// `most`: then not all were given.
    pub async fn charges(
        &self,
        (from, to): (Timestamp, Timestamp),
        most: usize,
        mut take: impl FnMut(Charge),
    ) -> Result<bool, ApiError> {
        let (mut count, mut last) = (0, None::<String>);
        while count <= most {
            let parameters = parameters(from, to, last.as_deref());
            let page: Page<Charge> = self.list_patiently("charges", &parameters).await?;
            let is_last = !page.has_more || page.data.is_empty();
            count += page.data.len();
            last = page.data.last().map(|charge| charge.id.clone());
            page.data.into_iter().for_each(&mut take);
            if is_last {
                return Ok(count <= most);
            }
            tokio::time::sleep(BREATH).await;
        }
        Ok(false)
    }

    /// Asks once whether charges may be listed.
    pub async fn may_list_charges(&self) -> Result<(), ApiError> {
        let now = Timestamp::now();
        let parameters = parameters(now, now, None);
        let asked = self.list::<Charge>("charges", &parameters).await;
        asked.map(drop)
    }
}

fn parameters(from: Timestamp, to: Timestamp, after: Option<&str>) -> String {
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    parameters
        .append_pair("limit", MAX_LISTED)
        .append_pair("created[gte]", &from.as_second().to_string())
        .append_pair("created[lt]", &to.as_second().to_string());
    if let Some(after) = after {
        parameters.append_pair("starting_after", after);
    }
    parameters.finish()
}
