//! `customer.subscription.*`. Shapes: docs.stripe.com/api/subscriptions/object.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{Failure, Handler, Outcome};
use crate::event::{Event, link};
use crate::store::mirrors::{News, Subscription, mirror_subscription};

#[derive(Deserialize)]
struct SubscriptionObject {
    id: String,
    status: String,
    #[serde(default)]
    customer: Value,
    /// Moved to the items in 2025.
    #[serde(default)]
    current_period_end: Option<i64>,
    #[serde(default)]
    cancel_at_period_end: Option<bool>,
    #[serde(default)]
    items: Value,
}

impl SubscriptionObject {
    fn period_end(&self) -> Option<Timestamp> {
        let of_items = || {
            let items = self.items.get("data")?.as_array()?;
            items
                .iter()
                .filter_map(|item| item.get("current_period_end")?.as_i64())
                .max()
        };
        Timestamp::from_second(self.current_period_end.or_else(of_items)?).ok()
    }

    /// Among the events of one second the one that ends wins, then the one that goes on.
    fn rank(&self, event_type: &str) -> i32 {
        match self.status.as_str() {
            _ if event_type == "customer.subscription.deleted" => 4,
            "canceled" | "incomplete_expired" => 3,
            "incomplete" => 0,
            _ if event_type == "customer.subscription.created" => 1,
            _ => 2,
        }
    }
}

/// The subscription changed: mirror it.
pub struct Changed;

impl Handler for Changed {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let object: SubscriptionObject = event.object()?;
            let rank = object.rank(&event.event_type);
            let subscription = Subscription {
                customer: link(&object.customer),
                current_period_end: object.period_end(),
                cancel_at_period_end: object.cancel_at_period_end.unwrap_or(false),
                id: object.id,
                status: object.status,
            };
            let news = News {
                at: event.created_at,
                rank,
                event_id: &event.id,
            };
            mirror_subscription(tx, &subscription, &news).await?;
            Ok(Outcome::Processed)
        }
        .boxed()
    }
}
